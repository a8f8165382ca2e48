"""A small whole-slide image in DICOM, one level or two, of any series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from imagecodecs import jpeg8_encode

if TYPE_CHECKING:
    from pathlib import Path

TILE = 64
ROOT = "1.2.826.0.1.3680043.8.498."
SLIDE_STORAGE, JPEG = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.4.50"


def write_dicom(path: Path, pixels: np.ndarray, series: str = "1", number: int = 1, mpp: float = 0.5) -> None:
    """Write an image (H, W, 3), whole tiles, as one level of the series of that name."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.sequence import Sequence

    height, width = pixels.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SLIDE_STORAGE
    meta.MediaStorageSOPInstanceUID = f"{ROOT}{series}.{number}"
    meta.TransferSyntaxUID = JPEG
    meta.ImplementationClassUID = f"{ROOT}9"
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = f"{ROOT}7", f"{ROOT}{series}"
    file.FrameOfReferenceUID = f"{ROOT}8"
    file.Modality, file.InstanceNumber = "SM", number
    file.ImageType = [
        "ORIGINAL" if number == 1 else "DERIVED",
        "PRIMARY",
        "VOLUME",
        "NONE" if number == 1 else "RESAMPLED",
    ]
    file.Rows = file.Columns = TILE
    file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = height, width
    file.DimensionOrganizationType = "TILED_FULL"
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "YBR_FULL_422", 0
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = Sequence([measures])
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    tiles = [
        jpeg8_encode(np.ascontiguousarray(pixels[y : y + TILE, x : x + TILE]), level=95)
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]
    file.NumberOfFrames = len(tiles)
    file.PixelData = encapsulate(tiles)
    file.save_as(path, enforce_file_format=True)
