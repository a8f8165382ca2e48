"""Settings of predictions and of the dense CRF."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from napari_lpd.core.settings.base import Settings


class CrfSettings(Settings):
    """Set the dense CRF that sharpens a mask along the image's edges (method.md §7.7; Krähenbühl & Koltun 2011).

    Example:
        >>> from napari_lpd import CrfSettings, PredictSettings
        >>> PredictSettings(refiner="lattice", crf=CrfSettings(half_size=True)).crf.iterations
        5
    """

    gaussian_sigma: Annotated[
        float, Field(gt=0, description="Reach of the smoothness kernel: pixels in evaluate, µm in predict.")
    ] = 15.0
    gaussian_weight: Annotated[float, Field(ge=0, description="Weight of the smoothness kernel.")] = 30.0
    bilateral_sigma: Annotated[
        float, Field(gt=0, description="Reach of the appearance kernel: pixels in evaluate, µm in predict.")
    ] = 10.0
    colour_sigma: Annotated[float, Field(gt=0, description="Width of the appearance kernel in colour, 0..255.")] = 20.0
    bilateral_weight: Annotated[float, Field(ge=0, description="Weight of the appearance kernel.")] = 50.0
    iterations: Annotated[int, Field(ge=1, le=100, description="Mean-field iterations.")] = 5
    half_size: Annotated[
        bool, Field(description="Work on the image at half its size: several times as fast, nearly the same labels.")
    ] = False

    def in_pixels(self, mpp: float) -> CrfSettings:
        """Convert the kernels' reaches from µm to pixels of `mpp`."""
        reaches = {"gaussian_sigma": self.gaussian_sigma / mpp, "bilateral_sigma": self.bilateral_sigma / mpp}
        return self.model_copy(update=reaches)


Refiner = Literal["none", "lattice", "pydensecrf"]
Backend = Literal["auto", "torch", "onnx"]
PrecisionField = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(description="Number format of the encoder; auto: the graphics card's fastest, float32 elsewhere."),
]
BackendField = Annotated[
    Backend,
    Field(
        description="What computes the network: PyTorch, or ONNX Runtime (extra onnx; on a CPU, twice as fast with the"
        " embedded encoder, the same masks). auto: ONNX Runtime where it is installed and the device is the CPU."
    ),
]


class PredictSettings(Settings):
    """Set how a slide is read, tiled, scored and assembled.

    Example:
        >>> from napari_lpd import PredictSettings
        >>> PredictSettings(tile=512, overlap=128, flips=True).mpp  # 0: the model's own
        0.0
    """

    RUNTIME_SETTINGS: ClassVar = frozenset({"threads", "batch", "device", "backend"})

    mpp: Annotated[float, Field(ge=0, le=20, description="Resolution read, in µm per pixel; 0: the model's own.")] = 0.0
    tile: Annotated[int, Field(ge=64, le=4096, description="Edge of a tile, in pixels at mpp.")] = 768
    overlap: Annotated[
        int, Field(ge=0, le=2048, description="Overlap of neighbouring tiles; its outer third is dropped (pixels).")
    ] = 192
    batch: Annotated[
        int, Field(ge=0, le=512, description="Tiles per forward pass; 0: one on a CPU, sixteen on a GPU.")
    ] = 0
    flips: Annotated[bool, Field(description="Average with the mirrored tile (twice the time).")] = False
    normalise: Annotated[
        Literal["training", "slide", "benchmark"],
        Field(
            description="What counts as 1 in the class maps: the training tiles' level, this slide's own, or every"
            " tile's minimum and maximum without a gate (as published; makes seams; for comparison only)."
        ),
    ] = "training"
    presence: Annotated[
        float, Field(ge=0, le=1, description="A class scored below this is absent there; 0: the model's own.")
    ] = 0.0
    background_power: Annotated[
        float, Field(gt=0, le=100, description="Exponent of the background score (1 - max)^power.")
    ] = 10.0
    tissue_only: Annotated[bool, Field(description="Leave bare glass unlabelled.")] = True
    refiner: Annotated[
        Refiner,
        Field(
            description="none, or a dense CRF along the image's edges (a slide takes about twice as long)."
            " pydensecrf: for parity, on the command line only."
        ),
    ] = "none"
    crf: CrfSettings = CrfSettings()
    block: Annotated[
        int,
        Field(ge=64, le=4096, description="Edge of the blocks in which results are written (a power of 2, pixels)."),
    ] = 1024
    backend: BackendField = "auto"
    precision: PrecisionField = "auto"
    threads: Annotated[
        int,
        Field(ge=0, le=256, description="CPU threads for the model, for two tiles at a time; 0 lets torch choose."),
    ] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"

    @model_validator(mode="after")
    def _overlap_below_tile(self) -> PredictSettings:
        if not self.overlap < self.tile:
            raise ValueError(f"overlap={self.overlap} must be below tile={self.tile}")
        if self.block.bit_count() > 1:
            raise ValueError(f"block={self.block} must be a power of 2")
        return self
