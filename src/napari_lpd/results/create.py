"""Begin, resume, replace or copy a prediction on disk."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_lpd.core.classes import UNREADABLE_NAME, UNSURE_CLASS
from napari_lpd.core.errors import ExportError, not_written, writing
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.core.locks import PATIENCE_S, beside, inside, locked, partial_beside, remove_leftovers
from napari_lpd.results.card import ResultAttributes
from napari_lpd.results.corrections import NAME as CORRECTIONS
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.prediction import Prediction, is_prediction
from napari_lpd.results.pyramid import OME_VERSION, Pyramid, image_label

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_lpd.results.card import PredictionCard
    from napari_lpd.slides.tissue import TissueMask


SPECIAL = ((UNSURE, UNSURE_CLASS.name, (*UNSURE_CLASS.rgb, 255)), (UNREADABLE, UNREADABLE_NAME, (0, 0, 0, 255)))


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
    _recover(folder)
    check_place(folder)
    existing = _existing(folder, replace)
    if existing is not None:
        difference = card.difference(existing.card)
        if not difference:
            with locked(inside(folder), folder, wait_s=PATIENCE_S), writing(folder):
                for leftover in folder.rglob("*.partial"):
                    leftover.unlink()
            existing.drop_damaged()
            return existing
        if not replace:
            raise ExportError(
                f"{folder}: holds a prediction with {difference}; choose another folder, or replace it (--overwrite)"
            )
        Corrections(existing)  # finishes what was interrupted
    mask, map_scale = prepare()

    def write(partial: Path) -> None:
        _write_metadata(partial, card, mask, map_scale)
        if existing is not None:
            Corrections(Prediction.open(partial, write=True)).copy_from(existing)

    _replace_folder(folder, write)
    return Prediction.open(folder, write=True)


def _existing(folder: Path, replace: bool) -> Prediction | None:
    """Open the prediction in `folder`; None where there is none, or one so damaged that it can only be replaced.

    Corrections in a result that cannot be opened are the user's work: it is then kept under another name.

    Raises:
        ExportError: it cannot be opened, and `replace` is off.
    """
    if not folder.exists():
        return None
    try:
        existing = Prediction.open_unchecked(folder, write=True)
        if replace:
            for _ in Corrections(existing).corrected_blocks():
                pass  # read, as they will be copied
    except ExportError:
        if not replace:
            raise
        if next((folder / "labels" / CORRECTIONS).rglob("c/*/*"), None):
            free = (folder.with_name(f"{folder.stem}.damaged-{i}.zarr") for i in count(1))
            with writing(folder):
                folder.rename(next(path for path in free if not path.exists()))
        return None
    return existing


def copy_prediction(prediction: Prediction, folder: Path) -> Path:
    """Copy a prediction to `folder` (``*.zarr``) atomically, in place of an older one.

    Raises:
        ExportError: the folder cannot be written, or is not a prediction.
    """
    if folder.resolve() != prediction.folder.resolve():
        with locked(beside(folder), folder):
            _recover(folder)
            check_place(folder)
            _replace_folder(folder, lambda partial: _copy_files(prediction.folder, partial))
    return folder


def _copy_files(folder: Path, to: Path) -> None:
    """Copy a result without locks and half-written files; the first error ends it, as `shutil.copytree` would not."""
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix in (".lock", ".partial"):
            continue
        if path.is_dir():
            _copy_files(path, to / path.name)
        else:
            shutil.copy2(path, to / path.name)


def _replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder, which replaces `folder` on success.

    Raises:
        ExportError: the folder cannot be written.
    """
    partial, old = partial_beside(folder), _old(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        with locked(inside(folder), folder, wait_s=PATIENCE_S) if folder.exists() else nullcontext():
            write(partial)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        _recover(folder)
        raise ExportError(not_written(folder, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _old(folder: Path) -> Path:
    """Name the place of a prediction while another takes its own."""
    return folder.with_name(f".{folder.name}.old")


def _recover(folder: Path) -> None:
    """Put a prediction back that was to be replaced when the process was killed, or remove it where it was replaced."""
    old = _old(folder)
    with writing(folder):
        if is_prediction(old) and not folder.exists():
            old.rename(folder)
        elif folder.exists() and old.exists():
            shutil.rmtree(old)


def _write_metadata(folder: Path, card: PredictionCard, mask: TissueMask, map_scale: list[list[float]]) -> None:
    group = zarr.create_group(folder)
    corner = [-m / 2 for m in card.slide_mpp]  # the middle of the slide's first pixel lies at 0
    labels = group.create_group("labels")
    group.create_group("prototypes")
    labels.attrs["ome"] = {"version": OME_VERSION, "labels": ["tissues", "tissue_mask"]}
    about = _ome_of(card)
    for node, layout in card.layouts().items():
        place = group if not node else group.create_group(node)
        mpp = card.mpp if layout.is_labels else card.mpp * card.stride
        Pyramid.create(place, layout, mpp, corner, about.get(node, {}))
    shape = (mask.array.shape[0], mask.array.shape[1])
    layout = card.tissue_layout(shape)
    tissue = {"image-label": image_label([(1, "tissue", (128, 128, 128, 255))])}
    Pyramid.create(labels.create_group("tissue_mask"), layout, mask.mpp, corner, tissue)
    stored = Pyramid(folder, layout, write=True)
    for y in range(0, shape[0], 1024):
        for x in range(0, shape[1], 1024):
            stored.write((y, x), mask.array[y : y + 1024, x : x + 1024].astype(np.uint8))
    scale = tuple(tuple(stage) for stage in map_scale)
    ResultAttributes(card=card, map_scale=scale, tissue_mpp=mask.mpp, tissue_shape=shape).write(folder)


def _ome_of(card: PredictionCard) -> dict[str, dict[str, Any]]:
    """Return names and colours for OME-Zarr, by the place of a pyramid."""
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    channels = [{"label": c.name, "color": c.color[1:], "active": True, "window": window} for c in card.classes]
    names = [(i, c.name, (*c.rgb, 255)) for i, c in enumerate(card.classes, start=1)]
    about: dict[str, dict[str, Any]] = {
        "": {"omero": {"channels": channels}},
        "presence": {"omero": {"channels": channels}},
        "labels/tissues": {"image-label": image_label([*names, *SPECIAL])},
    }
    for c, tissue_class in enumerate(card.classes):
        labelled = [{"label": f"{tissue_class.name} {i + 1}", "color": "FFFFFF", "active": i == 0, "window": window}
                    for i in range(card.prototypes_per_class)]  # fmt: skip
        about[f"prototypes/{c}"] = {"omero": {"channels": labelled}}
    return about


def check_place(folder: Path) -> None:
    """Raise ExportError if `folder` exists and is not a prediction."""
    if folder.exists() and not is_prediction(folder):
        raise ExportError(f"{folder} exists and is not a prediction: choose another folder")
