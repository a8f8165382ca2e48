"""The models that the user has trained or opened, newest first; shared by the widgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.settings import get_plugin_settings
from qtpy.QtCore import QObject, QSettings, Signal

from napari_lpd import samples
from napari_lpd.core.settings.results import MeasureSettings
from napari_lpd.core.text import html_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.models.card import Card

MAX_MODELS = 10


class RecentModels(QObject):
    """List of model files that is stored between sessions; `changed` carries the newest path."""

    changed = Signal(str)

    def paths(self) -> list[Path]:
        """Return existing model files, newest first; the embedded sample model is always among them."""
        stored = _store().value("recent_models", []) or []
        paths = [Path(path) for path in ([stored] if isinstance(stored, str) else stored)]
        return [path for path in dict.fromkeys([*paths, samples.model_path()]) if path.is_file()]

    def add(self, path: Path) -> None:
        """Put `path` at the top of the list."""
        newest = [str(p) for p in dict.fromkeys([path.resolve(), *self.paths()])][:MAX_MODELS]
        _store().setValue("recent_models", newest)
        self.changed.emit(str(path.resolve()))


def models_folder() -> Path:
    """Return where new models go at first: as napari's Preferences say, else "napari-lpd" in the home folder."""
    preferences = get_plugin_settings().get("napari-lpd")  # there are none of a plugin that napari does not know
    folder = preferences.models.folder if preferences else ""
    return Path(folder).expanduser() if folder else Path.home() / "napari-lpd"


def kept_measures(names: Sequence[str]) -> MeasureSettings:
    """Return how results with classes of these names are measured: roles and bands; without, at first."""
    text = _store().value(f"measures/{'|'.join(names)}", "")
    return MeasureSettings.model_validate_json(text) if text else MeasureSettings()


def remember_measures(names: Sequence[str], settings: MeasureSettings) -> None:
    """Store how results with classes of these names are measured."""
    _store().setValue(f"measures/{'|'.join(names)}", settings.model_dump_json())


def kept(name: str) -> str:
    """Return a text that a widget has stored; "" at first."""
    return str(_store().value(name, "") or "")


def keep(name: str, text: str) -> None:
    """Store a text of a widget for the next session."""
    _store().setValue(name, text)


def describe(card: Card) -> str:
    """Format a model's card as rich text: data, classes, counts, resolution, metrics, settings, versions."""
    counts = card.tiles_per_class
    classes = ", ".join(
        f'<span style="color:{tissue.color}">■</span> {html_text(tissue.name)} {counts.get(tissue.name, "?")}'
        for tissue in card.classes
    )
    settings = card.settings
    lines = [
        f"<b>{settings.model.bank} prototypes</b>, {settings.model.prototypes_per_class} per class, on"
        f" {html_text(settings.model.encoder)}",
        *([html_text(card.encoder.about())] if card.encoder else []),
        f"{card.tiles} tiles of {settings.tile} pixels at {settings.mpp:g} µm per pixel: {classes}",
        *([f"from {html_text(card.data)}"] if card.data else []),
        f"{card.steps} steps, seed {settings.seed}, {html_text(card.created)}",
    ]
    lines += [f"{html_text(name)}: {_with_limits(value, card.intervals.get(name))}"
              for name, value in card.metrics.items() if name != "valid score"]  # fmt: skip
    changed = settings.model_dump(exclude_defaults=True)
    flat = {**{f"model.{name}": value for name, value in changed.pop("model", {}).items()}, **changed}
    lines.append(
        "Changed settings: " + (html_text(", ".join(f"{name}={value}" for name, value in flat.items())) or "none")
    )
    lines.append(html_text("Versions: " + ", ".join(f"{name} {version}" for name, version in card.versions.items())))
    return "<br>".join([*lines, html_text(card.notice)])


def _with_limits(value: float, limits: tuple[float, float] | None) -> str:
    return f"{value:.3g}" + ("" if limits is None else f" (95 % interval {limits[0]:.3g} to {limits[1]:.3g})")


def _store() -> QSettings:
    return QSettings("napari-lpd", "napari-lpd")


recent_models = RecentModels()
