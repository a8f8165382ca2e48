"""The models that this user has trained or opened, newest first; shared by the widgets."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QObject, QSettings, Signal

from napari_lpd import samples

MOST = 10


class RecentModels(QObject):
    """A list of model files that is kept between sessions. `changed` carries the newest path."""

    changed = Signal(str)

    def paths(self) -> list[Path]:
        """Existing model files, newest first; the embedded sample model is always among them."""
        stored = _store().value("recent_models", []) or []
        found = [Path(path) for path in ([stored] if isinstance(stored, str) else stored)]
        return [path for path in dict.fromkeys([*found, samples.model_path()]) if path.is_file()]

    def add(self, path: Path) -> None:
        """Put `path` first."""
        newest = [str(p) for p in dict.fromkeys([path.resolve(), *self.paths()])][:MOST]
        _store().setValue("recent_models", newest)
        self.changed.emit(str(path.resolve()))


def _store() -> QSettings:
    return QSettings("napari-lpd", "napari-lpd")


recent_models = RecentModels()
