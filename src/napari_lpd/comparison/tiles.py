"""Tiles to compare models on: images with or without masks, or the tissue of a slide."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.errors import DataError
from napari_lpd.data.images import image_files, masked_images, read_image, read_mask, sources_of
from napari_lpd.models.card import target_stain
from napari_lpd.slides.stain import matching
from napari_lpd.slides.tissue import find_tissue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.slides.slide import Slide

TISSUE_SHARE = 0.5  # of a slide's tile that must be tissue


class Tile(NamedTuple):
    """A tile that is read when it is needed.

    Attributes:
        name: Of the tile.
        source: Its slide or patient.
        read: Gives (H, W, 3) uint8 RGB at the models' resolution.
        read_mask: Gives (H, W) uint8, 0..C-1 class, more: none; None where there is no truth.
        origin: (y, x) of the first pixel, in pixels at that resolution.
        file: The file it is, where it is one.
        slide: Name of the slide that it was cut from, where it was.
        fingerprint: That slide's.
    """

    name: str
    source: str
    read: Callable[[], NDArray[np.uint8]]
    read_mask: Callable[[], NDArray[np.uint8]] | None
    origin: tuple[int, int] = (0, 0)
    file: Path | None = None
    slide: str = ""
    fingerprint: str = ""


def tiles_of_folder(folder: Path, classes: Sequence[TissueClass], source: str = "") -> list[Tile]:
    """List the images of a folder: ``img`` with ``mask``; where there is no ``mask``, ``img``, or the folder's own.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from napari_lpd import tiles_of_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (128, 128)).save(Path(folder, "P1+3.png"))
        ...     [(tile.name, tile.source) for tile in tiles_of_folder(Path(folder), ())]
        [('P1+3.png', 'P1')]

    Args:
        folder: The folder.
        classes: Of the masks.
        source: How a name gives its slide or patient (see `images.source_of`).

    Raises:
        DataError: no images, or an image or mask without a partner.
    """
    if (folder / "mask").is_dir():
        return [
            Tile(
                item.image.name,
                item.source,
                partial(read_image, item.image),
                partial(read_mask, item.mask, classes),
                file=item.image,
            )
            for item in masked_images(folder, source)
        ]
    files = image_files(folder / "img" if (folder / "img").is_dir() else folder)
    sources = sources_of([path.stem for path in files], source)
    return [Tile(p.name, s, partial(read_image, p), None, file=p) for p, s in zip(files, sources, strict=True)]


def tiles_of_slide(slide: Slide, mpp: float, edge: int, count: int) -> list[Tile]:
    """List up to `count` tiles of `edge` pixels at `mpp`, spread evenly over the slide's tissue.

    Examples:
        >>> from napari_lpd import open_slide, samples, tiles_of_slide
        >>> with open_slide(samples.skin_slide_path()) as slide:
        ...     [tile.read().shape for tile in tiles_of_slide(slide, mpp=1.0, edge=128, count=2)]
        [(128, 128, 3), (128, 128, 3)]

    Raises:
        SlideError: no resolution.
        DataError: no tile is tissue.
    """
    tissue = find_tissue(slide)
    shape = (edge, edge)
    height, width = slide.shape_at(mpp)
    places = product(range(0, height, edge), range(0, width, edge))
    origins = [place for place in places if tissue.at(place, shape, mpp).mean() >= TISSUE_SHARE]
    if not origins:
        raise DataError(f"{slide.name}: no tile of {edge} pixels at {mpp:g} µm per pixel is at least half tissue")
    return [
        Tile(
            f"{slide.name} ({y}, {x})",
            slide.name,
            partial(slide.read, (y, x), shape, mpp),
            None,
            (y, x),
            slide=slide.name,
            fingerprint=slide.fingerprint,
        )
        for y, x in (origins[i] for i in spread(len(origins), count))
    ]


def tiles_of_set(tiles: TileSet) -> list[Tile]:
    """Training tiles, as the set gives them."""
    own_files = len(tiles.files) == len(tiles) and not tiles.origins
    found = []
    for i, source in enumerate(tiles.sources):
        tile = Tile(tiles.name(i), source, partial(tiles.read, i), None, file=tiles.files[i] if own_files else None)
        if tiles.origins:
            slide, y, x, fingerprint = tiles.origins[i]
            name = f"{slide} ({y}, {x})"
            tile = tile._replace(name=name, origin=(y, x), slide=slide, fingerprint=fingerprint)
        found.append(tile)
    return found


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Up to `count` of the numbers 0..total - 1, evenly spread; 0: all."""
    if not count or count >= total:
        return np.arange(total)
    return np.round(np.linspace(0, total - 1, count)).astype(np.int64)


def images_for(model: LoadedModel, tiles: Sequence[Tile]) -> Callable[[int], NDArray[np.uint8]]:
    """Return what reads tile i as a model is to see it: with its slide's colours matched if it was trained so."""

    def read(index: int) -> NDArray[np.uint8]:
        return tiles[index].read()

    wanted = target_stain(model.card)
    return read if wanted is None else matching(read, [tile.source for tile in tiles], wanted)


def as_seen_by(model: LoadedModel, training: TileSet) -> TileSet:
    """Training tiles as a model saw them."""
    wanted = target_stain(model.card)
    return training if wanted is None else training.with_colours(wanted)
