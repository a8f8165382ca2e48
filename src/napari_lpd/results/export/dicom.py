"""DICOM segmentations of DICOM slides, through highdicom (extra ``dicom``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd import __version__
from napari_lpd.core.errors import NOTICE, ExportError
from napari_lpd.core.files import atomic_write, refuse_overwrite
from napari_lpd.results.corrections import Corrections
from napari_lpd.slides.dicom import dicom_series

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.slide import Slide

MAX_PIXELS = 2**26  # in memory; a larger result is written from a coarser level
TILE = 512
REQUIRED = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID"),
    *("Rows", "Columns", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "ImageOrientationSlide"),
)
ORIGIN = ("XOffsetInSlideCoordinateSystem", "YOffsetInSlideCoordinateSystem")
MAY_BE_EMPTY = (  # type 2 in a segmentation
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
MAKER = "napari-lpd developers"
NEEDED = "DICOM segmentations need highdicom: pip install 'napari-lpd[dicom]'"


def write_dicom_seg(prediction: Prediction, path: Path, slide: Slide, overwrite: bool = False) -> Path:
    """Write the corrected labels as a binary DICOM segmentation (SEG) that refers to the slide's finest image.

    Each class is a segment of the type "tissue" with the class's name and colour; its meaning in a code system
    is not guessed. Of more than 67 megapixels (8192 squared) a coarser level is written.

    Raises:
        ExportError: highdicom is missing, `slide` is not DICOM or not the predicted one, nothing is labelled, the file
            exists and `overwrite` is off, or it cannot be written.
    """
    refuse_overwrite(path, overwrite, MAKER)
    try:
        import highdicom
    except ImportError as error:
        raise ExportError(f"{path}: {NEEDED}") from error
    card = prediction.card
    if slide.fingerprint != card.slide_hash:
        raise ExportError(f"{prediction.folder}: is a result of another slide ({card.slide}), not of {slide.name}")
    levels = Corrections(prediction).levels
    level = next((i for i, each in enumerate(levels) if each.shape[0] * each.shape[1] <= MAX_PIXELS), len(levels) - 1)
    labels = np.asarray(levels[level])
    labels[labels > len(card.classes)] = 0
    if not labels.any():
        raise ExportError(f"{prediction.folder}: nothing is labelled in it, so there are no segments to write")
    source = _completed(_source(slide), slide.name)
    with atomic_write(path, overwrite, mark=MAKER) as partial:
        _segmentation(highdicom, prediction, source, labels, card.mpp * 2**level).save_as(partial)
    return path


def _source(slide: Slide) -> Any:
    """Read the header of the slide's finest image."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        files = dicom_series(slide.path) if slide.path is not None else []
        headers = [dcmread(file, stop_before_pixels=True) for file in files]
    except InvalidDicomError as error:
        raise ExportError(f"{slide.name}: is not DICOM; a DICOM segmentation refers to a DICOM slide") from error
    volumes = [header for header in headers if "VOLUME" in header.get("ImageType", ())]
    if not volumes:
        raise ExportError(f"{slide.name}: is not DICOM; a DICOM segmentation refers to a DICOM slide")
    return max(volumes, key=lambda header: header.TotalPixelMatrixColumns)


def _completed(source: Any, name: str) -> Any:
    """Add the attributes that a segmentation may leave empty, and UTF-8 for our names, to a slide's header.

    Raises:
        ExportError: attributes without which a segmentation cannot refer to the slide; the message names them.
    """
    pixels = (source.get("SharedFunctionalGroupsSequence") or [{}])[0].get("PixelMeasuresSequence") or [{}]
    missing = [keyword for keyword in REQUIRED if source.get(keyword) in (None, "")]
    missing += [] if pixels[0].get("PixelSpacing") else ["PixelSpacing"]
    origin = (source.get("TotalPixelMatrixOriginSequence") or [{}])[0]
    missing += [keyword for keyword in ORIGIN if origin.get(keyword) is None]
    if missing:
        raise ExportError(
            f"{name}: lacks {', '.join(missing)}, which a DICOM segmentation must refer to; have the slide anonymised"
            " again with these kept, or export as .ome.tif or .geojson"
        )
    for keyword in MAY_BE_EMPTY:
        if keyword not in source:
            setattr(source, keyword, "")
    source.decode()  # texts of the slide's character set, before another one is stated
    source.SpecificCharacterSet = "ISO_IR 192"
    if pixels[0].get("SliceThickness") is None:
        pixels[0].SliceThickness = 0.001  # mm; of a section nobody measured
    return source


def _segmentation(highdicom: Any, prediction: Prediction, source: Any, labels: NDArray[np.uint8], mpp: float) -> Any:
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    card = prediction.card
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = source.TotalPixelMatrixOriginSequence[0]
    along_x, along_y = np.array(source.ImageOrientationSlide, float).reshape(2, 3)
    # The position is the first pixel's centre; corners agree with the slide's, pixel sizes do not.
    shift = [(mpp / 1000 - float(spacing)) / 2 for spacing in measures.PixelSpacing]
    start = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem, 0.0], float)
    position = start + shift[1] * along_x + shift[0] * along_y
    made_by = highdicom.AlgorithmIdentificationSequence(
        name=f"napari-lpd, {card.model}", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    by_hand = bool(Corrections(prediction).blocks())
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=i,
            segment_label=tissue.name[:64],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="SEMIAUTOMATIC" if by_hand else "AUTOMATIC",
            algorithm_identification=made_by,
            display_color=highdicom.color.CIELabColor.from_rgb(*tissue.rgb),
        )
        for i, tissue in enumerate(card.classes, start=1)
    ]
    return highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=labels,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=100,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name="napari-lpd",
        software_versions=__version__,
        device_serial_number=card.model_hash[:16],
        content_label="TISSUES",
        content_description=NOTICE.rstrip("."),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=(mpp / 1000, mpp / 1000), slice_thickness=float(measures.SliceThickness)
        ),
        plane_positions=[
            highdicom.PlanePositionSequence(
                coordinate_system="SLIDE", image_position=tuple(position.tolist()), pixel_matrix_position=(1, 1)
            )
        ],
        tile_pixel_array=True,
        tile_size=(TILE, TILE),
    )
