"""Choice of two models to compare, and training of the counterpart of the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_lpd.comparison.result import check_comparable
from napari_lpd.core.errors import LpdError, ModelError
from napari_lpd.core.jobs import in_subprocess
from napari_lpd.gui.common.job import JobBar
from napari_lpd.gui.common.layout import buttons, chooser
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.models.card import read_card
from napari_lpd.samples import model_path
from napari_lpd.training.runs.folder import check_has_counterpart, counterpart_arguments, trained_counterpart

if TYPE_CHECKING:
    from napari_lpd.models.card import Card

CLOSING = (
    "The counterpart is being trained. Close anyway? What was learned is kept; the same button resumes the training."
)
TOOLTIP = (
    "Train on the data, seed and settings of the first model: clustered prototypes (PBIP) if its own are learned, else"
    " learned ones"
)


class ModelPair(QWidget):
    """Panel to choose two models and to train a counterpart."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = (chooser(), chooser())
        self.job = JobBar("Train the counterpart of the first", question=CLOSING)
        self.job.explain(TOOLTIP)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        open_button = buttons(
            ("Open models…", "Open model files: one is used as the second model, two as both", self._on_open)
        )
        for widget in (*self.boxes, open_button, self.job):
            layout.addWidget(widget)
        self.job.asked.connect(self._on_counterpart)
        self.job.runner.succeeded.connect(self._on_trained)
        self.boxes[0].currentIndexChanged.connect(self._check_counterpart)
        recent_models.changed.connect(self._fill)
        self._fill()

    def paths(self) -> list[Path]:
        """Return the files of the two models.

        Raises:
            ModelError: there are not two models, or they cannot be compared.
        """
        paths = [Path(box.currentData()) for box in self.boxes if box.currentData()]
        if len(set(paths)) < 2:
            raise ModelError(
                "a comparison needs two different models: choose another one, or train the counterpart of the first"
            )
        check_comparable([(_called(path), read_card(path)) for path in paths])
        return paths

    def card(self) -> Card:
        """Read the card of the first model."""
        return read_card(Path(self.boxes[0].currentData()))

    def choose(self, *paths: Path) -> None:
        """Choose models and add them to the recent models.

        Raises:
            ModelError: a file is missing or not a model.
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
        self._check_counterpart()

    def _check_counterpart(self) -> None:
        """Disable the button for a model whose counterpart cannot be trained, and say why."""
        first = self.boxes[0].currentData()
        try:
            if first is None:
                raise ModelError("no model yet: train one, or press Open models…")
            check_has_counterpart(Path(first).parent)
        except LpdError as error:
            self.job.refuse(str(error))
        else:
            self.job.refuse("")

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
                self.job.say(f"The counterpart is already trained and is now chosen: {counterpart}")
                return
            arguments = counterpart_arguments(run)
            self.job.start(lambda: in_subprocess(arguments))

    def _on_trained(self, result: dict[str, Any]) -> None:
        with self.job.reporting():
            self.choose(Path(result["model"]))
            self.job.say("The counterpart is trained and chosen as the second model.")


def _called(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
