"""DICOM segmentations of slides from which attributes were taken, and of names in any script."""

from __future__ import annotations

import numpy as np
import pytest
from made_predictions import predicted

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import ExportError
from napari_lpd.results.export.dicom import MAY_BE_EMPTY, REQUIRED, _completed, write_dicom_seg
from napari_lpd.slides.formats import open_slide

pydicom = pytest.importorskip("pydicom")


def header():
    """What a slide's header says, complete."""
    source = pydicom.Dataset()
    for keyword in REQUIRED:
        setattr(source, keyword, "1.2.3" if keyword.endswith("UID") else 512)
    source.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    for keyword in MAY_BE_EMPTY:
        setattr(source, keyword, "")
    pixels, shared, origin = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    pixels.PixelSpacing, pixels.SliceThickness = [0.0005, 0.0005], 0.001
    shared.PixelMeasuresSequence = [pixels]
    source.SharedFunctionalGroupsSequence = [shared]
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 1.0, 2.0
    source.TotalPixelMatrixOriginSequence = [origin]
    return source


@pytest.mark.parametrize("keyword", MAY_BE_EMPTY)
def test_what_may_be_empty_is_empty(keyword):
    source = header()
    delattr(source, keyword)
    assert not _completed(source, "a")[keyword].value


@pytest.mark.parametrize("keyword", [*REQUIRED, "TotalPixelMatrixOriginSequence", "SharedFunctionalGroupsSequence"])
def test_what_is_needed_is_named(keyword):
    source = header()
    delattr(source, keyword)
    named = {
        "TotalPixelMatrixOriginSequence": "XOffsetInSlideCoordinateSystem, YOffset",
        "SharedFunctionalGroupsSequence": "PixelSpacing",
    }.get(keyword, keyword)
    with pytest.raises(ExportError, match=f"a: lacks {named}"):
        _completed(source, "a")


TAKEN = ["PatientBirthDate", "AccessionNumber", "StudyTime", "PatientName", "PatientSex", "SliceThickness"]


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192"])
def test_an_anonymised_slide_has_a_segmentation_with_names_in_any_script(shared_slides, tmp_path, charset):
    highdicom = pytest.importorskip("highdicom")
    file = min((shared_slides / "dicom_CMU-1-Small-Region").glob("*.dcm"))  # the slide, not its overview
    taken = pydicom.dcmread(file)
    for keyword in TAKEN:
        where = taken.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0] if "Slice" in keyword else taken
        if keyword in where:
            delattr(where, keyword)
    if "SpecificCharacterSet" in taken:
        del taken.SpecificCharacterSet
    if charset:
        taken.SpecificCharacterSet = charset
        taken.PatientName = "Müller"
    taken.save_as(tmp_path / "slide.dcm", enforce_file_format=True)
    classes = tuple(TissueClass(name=name, color="#3b4cff") for name in ("母斑", "Épiderme"))
    with open_slide(tmp_path / "slide.dcm") as slide:
        labels = np.ones(slide.shape_at(4.0), np.uint8)
        about = {"slide_mpp": slide.mpp, "slide_shape": slide.shape, "slide_hash": slide.fingerprint, "mpp": 4.0}
        prediction = predicted(tmp_path / "a.zarr", labels, classes, **about)
        seg = highdicom.seg.segread(write_dicom_seg(prediction, tmp_path / "seg.dcm", slide))
    assert [each.SegmentLabel for each in seg.SegmentSequence] == ["母斑", "Épiderme"]
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert str(seg.PatientName) == ("Müller" if charset else "")
    assert seg.AccessionNumber in ("", None)
