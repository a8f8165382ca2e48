"""Settings of predictions, of the labels made from their maps, and of the dense CRF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.settings.base import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence


class CrfSettings(Settings):
    """Set the dense CRF that sharpens a mask along the image's edges (method.md §7.7; Krähenbühl & Koltun 2011).

    Examples:
        >>> from napari_lpd import CrfSettings, PredictSettings
        >>> PredictSettings(refiner="lattice", crf=CrfSettings(half_size=True)).crf.iterations
        5
    """

    gaussian_sigma: float = Field(
        default=15.0, gt=0, description="Reach of the smoothness kernel: pixels in evaluate, µm in predict."
    )
    gaussian_weight: float = Field(default=30.0, ge=0, description="Weight of the smoothness kernel.")
    bilateral_sigma: float = Field(
        default=10.0, gt=0, description="Reach of the appearance kernel: pixels in evaluate, µm in predict."
    )
    colour_sigma: float = Field(default=20.0, gt=0, description="Width of the appearance kernel in colour, 0..255.")
    bilateral_weight: float = Field(default=50.0, ge=0, description="Weight of the appearance kernel.")
    iterations: int = Field(default=5, ge=1, le=100, description="Mean-field iterations.")
    half_size: bool = Field(
        default=False, description="Work on the image at half its size: several times as fast, nearly the same labels."
    )

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


ByTissue = tuple[tuple[str, Annotated[float, Field(ge=0, le=1e9)]], ...]
MOST_SMOOTH_UM = 50.0
SINGLE = {"smallest_um2": "smallest_of", "holes_um2": "holes_of", "smooth_um": "smooth_of"}
"""The settings of `CleanSettings`: that of all tissues, that of single ones."""


class CleanSettings(Settings):
    """Set what of a mask is cleaned: small areas, holes and rough borders; in full in `core.labelling.clean`.

    Example:
        >>> from napari_lpd import CleanSettings, LabelSettings
        >>> LabelSettings(clean=CleanSettings(smallest_um2=5000, smallest_of=(("fat", 20000),))).described()
        'at least 40 % sure, areas from 5000 µm² (fat 20000)'
    """

    smallest_um2: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="Smaller areas of a tissue, and unsure ones, get the label around them; alone on glass they are no"
        " tissue. 0: none.",
    )
    smallest_of: ByTissue = Field(
        default=(), description='The smallest area, in µm², of single tissues or "unsure", as [["fat", 20000]].'
    )
    holes_um2: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="Smaller holes in the mask, as lumina or cracks, get the label around them; 0: none.",
    )
    holes_of: ByTissue = Field(
        default=(), description="The biggest hole, in µm², that single tissues fill, as smallest_of."
    )
    smooth_um: float = Field(
        default=0.0,
        ge=0,
        le=MOST_SMOOTH_UM,
        description="Every place gets the label that most places within this radius have, near ones counting more;"
        " 0: it keeps its own.",
    )
    smooth_of: ByTissue = Field(
        default=(), description="The radius, in µm, for places that are of single tissues, as smallest_of."
    )

    @model_validator(mode="after")
    def _smooth_in_limits(self) -> CleanSettings:
        if wide := [radius for _, radius in self.smooth_of if radius > MOST_SMOOTH_UM]:
            raise ValueError(f"smooth_of={wide[0]:g} must be at most {MOST_SMOOTH_UM:g}")
        return self

    def of_tissues(self, names: Sequence[str]) -> list[tuple[float, float, float]]:
        """Return smallest area, biggest hole and radius of smoothing of each of the tissues `names`.

        Raises:
            SettingsError: another tissue is named.
        """
        found = []
        for whole, single in SINGLE.items():
            own = dict(getattr(self, single))
            if unknown := [name for name in own if name not in names]:
                raise SettingsError(f"{single} names {unknown[0]!r}; the tissues are {', '.join(names)}")
            found.append([own.get(name, getattr(self, whole)) for name in names])
        return list(zip(*found, strict=True))

    def without_others(self, names: Sequence[str]) -> CleanSettings:
        """Leave out what is set of single tissues that are none of `names`."""
        own = {name: tuple(each for each in getattr(self, name) if each[0] in names) for name in SINGLE.values()}
        return self.model_copy(update=own)

    @property
    def asked(self) -> bool:
        """Whether anything is cleaned."""
        return bool(self.described())

    def described(self) -> list[str]:
        """Say what is cleaned; [] where nothing is."""
        texts = []
        for (name, single), text in zip(SINGLE.items(), DESCRIBED, strict=True):
            whole = getattr(self, name)
            own = ", ".join(f"{tissue} {value:g}" for tissue, value in getattr(self, single) if value != whole)
            texts += [text.format(f"{whole:g}") + f" ({own})" * bool(own)] if whole or own else []
        return texts


DESCRIBED = ("areas from {} µm²", "holes filled below {} µm²", "smoothed by {} µm")


class LabelSettings(Settings):
    """Set which label a place gets from the stored maps; it can be changed in a finished result, without the model.

    Example:
        >>> from napari_lpd import LabelSettings
        >>> LabelSettings(sure=0.6, favour=(("fat", 4.0),)).described()
        'at least 60 % sure, fat x 4'
    """

    sure: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="How sure the model has to be: a tissue is the label where its share of all is at least this, else"
        " the place is unsure; 0 labels everything with its most likely tissue.",
    )
    favour: tuple[tuple[str, Annotated[float, Field(ge=0.01, le=100)]], ...] = Field(
        default=(),
        description='More or less of single tissues: their odds are multiplied by this, as [["fat", 4]].',
    )
    clean: CleanSettings = CleanSettings()

    def factors(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return the odds' factor of each of the classes `names`.

        Raises:
            SettingsError: another class is favoured.
        """
        favoured = dict(self.favour)
        if unknown := [name for name in favoured if name not in names]:
            raise SettingsError(f"favour names {unknown[0]!r}; the classes are {', '.join(names)}")
        return tuple(favoured.get(name, 1.0) for name in names)

    def described(self) -> str:
        """Say what is set, in a line for tables."""
        favoured = [f"{name} x {factor:.3g}" for name, factor in self.favour if factor != 1]
        return ", ".join([f"at least {100 * self.sure:.3g} % sure", *favoured, *self.clean.described()])


