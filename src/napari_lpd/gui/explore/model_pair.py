"""Choose two models to compare; one click trains the second, the counterpart of the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_lpd.comparison.result import check_comparable
from napari_lpd.core.errors import ModelError
from napari_lpd.core.jobs import in_subprocess
from napari_lpd.gui.common.job import CloseGuard, JobBar
from napari_lpd.gui.common.layout import buttons, chooser
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.models.card import read_card
from napari_lpd.samples import model_path
from napari_lpd.training.runs.folder import counterpart_arguments, trained_counterpart

if TYPE_CHECKING:
    from napari_lpd.models.card import Card

CLOSING = (
    "The counterpart is being trained. Close all the same? What was learned is kept; the same button goes on there."
)
TOOLTIP = (
    "On the same data, seed and settings as the first model: clustered prototypes (PBIP) after learned ones, or the"
    " other way round"
)


class ModelPair(QWidget):
    """Two choosers of models, and the training of a counterpart."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = (chooser(), chooser())
        self.job = JobBar("Train the counterpart of the first")
        self.job.button.setToolTip(TOOLTIP)
        self._guarded = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        open_button = buttons(
            ("Open models…", "Model files: one becomes the second model, two become both", self._on_open)
        )
        for part in (*self.boxes, open_button, self.job):
            layout.addWidget(part)
        self.job.asked.connect(self._on_counterpart)
        self.job.runner.succeeded.connect(self._on_trained)
        recent_models.changed.connect(self._fill)
        self._fill()

    def paths(self) -> list[Path]:
        """The two models' files.

        Raises:
            ModelError: they are not two, or a comparison would say nothing of them.
        """
        paths = [Path(box.currentData()) for box in self.boxes if box.currentData()]
        if len(set(paths)) < 2:
            raise ModelError(
                "two different models are compared: choose another one, or train the counterpart of the first"
            )
        check_comparable([(_called(path), read_card(path)) for path in paths])
        return paths

    def card(self) -> Card:
        """The card of the first model."""
        return read_card(Path(self.boxes[0].currentData()))

    def choose(self, *paths: Path) -> None:
        """Choose models and remember them.

        Raises:
            ModelError: a file is missing or no model.
        """
        for path in reversed(paths):
            read_card(path)
            recent_models.add(path)
        for box, path in zip(self.boxes[-len(paths) :], paths, strict=True):
            box.setCurrentIndex(box.findData(str(path.resolve())))

    def _fill(self) -> None:
        for number, box in enumerate(self.boxes):
            kept = box.currentData()
            box.blockSignals(True)
            box.clear()
            for path in recent_models.paths():
                box.addItem("sample model (skin)" if path == model_path() else _called(path), str(path))
                box.setItemData(box.count() - 1, str(path), 3)  # 3: tooltip
            index = box.findData(kept)
            box.setCurrentIndex(index if index >= 0 else min(number, box.count() - 1))
            box.blockSignals(False)

    def _on_open(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "One or two models", "", "Models (*.safetensors)")
        if paths:
            with self.job.reporting():
                self.choose(*(Path(path) for path in paths[:2]))

    def _on_counterpart(self) -> None:
        with self.job.reporting():
            run = Path(self.boxes[0].currentData()).parent
            counterpart = trained_counterpart(run)
            if counterpart is not None:
                self.choose(counterpart)
                self.job.say(f"It was trained already, and is chosen: {counterpart}")
                return
            arguments = counterpart_arguments(run)
            if not self._guarded:
                CloseGuard(self.window(), self.job.runner, CLOSING)
                self._guarded = True
            self.job.start(lambda: in_subprocess(arguments))

    def _on_trained(self, result: dict[str, Any]) -> None:
        with self.job.reporting():
            self.choose(Path(result["model"]))
            self.job.say("The counterpart is trained, and chosen as second model.")


def _called(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
