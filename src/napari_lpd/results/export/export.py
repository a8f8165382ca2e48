"""Export results for other programs, in the format of the file's name; overwrite only on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import refuse_overwrite
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.outputs import check_outputs
from napari_lpd.data.regions import REGIONS, write_regions
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.create import copy_prediction
from napari_lpd.results.export import objects
from napari_lpd.results.export.dicom import MAKER, write_dicom_seg
from napari_lpd.results.export.geojson import OUTLINES, write_geojson
from napari_lpd.results.export.ome_tiff import MASK, PROTOTYPES, write_ome_tiff, write_prototype_tiff
from napari_lpd.results.export.ome_tiff import SUFFIXES as TIFF_SUFFIXES
from napari_lpd.results.export.picture import PICTURE, write_overlay
from napari_lpd.results.measures.areas import MARK, measure, write_measures

if TYPE_CHECKING:
    from pathlib import Path

    from napari_lpd.core.settings.results import ExportSettings, What
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.slide import Slide

FORMS: dict[str, dict[tuple[str, ...], str]] = {
    "labels": {
        TIFF_SUFFIXES: "label pyramid",
        (".geojson",): "outlines for QuPath",
        (".png",): "picture with legend",
        (".csv",): "areas",
        (".dcm",): "segmentation of a DICOM slide",
        (".zarr",): "everything",
    },
    "prototypes": {TIFF_SUFFIXES: "cosine maps"},
    "corrections": {(".geojson",): "regions for training"},
    "objects": {(".csv",): "table of objects", (".geojson",): "objects for QuPath"},
}
ON_SLIDE = {".png": write_overlay, ".dcm": write_dicom_seg}


def export(prediction: Prediction, path: Path, settings: ExportSettings, slide: Slide | None = None) -> Job[Path]:
    """Write a finished prediction, with its corrections, in the format of the name of `path`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from shapely import box
        >>> from napari_lpd import ExportSettings, PredictSettings, export, load_model
        >>> from napari_lpd import open_slide, predict_slide, run, samples
        >>> model, settings = load_model(samples.model_path()), PredictSettings(tile=256, overlap=64, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide, tempfile.TemporaryDirectory() as folder:
        ...     scope = [box(1000, 1000, 1300, 1300)]  # µm
        ...     result = run(predict_slide(slide, model, settings, Path(folder, "skin.zarr"), scope))
        ...     run(export(result, Path(folder, "skin.png"), ExportSettings(), slide)).name
        'skin.png'

    Args:
        prediction: The prediction to write.
        path: Its suffix selects one of `FORMS`.
        settings: Content and options.
        slide: The slide that was predicted; a picture and a DICOM segmentation need it.

    Raises:
        ExportError: an unknown suffix, the file exists and `overwrite` is off, the prediction is unfinished or cannot
            be read, or the file cannot be written. No partial file remains.
    """
    suffix = _suffix(path, settings.what)
    if path.resolve() != prediction.folder.resolve():
        check_outputs([path], [prediction.folder, None if slide is None else slide.path])
    refuse_overwrite(path, settings.overwrite, _mark(suffix, settings.what))
    if not prediction.finished and settings.what != "corrections" and suffix != ".zarr":
        raise ExportError(f"{prediction.folder}: unfinished prediction; run predict again to resume it, then export")
    yield Progress(0, 0, f"writing {path.name}")
    if settings.what == "corrections":
        _write_corrections(prediction, path, settings)
    elif settings.what == "objects":
        yield from _write_objects(prediction, path, settings)
    elif settings.what == "prototypes":
        write_prototype_tiff(prediction, path, settings.overwrite)
    else:
        yield from _write_labels(prediction, path, settings, slide)
    return path


def _write_labels(prediction: Prediction, path: Path, settings: ExportSettings, slide: Slide | None) -> Job[None]:
    suffix = _suffix(path, settings.what)
    if suffix in TIFF_SUFFIXES:
        write_ome_tiff(prediction, path, settings.overwrite)
    elif suffix == ".geojson":
        yield from write_geojson(prediction, path, settings.simplify_um, settings.overwrite, settings.origin)
    elif suffix in ON_SLIDE:
        if slide is None:
            raise ExportError(f"{path}: needs the slide {prediction.card.slide}, too; pass --slide")
        ON_SLIDE[suffix](prediction, path, slide, settings.overwrite)
    elif suffix == ".csv":
        rows = yield from measure(prediction, settings.measure)
        write_measures(rows, path, settings.overwrite)
    else:
        copy_prediction(prediction, path)


def _mark(suffix: str, what: What) -> str:
    """Return what tells our files of this kind from all others."""
    if what == "corrections":
        return REGIONS
    if what == "objects":
        return objects.MARKS[suffix]
    if what == "prototypes":
        return PROTOTYPES
    return {".geojson": OUTLINES, ".png": PICTURE, ".csv": MARK, ".dcm": MAKER}.get(suffix, MASK)


def _suffix(path: Path, what: What) -> str:
    known = [suffix for suffixes in FORMS[what] for suffix in suffixes]
    match = next((suffix for suffix in known if path.name.lower().endswith(suffix)), "")
    if not match:
        raise ExportError(f"{path}: {what} are written as {', '.join(known)}; end the name with one of them")
    return match


def _write_objects(prediction: Prediction, path: Path, settings: ExportSettings) -> Job[None]:
    from napari_lpd.results.measures.objects import find_objects  # numba takes a while to load

    rows = yield from find_objects(prediction, settings.measure)
    if path.suffix == ".csv":
        objects.write_object_table(rows, path, settings.overwrite)
    else:
        yield from objects.write_object_outlines(prediction, rows, path, settings.overwrite, settings.origin)


def _write_corrections(prediction: Prediction, path: Path, settings: ExportSettings) -> None:
    regions = Corrections(prediction).regions()
    if not regions:
        raise ExportError(f"{prediction.folder}: nothing is corrected in it")
    frame = prediction.card.frame.counted_from(settings.origin)
    write_regions(path, regions, prediction.card.classes, settings.overwrite, frame)
