"""What a training set holds, before it is trained on: counts, the split, what to be wary of, and a sheet of tiles."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.data.tileset import TileSet

MIN_TILES = 20
"""A class with fewer is warned of."""
GLASS_LEVEL, GLASS_SHARE = 220, 0.8  # of a pixel's darkest channel; of a tile's pixels
LOOKED_AT = 400  # tiles that are read for the warnings
NAMED = 5  # files named in a warning
THUMBNAIL, GAP, PER_CLASS = 64, 4, 6


def summarise(
    tiles: TileSet, kept: TileSet, held: TileSet | None, validated_on: str = "", why: str = ""
) -> dict[str, Any]:
    """Counts, split and warnings as people read them.

    Args:
        tiles: All tiles.
        kept: Those that are trained on.
        held: Those that choose the best epoch.
        validated_on: What chooses it instead, if anything does.
        why: Why nothing is held out, where nothing is.
    """
    per_slide = Counter(tiles.sources)
    if held is not None:
        by = "region" if len(per_slide) == 1 else "tile" if _name_no_slide(tiles) else "slide"
        split = f"{len(kept)} tiles to train on, {len(held)} of other {by}s to choose the best epoch"
    elif validated_on:
        split = f"{len(tiles)} tiles to train on; {validated_on} choose the best epoch"
    else:
        split = f"{len(tiles)} tiles to train on; nothing is held out, so the last epoch is kept, not the best: {why}"
    return {
        "tiles": len(tiles),
        "tiles per class": tiles.tiles_per_class,
        "tiles per slide": dict(per_slide.most_common()),
        "tile edge": tiles.edge,
        "split": split,
        "warnings": warnings(tiles),
    }


def warnings(tiles: TileSet) -> list[str]:
    """What to be wary of, with numbers and names.

    Of a large set 400 tiles, evenly spread over the classes, are looked at.
    """
    said = [
        f"{name}: only {count} tile{'s' * (count > 1)}; wanted {MIN_TILES} or more"
        for name, count in tiles.tiles_per_class.items()
        if count < MIN_TILES
    ]
    looked = range(len(tiles)) if len(tiles) <= LOOKED_AT else tiles.spread(LOOKED_AT)
    glass, unreadable = [], []
    for index in looked:
        try:
            image = tiles.read(index)
        except DataError as error:
            unreadable.append(str(error))
            continue
        if (image.min(-1) > GLASS_LEVEL).mean() > GLASS_SHARE and tiles.labels[index].any():
            glass.append(tiles.name(index))
    said += unreadable[:NAMED]
    if len(unreadable) > NAMED:
        said.append(f"{len(unreadable) - NAMED} more files are not readable")
    if glass:
        of = f"{len(glass)} of {len(looked)} tiles" + ("" if len(looked) == len(tiles) else " looked at")
        more = ", …" if len(glass) > NAMED else ""
        said.append(f"{of} are mostly glass, but carry a tissue: {', '.join(glass[:NAMED])}{more}")
    if _name_no_slide(tiles):
        said.append(
            f"the names of {len(tiles)} tiles say no slide or patient, so that neighbouring tiles may be split between"
            " training and validation; say how they name it, or give a table with a column source"
        )
    multiple = int((tiles.labels.sum(1) > 1).sum())
    if multiple == len(tiles):
        said.append("every tile holds several tissues; some tiles with one alone would tell them apart")
    return said


def _name_no_slide(tiles: TileSet) -> bool:
    """Whether every tile comes from a slide of its own, as far as is known."""
    return len(set(tiles.sources)) == len(tiles) > MIN_TILES


def tile_sheet(tiles: TileSet, before: TileSet | None = None) -> Image.Image:
    """A row of tiles per class; with `before`, a row of the same tiles as they came above each.

    A tile that cannot be read is grey; `warnings` names it.
    """
    rows: list[tuple[str, tuple[int, int, int], list[NDArray[np.uint8]]]] = []
    for c, tissue in enumerate(tiles.classes):
        own = np.flatnonzero(tiles.labels[:, c] > 0)
        chosen = own[np.unique(np.linspace(0, len(own) - 1, min(len(own), PER_CLASS)).astype(int))]
        if before is not None:
            rows.append((f"{tissue.name}, as it came", tissue.rgb, [_read_or_grey(before, i) for i in chosen]))
        rows.append((tissue.name, tissue.rgb, [_read_or_grey(tiles, i) for i in chosen]))
    return sheet(rows)


def _read_or_grey(tiles: TileSet, index: int) -> NDArray[np.uint8]:
    try:
        return tiles.read(int(index))
    except DataError:
        return np.full((THUMBNAIL, THUMBNAIL, 3), 128, np.uint8)


def sheet(rows: Sequence[tuple[str, tuple[int, int, int], Sequence[NDArray[np.uint8]]]]) -> Image.Image:
    """Rows of images (H, W, 3), each with a title above it in its colour; on dark ground."""
    line = 14
    width = max(len(images) for _, _, images in rows) * (THUMBNAIL + GAP) + GAP
    canvas = Image.new("RGB", (width, len(rows) * (THUMBNAIL + line + GAP) + GAP), (38, 41, 48))
    draw = ImageDraw.Draw(canvas)
    for number, (title, color, images) in enumerate(rows):
        y = GAP + number * (THUMBNAIL + line + GAP)
        draw.rectangle((GAP, y + 2, GAP + 8, y + 10), fill=color)
        draw.text((GAP + 13, y - 1), title, fill=(220, 222, 226))
        for column, image in enumerate(images):
            thumbnail = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            canvas.paste(thumbnail, (GAP + column * (THUMBNAIL + GAP), y + line))
    return canvas


def save_sheet(image: Image.Image, path: Path) -> Path:
    """Write a sheet as PNG, whole or not at all.

    Raises:
        ExportError: the place cannot be written.
    """
    with atomic_write(path, overwrite=True) as partial:
        image.save(partial, "PNG")
    return path
