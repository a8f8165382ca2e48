"""The card of a model: what it is and how it was trained; read without torch."""

from __future__ import annotations

import datetime
import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from napari_lpd import __version__
from napari_lpd.core.classes import MAX_CLASSES, TissueClass, check_classes
from napari_lpd.core.errors import NOTICE, DataError, ModelError, SettingsError, absent
from napari_lpd.core.files import KEY
from napari_lpd.core.reading import read_header
from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.slides.stain import StainStatistics

EVERY_RUNS = ("model", "last")  # stems of the models in every run's folder: the best epoch, the last one
MAPS = 3  # stages whose maps have levels
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Number = Annotated[int, Field(ge=-65536, le=65536)] | Annotated[float, Field(ge=-65536, le=65536)]
Word = Annotated[str, Field(pattern=r"^[\w.\-]*$", max_length=64)]
Value = bool | Number | Word | Annotated[tuple[bool | Number | Word, ...], Field(max_length=64)]


class Architecture(Settings):
    """What builds an encoder again, without a hub or a file: timm's network, its arguments, and its input."""

    OURS: ClassVar = frozenset(
        {"features_only", "output_stride", "out_indices", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
        | {"pretrained_model_args", "checkpoint_path", "cache_dir", "num_classes", "in_chans", "device", "dtype"}
    )  # arguments that are not the architecture's

    name: Annotated[str, Field(pattern=r"^\w+(\.\w+)?$", max_length=100, description="timm's name.")]
    arguments: Annotated[dict[Word, Value], Field(max_length=64)] = Field(default_factory=dict)
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    source: str = Field(default="", max_length=1000, description="Who says that mean and std are these.")
    blocks: Annotated[tuple[Annotated[int, Field(ge=0, le=1000)], ...], Field(max_length=4)] = ()

    @model_validator(mode="after")
    def _only_of_the_architecture(self) -> Architecture:
        if named := sorted(self.OURS & set(self.arguments)):
            raise ValueError(f"{named[0]} is no argument of an architecture")
        return self

    def about(self) -> str:
        """Say what the encoder's input is normalised with, and by whose word."""
        mean, std = (", ".join(f"{value:.4g}" for value in part) for part in (self.mean, self.std))
        return f"input mean {mean}, deviation {std}" + (f" ({self.source})" if self.source else "")


def _without_null(values: Any) -> Any:
    return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


def model_files(name: str = "model.safetensors") -> dict[str, str]:
    """Return the files of a model, by name, with what tells them from others: tensors with the card, and its copy."""
    return {name: f'"{KEY}"', str(Path(name).with_suffix(".json")): '"map_scale"'}


class Card(Settings):
    """What a model is: classes, data, settings, constants of its maps, figures, and how it was made."""

    format: Literal[1] = 1
    classes: Annotated[tuple[TissueClass, ...], Field(max_length=MAX_CLASSES)]
    settings: TrainSettings
    encoder: Architecture | None = Field(default=None, description="What builds its encoder, and its input.")
    tiles_per_class: dict[str, Count]
    tiles: Count
    data: str = Field(default="", description="Origin of the tiles: slides, a folder, or a table.")
    steps: Count
    map_scale: tuple[tuple[Positive, ...], ...] = Field(
        description="(3, C): level that counts as 1 in the class maps of stages 2, 3, 4."
    )
    presence: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        description="Per class: score from which it counts as present."
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Shares of scores are raised to 1 / temperature, which calibrates them."
    )
    metrics: Annotated[
        dict[str, float],
        BeforeValidator(_without_null),
    ] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="Of some metrics: low and high end of the 95 % interval."
    )
    colours: StainStatistics | None = Field(default=None, description="Colours of the training tiles, unmatched.")
    command: str = ""
    folder: str = Field(default="", description="Where the command ran: its relative paths start here.")
    created: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    ancestors: tuple[str, ...] = Field(
        default=(), description="The models that it was trained on from: file names and hashes, oldest first."
    )
    notice: str = NOTICE

    @model_validator(mode="after")
    def _lengths_fit_classes(self) -> Card:
        count = len(check_classes(self.classes, "its card"))
        if len(self.presence) != count or [len(part) for part in self.map_scale] != [count] * MAPS:
            raise ValueError(f"wanted presence and map_scale ({MAPS} times) of {count} classes")
        return self


def model_name(path: Path) -> str:
    """Name a model by its run's folder where its file is called as every run's is, else by its file."""
    if path.stem not in EVERY_RUNS:
        return path.stem
    folder = path.absolute().parent.name or path.stem
    return folder if path.stem == EVERY_RUNS[0] else f"{folder} ({path.stem})"


def target_stain(card: Card) -> StainStatistics | None:
    """Return the stain to which images are matched before the model sees them; None where they stay as they are."""
    return card.colours if card.settings.stain_normalisation == "slide" else None


def provenance() -> dict[str, Any]:
    """Fill a card's ``folder``, ``created`` and ``versions`` from where and when this runs."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"folder": str(Path.cwd()), "created": now, "versions": {"napari-lpd": __version__} | versions}


def read_card(path: Path) -> Card:
    """Read a checkpoint's card without loading its tensors.

    Raises:
        ModelError: the file is missing, is no safetensors file, or was not written by napari-lpd.
    """
    if path.is_dir():
        raise ModelError(f"{path}: a folder; wanted a model file, as {path / 'model.safetensors'}")
    if not path.is_file():
        raise ModelError(absent(path, "model file"))
    if path.suffix.lower() in (".pth", ".pt"):
        raise ModelError(f"{path}: no model of ours; take it over with napari-lpd import")
    try:
        found = read_header(path, KEY)
    except ValueError as error:
        raise ModelError(f"{path}: not a model file ({error}); wanted a .safetensors written by train") from error
    if found is None:
        raise ModelError(f"{path}: safetensors without a napari-lpd card; encoder weights go to --encoder-weights")
    try:
        return Card.build(found)
    except SettingsError as error:
        raise ModelError(f"{path}: its card does not fit this version of napari-lpd ({error})") from error
    except DataError as error:
        raise ModelError(f"{path}: {error}") from error