class PredictSettings(Settings):
    """Set how a slide is read, tiled, scored and assembled.

    Examples:
        >>> from napari_lpd import PredictSettings
        >>> PredictSettings(tile=512, overlap=128, flips=True).mpp  # 0: the model's own
        0.0
    """

    RUNTIME_SETTINGS: ClassVar = frozenset({"threads", "batch", "device", "backend"})

    mpp: float = Field(default=0.0, ge=0, le=20, description="Resolution read, in µm per pixel; 0: the model's own.")
    tile: int = Field(default=768, ge=64, le=4096, description="Edge of a tile, in pixels at mpp.")
    overlap: int = Field(
        default=192, ge=0, le=2048, description="Overlap of neighbouring tiles; its outer third is dropped (pixels)."
    )
    batch: int = Field(
        default=0, ge=0, le=512, description="Tiles per forward pass; 0: one on a CPU, sixteen on a GPU."
    )
    flips: bool = Field(default=False, description="Average with the mirrored tile (twice the time).")
    normalise: Literal["training", "slide", "benchmark"] = Field(
        default="training",
        description="What counts as 1 in the class maps: the training tiles' level, this slide's own, or every tile's"
        " minimum and maximum without a gate (as published; makes seams; for comparison only).",
    )
    presence: float = Field(
        default=0.0, ge=0, le=1, description="A class scored below this is absent there; 0: the model's own."
    )
    background_power: float = Field(
        default=10.0, gt=0, le=100, description="Exponent of the share of no class, (1 - max)^power; see labels.sure."
    )
    labels: LabelSettings = LabelSettings()
    tissue_only: bool = Field(default=True, description="Leave bare glass unlabelled.")
    refiner: Refiner = Field(
        default="none",
        description="none, or a dense CRF along the image's edges (a slide takes about twice as long). pydensecrf:"
        " for parity, on the command line only.",
    )
    crf: CrfSettings = CrfSettings()
    block: int = Field(
        default=1024,
        ge=64,
        le=4096,
        description="Edge of the blocks in which results are written (a power of 2, pixels).",
    )
    backend: BackendField = "auto"
    precision: PrecisionField = "auto"
    threads: int = Field(
        default=0, ge=0, le=256, description="CPU threads for the model, for two tiles at a time; 0 lets torch choose."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")

    @model_validator(mode="after")
    def _overlap_below_tile(self) -> PredictSettings:
        if not self.overlap < self.tile:
            raise ValueError(f"overlap={self.overlap} must be below tile={self.tile}")
        if self.block.bit_count() > 1:
            raise ValueError(f"block={self.block} must be a power of 2")
        return self
