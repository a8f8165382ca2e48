"""The result of a prediction, and where its format is defined.

On disk a Prediction is a zarr 3 group (a folder named ``*.zarr``):

======================  =========================  =====================================================
array                   shape, type                meaning
======================  =========================  =====================================================
``labels``              (H, W) uint8               0 = unlabelled, c + 1 = class c; pixels at ``mpp``
``prototypes``          (C * k, h, w) uint8        fused cosine of each prototype, -1..1 as 0..255
``presence``            (C, h, w) uint8            the model's own score that a class occurs there, 0..1
======================  =========================  =====================================================

``h = ceil(H / stride)``. The group's attribute ``napari_lpd`` holds everything else (`Prediction`'s fields).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_lpd.config import TissueClass
from napari_lpd.errors import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says about a slide or a part of it.

    Attributes:
        labels: (H, W) uint8, 0 = unlabelled, c + 1 = class c, in pixels of `mpp`.
        prototypes: (C·k, h, w) uint8 heatmaps, cosine -1..1 as 0..255, class-major.
        presence: (C, h, w) uint8, score 0..255 that a class occurs there.
        classes: The tissue classes, in the order of the labels.
        prototypes_per_class: k.
        mpp: Resolution of `labels`, in µm per pixel.
        stride: Pixels of `labels` per pixel of `prototypes` and `presence`.
        origin_um: (y, x) of the first pixel's corner on the slide, in µm from the slide's corner.
        slide: File name or layer name of the slide.
        slide_mpp: (y, x) µm per pixel of the slide's level 0.
        slide_shape: (H, W) of the slide's level 0.
        mpp_source: Where the slide's resolution came from.
        model: File name of the model.
        model_hash: SHA-256 of the model's file.
        settings: The settings of the run.
    """

    labels: NDArray[np.uint8]
    prototypes: NDArray[np.uint8]
    presence: NDArray[np.uint8]
    classes: tuple[TissueClass, ...]
    prototypes_per_class: int
    mpp: float
    stride: int
    origin_um: tuple[float, float]
    slide: str
    slide_mpp: tuple[float, float]
    slide_shape: tuple[int, int]
    mpp_source: str
    model: str
    model_hash: str
    settings: dict[str, Any] = field(default_factory=dict)

    def prototype_maps(self, class_index: int) -> NDArray[np.uint8]:
        """(k, h, w): the heatmaps of one class's prototypes."""
        k = self.prototypes_per_class
        return self.prototypes[class_index * k : (class_index + 1) * k]

    def area_mm2(self) -> dict[str, float]:
        """Labelled area per class, in mm²."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes) + 1)
        pixel_mm2 = (self.mpp / 1000) ** 2
        return {tissue.name: float(counts[i + 1]) * pixel_mm2 for i, tissue in enumerate(self.classes)}

    def save(self, folder: Path) -> Path:
        """Write the prediction to `folder` (``*.zarr``) whole or not at all, replacing an older one.

        Raises:
            ExportError: the place cannot be written, or holds something that is not a prediction.
        """
        check_place(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise ExportError(f"{folder}: cannot be written ({error.strerror})") from error
        try:
            self._write(partial)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        except OSError as error:
            raise ExportError(f"{folder}: cannot be written ({error.strerror})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def _write(self, folder: Path) -> None:
        group = zarr.create_group(folder, overwrite=True)
        h, w = self.prototypes.shape[1:]
        for name, array, chunks in (
            ("labels", self.labels, (min(1024, self.labels.shape[0]), min(1024, self.labels.shape[1]))),
            ("prototypes", self.prototypes, (1, h, w)),
            ("presence", self.presence, (1, h, w)),
        ):
            group.create_array(name, data=np.ascontiguousarray(array), chunks=chunks)
        group.attrs["napari_lpd"] = {
            "format": FORMAT,
            "research_use_only": True,
            "classes": [tissue.model_dump() for tissue in self.classes],
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
        }

    @classmethod
    def load(cls, folder: Path) -> Prediction:
        """Read a prediction back.

        Raises:
            ExportError: `folder` is missing or is not a prediction of this format.
        """
        if not is_prediction(folder):
            raise ExportError(f"{folder}: not a napari-lpd prediction; wanted a folder written by predict (*.zarr)")
        group = zarr.open_group(folder, mode="r")
        try:
            card: dict[str, Any] = dict(group.attrs["napari_lpd"])  # type: ignore[arg-type]
            if card["format"] != FORMAT:
                raise ExportError(f"{folder}: format {card['format']}, this version reads {FORMAT}; predict again")
            values: dict[str, Any] = {name: card[name] for name in _PLAIN_FIELDS}
            for name in ("origin_um", "slide_mpp", "slide_shape"):
                values[name] = tuple(values[name])
            values |= {name: np.asarray(group[name]) for name in ("labels", "prototypes", "presence")}
            classes = tuple(TissueClass.build(entry) for entry in card["classes"])
        except (KeyError, TypeError) as error:
            raise ExportError(f"{folder}: half a prediction ({error} is missing); predict again") from error
        return cls(classes=classes, **values)


_PLAIN_FIELDS = (
    "prototypes_per_class",
    "mpp",
    "stride",
    "origin_um",
    "slide",
    "slide_mpp",
    "slide_shape",
    "mpp_source",
    "model",
    "model_hash",
    "settings",
)


def check_place(folder: Path) -> None:
    """Raise ExportError where `folder` exists and is not a prediction, which may be replaced."""
    if folder.exists() and not is_prediction(folder):
        raise ExportError(f"{folder} exists and is not a prediction: choose another place")


def is_prediction(folder: Path) -> bool:
    """Whether `folder` is a zarr group that carries our attribute."""
    metadata = folder / "zarr.json"
    return metadata.is_file() and '"napari_lpd"' in metadata.read_text(encoding="utf-8")
