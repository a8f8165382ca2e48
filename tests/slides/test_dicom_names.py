"""DICOM slides as PACS, CDs and labs name them: what counts is the content and the series."""

from __future__ import annotations

import shutil

import numpy as np
import oddities as odd
import pytest

from napari_lpd.core.errors import SlideError
from napari_lpd.slides.dicom import dicom_series, is_dicom
from napari_lpd.slides.formats import open_slide

pytest.importorskip("pydicom", reason="writes DICOM; extra 'dicom'")

IMAGE = odd.image()
NAMES = {
    "usual": ("a.dcm", "b.dcm"),
    "upper case": ("IM1.DCM", "IM2.DCM"),
    "without a suffix": ("IM001", "IM002"),
    "mixed": ("a.dcm", "IM002"),
    "UIDs": ("1.2.840.113619.2.1", "1.2.840.113619.2.2"),
    "another suffix": ("a.ima", "b.dicom"),
}


@pytest.fixture(params=NAMES)
def series(request, tmp_path):
    """A folder, named by a UID, with a slide of two levels, and what else may lie there."""
    from oddities_dicom import write_dicom

    folder = tmp_path / "1.2.840.10008.5.1.4.7"
    folder.mkdir()
    finest, coarse = NAMES[request.param]
    write_dicom(folder / finest, IMAGE)
    write_dicom(folder / coarse, odd.half(IMAGE), number=2, mpp=1.0)
    (folder / "._a.dcm").write_bytes(b"\0\5\26\7" + bytes(200))
    (folder / ".DS_Store").write_bytes(bytes(200))
    (folder / "DICOMDIR.txt").write_text("not an image")
    (folder / "@eaDir").mkdir()
    (folder / "~$a.dcm").write_bytes((folder / coarse).read_bytes())  # a copy that another program has open
    return folder


def test_any_name_opens_alone_and_in_its_folder(series):
    files = [path for path in sorted(series.iterdir()) if is_dicom(path) and path.is_file() and path.name[0] != "~"]
    assert len(files) == 2
    fingerprints = set()
    for path in (series, *files):
        with open_slide(path) as slide:
            assert slide.level_shapes == ((256, 384), (128, 192))
            assert slide.mpp == pytest.approx((0.5, 0.5))
            assert np.abs(slide.read((0, 0), (256, 384), 0.5).astype(int) - IMAGE).max() < 9
            fingerprints.add(slide.fingerprint)
    assert len(fingerprints) == 1


def test_another_series_beside_it_is_another_slide(series):
    from oddities_dicom import write_dicom

    write_dicom(series / "other", 255 - IMAGE, series="2")
    with pytest.raises(SlideError, match="holds 2 DICOM series: open a file of one instead"):
        open_slide(series)
    with open_slide(series / "other") as slide:
        assert slide.level_shapes == ((256, 384),)
    assert len(dicom_series(series / "other")) == 1


def test_a_hidden_copy_of_macos_is_no_slide(series):
    with pytest.raises(SlideError, match="not a slide or image"):
        open_slide(series / "._a.dcm")


@pytest.mark.parametrize("content", [b"", b"rubbish", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\x20\0\x0e\0UI"])
@pytest.mark.parametrize("name", ["a.dcm", "A.DCM", "a"])
def test_what_only_looks_like_dicom_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(SlideError) as caught:
            open_slide(path)
        assert "\n" not in str(caught.value)


def test_a_folder_without_dicom_is_no_slide(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert not is_dicom(tmp_path)
    with pytest.raises(SlideError, match="a folder without DICOM files is not a slide"):
        open_slide(tmp_path)


def test_implicit_types_and_big_endian_files_name_their_series(tmp_path):
    uid = b"1.2.3.4"
    for number, head in enumerate(
        (b"\x20\0\x0e\0UI\x08\0", b"\x20\0\x0e\0\x08\0\0\0", b"\0\x20\0\x0eUI\0\x08"), start=1
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a").write_bytes(bytes(128) + b"DICM" + head + uid + b"\0rest")
        shutil.copy(folder / "a", folder / "b")
        (folder / "c").write_bytes(bytes(128) + b"DICM" + head + b"1.2.3.5\0")
        assert dicom_series(folder / "b") == [folder / "a", folder / "b"]
