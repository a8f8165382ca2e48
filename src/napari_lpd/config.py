"""Everything a user can set: frozen, checked where built, one source for form, flag and file.

Each field carries its help (`description`), its unit (in the help) and its limits. `gui/_forms.py` makes
forms of these classes, `cli.py` reads them from a file and from ``--set name=value``, and every checkpoint
and prediction stores the object it was made with.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_lpd.errors import DataError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

EMBEDDED_ENCODER = "tf_efficientnet_lite0"

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of the settings: frozen, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def build(cls: type[S], values: dict[str, Any]) -> S:
        """Check `values` and build the settings.

        Raises:
            SettingsError: one line that names the setting, the value and its limits.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or cls.__name__
            known = f"; known settings: {', '.join(cls.model_fields)}" if first["type"] == "extra_forbidden" else ""
            raise SettingsError(f"setting {name}={first['input']!r}: {first['msg']}{known}") from error


class TissueClass(Settings):
    """A tissue name with its display colour."""

    name: Annotated[str, Field(min_length=1, description="Tissue name, as shown everywhere.")]
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", description="Display colour, #rrggbb.")]

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Colour as three integers 0..255 (red, green, blue)."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


class ModelSettings(Settings):
    """The network: encoder and prototype head."""

    encoder: Annotated[str, Field(description="Encoder: a timm name, or mit_b0, mit_b1, mit_b2.")] = EMBEDDED_ENCODER
    encoder_weights: Annotated[
        str, Field(description="Weights at the start: 'embedded', 'random', 'hub' (downloads), or a file's path.")
    ] = "embedded"
    prototypes_per_class: Annotated[int, Field(ge=1, le=64, description="Prototypes per class, k.")] = 3
    prototype_dim: Annotated[int, Field(ge=8, le=4096, description="Length of a prototype vector.")] = 512
    hidden_ratio: Annotated[
        float, Field(gt=0, le=4, description="Hidden width of the adaptive layers, as a share of prototype_dim.")
    ] = 0.5


class TrainSettings(Settings):
    """How a model is trained (method.md §12, default column, unless said otherwise)."""

    model: ModelSettings = ModelSettings()
    mpp: Annotated[float, Field(ge=0.05, le=20, description="Resolution of the training tiles, in µm per pixel.")] = 1.0
    tile: Annotated[int, Field(ge=64, le=1024, description="Edge of a tile, in pixels at mpp.")] = 128
    tile_step: Annotated[int, Field(ge=16, le=1024, description="Step between tiles cut from a region, in pixels.")] = (
        64
    )
    min_cover: Annotated[
        float, Field(gt=0, le=1, description="Share of a tile that must lie in labelled regions to be used.")
    ] = 0.75
    epochs: Annotated[int, Field(ge=1, le=1000, description="Passes over the training tiles.")] = 8
    max_steps: Annotated[int, Field(ge=0, description="Stop after this many steps; 0 means no limit.")] = 0
    batch: Annotated[int, Field(ge=1, le=512, description="Tiles per step.")] = 10
    lr: Annotated[float, Field(gt=0, le=1, description="Learning rate of the encoder.")] = 5e-5
    head_lr_factor: Annotated[
        float, Field(gt=0, le=1000, description="Learning rate of the prototype head, as a multiple of lr.")
    ] = 1.0
    weight_decay: Annotated[float, Field(ge=0, le=1, description="AdamW weight decay.")] = 1e-3
    warm_up: Annotated[
        float, Field(ge=0, le=1, description="Share of the run with the classification loss alone (L22).")
    ] = 0.16
    stage_weights: Annotated[
        tuple[float, float, float, float], Field(description="Weight of each stage's classification loss (L9).")
    ] = (0.0, 0.1, 1.0, 1.0)
    diversity_weight: Annotated[float, Field(ge=0, description="Weight of the diversity loss, λ_div.")] = 0.5
    diversity_temperature: Annotated[
        float, Field(gt=0, description="Temperature τ_div of the cosines in the diversity loss (L6).")
    ] = 0.07
    freeze_norm: Annotated[
        bool, Field(description="Keep the encoder's batch statistics as pretrained (steadier with small batches).")
    ] = True
    augment: Annotated[bool, Field(description="Flips, quarter turns and mild stain jitter of training tiles.")] = True
    workers: Annotated[int, Field(ge=0, le=64, description="Processes that read tiles from a folder.")] = 0
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0


class PredictSettings(Settings):
    """How a slide is read, cut, scored and put together."""

    mpp: Annotated[
        float, Field(ge=0, le=20, description="Resolution read, in µm per pixel; 0 takes the model's own.")
    ] = 0.0
    tile: Annotated[int, Field(ge=64, le=4096, description="Edge of a tile, in pixels at mpp.")] = 512
    overlap: Annotated[int, Field(ge=0, le=2048, description="Overlap of neighbouring tiles, in pixels at mpp.")] = 128
    batch: Annotated[int, Field(ge=1, le=512, description="Tiles per forward pass.")] = 2
    flips: Annotated[bool, Field(description="Average with the mirrored tile (twice the time).")] = False
    presence: Annotated[
        float, Field(ge=0, le=1, description="A class scored below this is absent there; 0 takes the model's own.")
    ] = 0.0
    stage_fusion: Annotated[
        tuple[float, float, float], Field(description="Weights of the maps of stages 2, 3 and 4.")
    ] = (0.3, 0.3, 0.4)
    background_power: Annotated[
        float, Field(gt=0, le=100, description="Exponent of the background score (1 - max)^power.")
    ] = 10.0
    tissue_only: Annotated[bool, Field(description="Leave bare glass unlabelled.")] = True
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"

    @model_validator(mode="after")
    def _overlap_below_tile(self) -> PredictSettings:
        if not self.overlap < self.tile:
            raise ValueError(f"overlap={self.overlap} must be below tile={self.tile}")
        return self


def read_classes(path: Path) -> tuple[TissueClass, ...]:
    """Read tissue classes from JSON: ``{"classes": [{"name": ..., "color": "#rrggbb"}, ...]}``.

    Raises:
        DataError: the file is missing, is not JSON, or names a class twice.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["classes"]
        classes = tuple(TissueClass.build(entry) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError, SettingsError) as error:
        raise DataError(f'{path}: no class list ({error}); wanted {{"classes": [{{"name", "color"}}, ...]}}') from error
    check_classes(classes, str(path))
    return classes


def check_classes(classes: tuple[TissueClass, ...], source: str) -> None:
    """Raise DataError unless `classes` holds two or more different names."""
    names = [tissue.name for tissue in classes]
    if len(set(names)) != len(names):
        raise DataError(f"{source}: a tissue name occurs twice in {names}")
    if len(names) < 2:
        raise DataError(f"{source}: {len(names)} tissue class given ({', '.join(names)}); training needs at least two")


def read_settings(cls: type[S], path: Path | None, overrides: list[str]) -> S:
    """Read settings from a JSON file, then apply ``name=value`` overrides (dots reach into nested settings).

    Raises:
        SettingsError: a file that is not JSON, an unknown name or a value out of its limits.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: settings are not readable as JSON ({error})") from error
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: wanted NAME=VALUE")
        target = values
        *parents, leaf = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[leaf] = json.loads(text)
        except ValueError:
            target[leaf] = text
    return cls.build(values)
