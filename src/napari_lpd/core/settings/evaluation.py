"""Settings of evaluations and comparisons."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.prediction import BackendField, CrfSettings, PrecisionField, Refiner

Gate = Literal["predicted", "none", "truth"]


class EvaluateSettings(Settings):
    """Set how a model is measured on images with masks (method.md §7).

    Examples:
        >>> from napari_lpd import EvaluateSettings
        >>> EvaluateSettings(gates=("predicted",), refiners=("none",)).bootstrap
        1000
    """

    RUNTIME_SETTINGS: ClassVar = frozenset({"threads", "device"})

    gates: tuple[Gate, ...] = Field(
        default=("predicted", "none", "truth"),
        min_length=1,
        description="Which classes may be painted: those predicted, all, or those in the truth.",
    )
    refiners: tuple[Refiner, ...] = Field(
        default=("none", "lattice"), min_length=1, description="Masks as they are (none), or after a dense CRF."
    )
    crf: CrfSettings = CrfSettings()
    background: Literal["exclude", "count", "predict"] = Field(
        default="exclude",
        description="Pixels outside all classes: left out, counted as errors when painted, or a label of their own"
        " that the model must predict.",
    )
    views: Literal["one", "flips", "official"] = Field(
        default="one", description="Averaged views: one, with its mirror image, or the published six."
    )
    normalise: Literal["training", "image"] = Field(
        default="training",
        description="Class maps scaled to 0..1 by constants of the training tiles, or per image (as published).",
    )
    background_power: float = Field(
        default=10.0, gt=0, le=100, description="Exponent of the background score (1 - max)^power."
    )
    boundary_share: float = Field(
        default=0.02, gt=0, le=0.2, description="Width of the band of the boundary IoU, as a share of the diagonal."
    )
    bootstrap: int = Field(default=1000, ge=0, description="Resamplings of slides or patients for 95 % intervals.")
    seed: int = Field(default=0, ge=0, description="Seed of the resampling.")
    backend: BackendField = "auto"
    precision: PrecisionField = "auto"
    threads: int = Field(default=0, ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")


class CompareSettings(Settings):
    """Set how prototype banks are compared at the same locations.

    Examples:
        >>> from napari_lpd import CompareSettings
        >>> CompareSettings(nearest=8).nearest_per_source
        3
    """

    temperature: float = Field(
        default=0.0, ge=0, description="τ of the softmax over locations; 0: the models' own, if they agree."
    )
    nearest: int = Field(default=5, ge=0, le=100, description="Nearest patches shown per prototype.")
    nearest_places: int = Field(
        default=0,
        ge=0,
        le=100,
        description="With training tiles: nearest locations in the compared tiles, shown as well.",
    )
    nearest_per_source: int = Field(default=3, ge=1, description="Maximum of them from one slide or patient.")
    training_tiles: int = Field(
        default=300, ge=0, description="Maximum of training tiles, spread, for nearest patches and clusters; 0: all."
    )
    slide_tiles: int = Field(
        default=300, ge=0, description="Maximum of tiles of a slide to compare, spread over its tissue; 0: all."
    )
    stability_tiles: int = Field(
        default=40, ge=0, description="Tiles, spread over the data, on which stability is measured; 0: not measured."
    )
    bootstrap: int = Field(default=1000, ge=0, description="Resamplings of slides or patients for 95 % intervals.")
    seed: int = Field(default=0, ge=0, description="Seed of the resampling, the random banks and the clusters.")
    threads: int = Field(default=0, ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")
