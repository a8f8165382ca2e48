"""Begin, resume, replace or copy a prediction on disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_lpd.core.errors import NOTICE, ExportError
from napari_lpd.core.files import KEY
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.prediction import FORMAT, UNREADABLE, Prediction, PredictionCard, is_prediction
from napari_lpd.results.pyramid import OME_VERSION, Pyramid, level_count

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_lpd.slides.tissue import TissueMask


def start_prediction(
    folder: Path,
    card: PredictionCard,
    prepare: Callable[[], tuple[TissueMask, list[list[float]]]],
    replace: bool = False,
) -> Prediction:
    """Begin a prediction in `folder`, or resume the one in it.

    Args:
        folder: ``NAME.zarr``.
        card: Slide, model and settings.
        prepare: Makes the tissue mask and the levels of the maps; called for a new prediction only.
        replace: Delete another prediction in `folder`.

    Raises:
        ExportError: the folder cannot be written, or contains something else than this prediction.
    """
    check_place(folder)
    if folder.exists():
        existing = Prediction.open(folder)
        difference = card.difference(existing.card)
        if not difference:
            for leftover in folder.rglob("*.partial"):
                leftover.unlink()
            return Prediction.open(folder, write=True)
        if not replace:
            raise ExportError(f"{folder}: holds a prediction with {difference}; choose another folder or replace it")
    mask, map_scale = prepare()

    def write(partial: Path) -> None:
        _write_metadata(partial, card, mask, map_scale)
        if folder.exists():
            Corrections(Prediction.open(partial, write=True)).copy_from(existing)

    _replace_folder(folder, write)
    return Prediction.open(folder, write=True)


def copy_prediction(prediction: Prediction, folder: Path) -> Path:
    """Copy a prediction to `folder` (``*.zarr``) atomically, in place of an older one.

    Raises:
        ExportError: the folder cannot be written, or is not a prediction.
    """
    check_place(folder)
    if folder.resolve() != prediction.folder.resolve():
        _replace_folder(folder, lambda partial: shutil.copytree(prediction.folder, partial))
    return folder


def _replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder, which replaces `folder` on success.

    Raises:
        ExportError: the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_metadata(folder: Path, card: PredictionCard, mask: TissueMask, map_scale: list[list[float]]) -> None:
    group = zarr.create_group(folder)
    corner = [-m / 2 for m in card.slide_mpp]  # the middle of the slide's first pixel lies at 0
    cells = tuple(-(-n // card.stride) for n in card.shape)
    edge, mpp = card.block // card.stride, card.mpp * card.stride
    count = level_count(max(card.shape), edge)  # OME-Zarr wants as many levels of the image as of its labels
    fewer = level_count(max(cells), edge)
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    channels = [{"label": c.name, "color": c.color[1:], "active": True, "window": window} for c in card.classes]
    Pyramid.create(group, (len(card.classes), *cells), edge, mpp, corner, count, {"omero": {"channels": channels}})
    labels = group.create_group("labels")
    labels.attrs["ome"] = {"version": OME_VERSION, "labels": ["tissues", "tissue_mask"]}
    names = [(i, c.name, [*c.rgb, 255]) for i, c in enumerate(card.classes, start=1)]
    names.append((UNREADABLE, "unreadable", [0, 0, 0, 255]))
    tissues = {"image-label": _image_label(names)}
    Pyramid.create(labels.create_group("tissues"), card.shape, card.block, card.mpp, corner, count, tissues)
    tissue = {"image-label": _image_label([(1, "tissue", [128, 128, 128, 255])])}
    shape = (mask.array.shape[0], mask.array.shape[1])
    stored = Pyramid.create(labels.create_group("tissue_mask"), shape, 1024, mask.mpp, corner, count, tissue)
    for y in range(0, shape[0], 1024):
        for x in range(0, shape[1], 1024):
            stored.write((y, x), mask.array[y : y + 1024, x : x + 1024].astype(np.uint8))
    prototypes = group.create_group("prototypes")
    for c, tissue_class in enumerate(card.classes):
        labelled = [{"label": f"{tissue_class.name} {i + 1}", "color": "FFFFFF", "active": i == 0, "window": window}
                    for i in range(card.prototypes_per_class)]  # fmt: skip
        Pyramid.create(
            prototypes.create_group(str(c)),
            (card.prototypes_per_class, *cells),
            edge,
            mpp,
            corner,
            fewer,
            {"omero": {"channels": labelled}},
        )
    Pyramid.create(group.create_group("uncertainty"), (cells[0], cells[1]), edge, mpp, corner, fewer, {})
    group.attrs[KEY] = {
        "format": FORMAT,
        "notice": NOTICE,
        "card": card.model_dump(mode="json"),
        "map_scale": map_scale,
        "tissue_mpp": mask.mpp,
    }


def _image_label(names: list[tuple[int, str, list[int]]]) -> dict[str, Any]:
    return {
        "colors": [{"label-value": value, "rgba": rgba} for value, _, rgba in names],
        "properties": [{"label-value": value, "class": name} for value, name, _ in names],
        "source": {"image": "../../"},
    }


def check_place(folder: Path) -> None:
    """Raise ExportError if `folder` exists and is not a prediction."""
    if folder.exists() and not is_prediction(folder):
        raise ExportError(f"{folder} exists and is not a prediction: choose another folder")
