"""Settings of evaluations and comparisons."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.prediction import BackendField, CrfSettings, PrecisionField, Refiner

Gate = Literal["predicted", "none", "truth"]


class EvaluateSettings(Settings):
    """Set how a model is measured on images with masks (method.md §7).

    Example:
        >>> from napari_lpd import EvaluateSettings
        >>> EvaluateSettings(gates=("predicted",), refiners=("none",)).bootstrap
        1000
    """

    RUNTIME_SETTINGS: ClassVar = frozenset({"threads", "device"})

    gates: Annotated[
        tuple[Gate, ...],
        Field(min_length=1, description="Which classes may be painted: those predicted, all, or those in the truth."),
    ] = ("predicted", "none", "truth")
    refiners: Annotated[
        tuple[Refiner, ...], Field(min_length=1, description="Masks as they are (none), or after a dense CRF.")
    ] = ("none", "lattice")
    crf: CrfSettings = CrfSettings()
    background: Annotated[
        Literal["exclude", "count", "predict"],
        Field(
            description="Pixels outside all classes: left out, counted as errors when painted, or a label of their own"
            " that the model must predict."
        ),
    ] = "exclude"
    views: Annotated[
        Literal["one", "flips", "official"],
        Field(description="Averaged views: one, with its mirror image, or the published six."),
    ] = "one"
    normalise: Annotated[
        Literal["training", "image"],
        Field(description="Class maps scaled to 0..1 by constants of the training tiles, or per image (as published)."),
    ] = "training"
    background_power: Annotated[
        float, Field(gt=0, le=100, description="Exponent of the background score (1 - max)^power.")
    ] = 10.0
    boundary_share: Annotated[
        float, Field(gt=0, le=0.2, description="Width of the band of the boundary IoU, as a share of the diagonal.")
    ] = 0.02
    bootstrap: Annotated[int, Field(ge=0, description="Resamplings of slides or patients for 95 % intervals.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Seed of the resampling.")] = 0
    backend: BackendField = "auto"
    precision: PrecisionField = "auto"
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"


class CompareSettings(Settings):
    """Set how prototype banks are compared at the same locations.

    Example:
        >>> from napari_lpd import CompareSettings
        >>> CompareSettings(nearest=8).nearest_per_source
        3
    """

    temperature: Annotated[
        float, Field(ge=0, description="τ of the softmax over locations; 0: the models' own, if they agree.")
    ] = 0.0
    nearest: Annotated[int, Field(ge=0, le=100, description="Nearest patches shown per prototype.")] = 5
    nearest_places: Annotated[
        int,
        Field(ge=0, le=100, description="With training tiles: nearest locations in the compared tiles, shown as well."),
    ] = 0
    nearest_per_source: Annotated[int, Field(ge=1, description="Maximum of them from one slide or patient.")] = 3
    training_tiles: Annotated[
        int,
        Field(ge=0, description="Maximum of training tiles, spread, for nearest patches and clusters; 0: all."),
    ] = 300
    slide_tiles: Annotated[
        int, Field(ge=0, description="Maximum of tiles of a slide to compare, spread over its tissue; 0: all.")
    ] = 300
    stability_tiles: Annotated[
        int, Field(ge=0, description="Tiles, spread over the data, on which stability is measured; 0: not measured.")
    ] = 40
    bootstrap: Annotated[int, Field(ge=0, description="Resamplings of slides or patients for 95 % intervals.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Seed of the resampling, the random banks and the clusters.")] = 0
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
