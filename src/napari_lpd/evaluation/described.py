"""What a folder of images with masks says of itself, its classes and its resolution, compared with a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from napari_lpd.core.classes import CLASSES, read_classes
from napari_lpd.core.errors import DataError
from napari_lpd.core.reading import read_json
from napari_lpd.data.images import shows_colours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.data.images import MaskedImage
    from napari_lpd.models.card import Card

CLASS_LIST = "classes.json"  # in the folder, or in the one around it
TOLERANCE = 0.1  # share by which two resolutions may differ


class Description(NamedTuple):
    """Names of the classes in the order of the masks' numbers, µm per pixel, and where they stand; None: not said."""

    names: tuple[str, ...] | None
    mpp: float | None
    source: str


def description_of(folder: Path, classes: str | None = None, mpp: float | None = None) -> Description:
    """Return what is said of a folder's classes and resolution: by the user, else by a ``classes.json`` there.

    Args:
        folder: Folder with img and mask.
        classes: bcss, luad, or a file with names; None: as the folder says.
        mpp: µm per pixel; None: as the folder says.

    Raises:
        DataError: a class list cannot be read.
    """
    if classes in CLASSES:
        return Description(tuple(tissue.name for tissue in CLASSES[classes]), mpp, classes)
    beside = (folder / CLASS_LIST, folder.absolute().parent / CLASS_LIST)
    path = Path(classes) if classes else next((path for path in beside if path.is_file()), None)
    if path is None:
        return Description(None, mpp, str(folder))
    said = read_json(path, DataError, "a class list", dict).get("mpp")
    if mpp is None and isinstance(said, int | float) and said > 0:
        mpp = float(said)
    return Description(tuple(tissue.name for tissue in read_classes(path)), mpp, str(path))


def check_fits(card: Card, images: Sequence[MaskedImage], said: Description) -> list[str]:
    """Compare a folder's classes and resolution with a model's; returns what was not said, for the report.

    Raises:
        DataError: they differ, or nothing says which classes the numbers in the masks are.
    """
    names = tuple(tissue.name for tissue in card.classes)
    if said.names is not None and said.names != names:
        c = next((c for c, pair in enumerate(zip(said.names, names, strict=False)) if pair[0] != pair[1]), -1)
        differs = f"its class {c} is {said.names[c]!r}, the model's {names[c]!r}"
        if c < 0:
            differs = f"it has {len(said.names)} classes, the model {len(names)}"
        raise DataError(
            f"{said.source}: {differs}; the model knows {', '.join(names)}, so it cannot be measured on these masks"
        )
    if said.names is None and not all(shows_colours(image.mask, card.classes) for image in images):
        raise DataError(
            f"{said.source}: nothing says which classes the numbers in its masks are, and the model's are"
            f" {', '.join(names)}; pass --classes JSON with the masks' names in the order of their numbers"
        )
    wanted = card.settings.mpp
    if said.mpp is None:
        return [f"The images do not state their resolution; the model's, {wanted:g} µm per pixel, was assumed."]
    if abs(said.mpp / wanted - 1) > TOLERANCE:
        raise DataError(
            f"{said.source}: images of {said.mpp:g} µm per pixel, but the model was trained at {wanted:g};"
            " resample them to that, or pass --mpp if this is wrong"
        )
    return []
