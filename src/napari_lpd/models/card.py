"""The card of a model: what it is and how it was trained; read without torch."""

from __future__ import annotations

import datetime
import importlib.metadata
from pathlib import Path
from typing import Annotated, Any

import safetensors
from pydantic import BeforeValidator, Field

from napari_lpd import __version__
from napari_lpd.core.classes import TissueClass, check_names
from napari_lpd.core.errors import NOTICE, DataError, ModelError, SettingsError
from napari_lpd.core.files import KEY
from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.slides.stain import StainStatistics

EVERY_RUNS = ("model", "last")  # stems of the models in every run's folder: the best epoch, the last one


class Card(Settings):
    """What a model is: classes, data, settings, constants of its maps, figures, and how it was made."""

    format: int = 1
    classes: tuple[TissueClass, ...]
    settings: TrainSettings
    tiles_per_class: dict[str, int]
    tiles: int
    data: str = Field(default="", description="Origin of the tiles: slides, a folder, or a table.")
    steps: int
    map_scale: tuple[tuple[float, ...], ...] = Field(
        description="(3, C): level that counts as 1 in the class maps of stages 2, 3, 4."
    )
    presence: tuple[float, ...] = Field(description="Per class: score from which it counts as present.")
    temperature: float = Field(
        default=1.0, gt=0, description="Shares of scores are raised to 1 / temperature, which calibrates them."
    )
    metrics: Annotated[
        dict[str, float],
        BeforeValidator(lambda values: {name: value for name, value in values.items() if value is not None}),
    ] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="Of some metrics: low and high end of the 95 % interval."
    )
    colours: StainStatistics | None = Field(default=None, description="Colours of the training tiles, unmatched.")
    command: str = ""
    folder: str = Field(default="", description="Where the command ran: its relative paths start here.")
    created: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    notice: str = NOTICE


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
        raise ModelError(f"{path}: no such model file")
    if path.suffix in (".pth", ".pt"):
        raise ModelError(f"{path}: no model of ours; take it over with napari-lpd import")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a model file ({error}); wanted a .safetensors written by train") from error
    if text is None:
        raise ModelError(f"{path}: safetensors without a napari-lpd card; encoder weights go to --encoder-weights")
    try:
        card = Card.model_validate_json(text)
        check_names([tissue.name for tissue in card.classes], str(path))
    except (ValueError, SettingsError) as error:
        raise ModelError(f"{path}: its card does not fit this version of napari-lpd ({error})") from error
    except DataError as error:
        raise ModelError(str(error)) from error
    return card
