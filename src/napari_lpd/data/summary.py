"""Summary of a training set before training: counts, the split, warnings, and a sheet of tiles."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import atomic_write, mark_of
from napari_lpd.core.pictures.fonts import draw_text
from napari_lpd.data.region_tiles import GLASS_LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.data.tileset import TileSet

MIN_TILES = 20
"""A class with fewer tiles causes a warning."""
GLASS_SHARE = 0.8  # of a tile's pixels
LOOKED_AT = 400  # tiles that are read for the warnings
NAMED = 5  # files named in a warning
TILE_SHEET = mark_of("tile sheet")
THUMBNAIL, GAP, PER_CLASS = 64, 4, 6


def summarise(
    tiles: TileSet, training: TileSet, held_out: TileSet | None, validated_on: str = "", cause: str = ""
) -> dict[str, Any]:
    """Summarise counts, split and warnings for people.

    Args:
        tiles: All tiles.
        training: Tiles to train on.
        held_out: Tiles that select the best epoch.
        validated_on: Other data that select it, if any.
        cause: Why no tiles are held out, if none are.
    """
    per_slide = Counter(tiles.sources)
    if held_out is not None:
        by = "region" if len(per_slide) == 1 else "tile" if _name_no_slide(tiles) else "slide"
        split = f"{len(training)} tiles to train on, {len(held_out)} of other {by}s to choose the best epoch"
    elif validated_on:
        split = f"{len(tiles)} tiles to train on; {validated_on} choose the best epoch"
    else:
        split = f"{len(tiles)} tiles to train on; nothing is held out, so the last epoch is kept, not the best: {cause}"
    if tiles.painted:
        split += f"; {len(tiles.painted)} of all have strokes"
    if tiles.shares:
        split += f"; {len(tiles.shares)} of all have shares"
    return {
        "tiles": len(tiles),
        "tiles per class": tiles.tiles_per_class,
        "tiles per slide": dict(per_slide.most_common()),
        "tile edge": tiles.edge,
        "split": split,
        "warnings": warnings(tiles),
    }


def warnings(tiles: TileSet) -> list[str]:
    """List doubts about the tiles, with numbers and names.

    Of a large set 400 tiles, evenly spread over the classes, are read.
    """
    messages = [
        *tiles.doubts,
        *(
            f"{name}: only {count} tile{'s' * (count > 1)}; wanted {MIN_TILES} or more"
            for name, count in tiles.tiles_per_class.items()
            if count < MIN_TILES
        ),
    ]
    indices = range(len(tiles)) if len(tiles) <= LOOKED_AT else tiles.spread(LOOKED_AT)
    glass, unreadable = [], []
    for index in indices:
        try:
            image = tiles.read(index)
        except DataError as error:
            unreadable.append(str(error))
            continue
        if (image.min(-1) > GLASS_LEVEL).mean() > GLASS_SHARE and tiles.labels[index].any():
            glass.append(tiles.name(index))
    messages += unreadable[:NAMED]
    if len(unreadable) > NAMED:
        messages.append(f"{len(unreadable) - NAMED} more files are not readable")
    if glass:
        fraction = f"{len(glass)} of {len(indices)} tiles" + ("" if len(indices) == len(tiles) else " examined")
        more = ", …" if len(glass) > NAMED else ""
        messages.append(f"{fraction} are mostly glass, but carry a tissue: {', '.join(glass[:NAMED])}{more}")
    if _name_no_slide(tiles):
        messages.append(
            f"the names of {len(tiles)} tiles contain no slide or patient, so neighbouring tiles may be split between"
            " training and validation; give a pattern that finds it, or a table with a column source"
        )
    multiple = int((tiles.labels.sum(1) > 1).sum())
    if multiple == len(tiles):
        messages.append("every tile holds several tissues; add some tiles with one tissue alone, to tell them apart")
    return messages


def too_few_to_cluster(tiles: TileSet, clusters: int, white_limit: float) -> list[str]:
    """List the classes that too few tiles hold alone for a clustered model, with what to do.

    Args:
        tiles: Tiles to train on.
        clusters: Prototypes per class.
        white_limit: Share of a tile's pixels from which it counts as white, and is left out.
    """
    messages = []
    for c, tissue in enumerate(tiles.classes):
        single = np.flatnonzero(tiles.single & (tiles.labels[:, c] > 0))
        usable = (index for index in single if not _is_white(tiles, int(index), white_limit))
        count = len(list(islice(usable, clusters)))
        if count < clusters:
            found = f"only {count} tile{'s' * (count > 1)}" if count else "no tile"
            messages.append(
                f"{tissue.name} is {'seldom' if count else 'never'} alone: {found} without another tissue, and"
                f" clustered prototypes (PBIP), those of the counterpart, too, need {clusters}; outline some"
                f" {tissue.name} alone, or use smaller tiles"
            )
    return messages


def _is_white(tiles: TileSet, index: int, limit: float) -> bool:
    try:
        return bool((tiles.read(index).min(-1) > GLASS_LEVEL).mean() > limit)
    except DataError:  # `warnings` names it
        return True


def _name_no_slide(tiles: TileSet) -> bool:
    """Return whether every tile seems to come from a slide of its own, which means that names tell no slide."""
    return len(set(tiles.sources)) == len(tiles) > MIN_TILES


def tile_sheet(tiles: TileSet, before: TileSet | None = None) -> Image.Image:
    """Draw a row of tiles per class; with `before`, a row of the same tiles before matching above each.

    A tile that cannot be read is grey; `warnings` names it.
    """
    rows: list[tuple[str, tuple[int, int, int], list[NDArray[np.uint8]]]] = []
    for c, tissue in enumerate(tiles.classes):
        indices = np.flatnonzero(tiles.labels[:, c] > 0)
        chosen = indices[np.unique(np.linspace(0, len(indices) - 1, min(len(indices), PER_CLASS)).astype(int))]
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
    """Draw rows of images (H, W, 3) on dark ground, each below a title with its colour."""
    line = 14
    width = max(len(images) for _, _, images in rows) * (THUMBNAIL + GAP) + GAP
    canvas = Image.new("RGB", (width, len(rows) * (THUMBNAIL + line + GAP) + GAP), (38, 41, 48))
    draw = ImageDraw.Draw(canvas)
    for number, (title, color, images) in enumerate(rows):
        y = GAP + number * (THUMBNAIL + line + GAP)
        draw.rectangle((GAP, y + 2, GAP + 8, y + 10), fill=color)
        draw_text(draw, (GAP + 13, y - 1), title, (220, 222, 226), 10)
        for column, image in enumerate(images):
            thumbnail = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            canvas.paste(thumbnail, (GAP + column * (THUMBNAIL + GAP), y + line))
    return canvas


def save_sheet(image: Image.Image, path: Path) -> Path:
    """Write a sheet as PNG atomically.

    Raises:
        ExportError: the file cannot be written.
    """
    about = PngInfo()
    about.add_text("Software", TILE_SHEET)
    with atomic_write(path, mark=TILE_SHEET) as partial:
        image.save(partial, "PNG", pnginfo=about)
    return path
