"""The Train widget: train a model on regions of slides or on labelled tiles."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QPushButton, QVBoxLayout

from napari_lpd.core.errors import NOTICE, DataError
from napari_lpd.core.jobs import COMPUTING, in_subprocess
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.common.dock import DockWidget
from napari_lpd.gui.common.job import JobBar, JobRunner
from napari_lpd.gui.common.layout import Column, Fold, buttons, in_column, in_row, note, primary, titled
from napari_lpd.gui.common.recent_models import describe, models_folder, recent_models
from napari_lpd.gui.live.panel import LiveMask
from napari_lpd.gui.train.data_panel import TILES, TrainingData
from napari_lpd.gui.train.progress_tabs import ProgressTabs
from napari_lpd.gui.train.settings_panel import TrainingSettings
from napari_lpd.models.card import read_card
from napari_lpd.training.runs.folder import (
    MODEL_NAME,
    as_command,
    counterpart_of,
    new_run_folder,
    out_of,
    read_arguments,
    read_state,
    run_classes,
    unfinished_run,
    write_run,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QHideEvent

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Progress
    from napari_lpd.gui.layers.strokes import Canvas

KEPT = "train/more"
TRAIN_FULLY = "Train encoder and head on these regions, with the settings under More: minutes to hours"
CLOSING = "A model is being trained. Close anyway? What was learned is kept; Resume continues from there."


class TrainWidget(DockWidget):
    """Widget to choose data and classes, train in a child process and follow the training."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._checks = tempfile.TemporaryDirectory(prefix="napari-lpd-")
        self._run: Path | None = None
        self._trained = False

        self.data = TrainingData(viewer)
        self.chosen = TrainingSettings(self._on_copy)
        self.out = QLineEdit(str(models_folder()))
        self.counterpart = QCheckBox("Also train the counterpart for Explore")
        self.counterpart.setToolTip(
            "Then train on the same data and seed clustered prototypes (PBIP) if these are learned, else learned ones"
        )
        self.job = JobBar("Train fully", pausable=True, question=CLOSING)
        self.job.explain(TRAIN_FULLY)
        self.keep = QPushButton("Keep model")
        self.resume = QPushButton("Resume")
        self.resume.setToolTip("Continue the training that was stopped last")
        self.predict = QPushButton("Segment this view")
        self.predict.setToolTip("Open Predict and segment the view with the new model")
        self.predict.setVisible(False)
        self.device = note("")
        self.device.setVisible(False)
        self.tabs = ProgressTabs()
        self.checker = JobRunner(self)

        drawn = self.data.drawn
        self.live = LiveMask(viewer, drawn.slides, drawn.checked, drawn.classes.drafts, self._fast)
        self._lay_out()
        self._connect()
        self._on_live()
        self._offer_resume()

    def _lay_out(self) -> None:
        """Stack slide, tissues, tools, the live mask and what was trained; the buttons stay at the foot."""
        column = self._column = Column()
        browse_out = buttons(("Browse…", "Choose the folder", self._on_out))
        check = ("Check the data", "Count the tiles and show some, without training", self._on_check)
        more = titled(
            ("", buttons(check)),
            ("Data", self.data.more),
            ("Settings of the full training", self.chosen),
            ("Models folder", in_row([self.out, browse_out])),
            ("", self.counterpart),
            ("", note(NOTICE)),
        )
        column.add(self.data, self.live, self.resume, self.predict, self.device, self.tabs, Fold("More", more, KEPT))
        self.keep.setToolTip("Save what the live mask has learned, for Predict, Explore and exports")
        primary(self.job.button)
        foot = in_column([self.keep, self.job])
        foot.layout().setContentsMargins(8, 4, 8, 8)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (column, foot):
            layout.addWidget(widget)

    def _connect(self) -> None:
        self.undocked.connect(self.data.drawn.put_down)
        self.undocked.connect(self.live.put_down)
        self.keep.clicked.connect(self._on_keep)
        self.live.accepted.connect(self._on_accepted)
        self.live.message.connect(self.job.say)
        self.live.changed.connect(self._on_live)
        self.data.drawn.changed.connect(self.live.change)
        self.data.drawn.classes.changed.connect(self.live.change)
        self.data.message.connect(self.job.say)
        self.data.failed.connect(self._on_failed)
        self.data.source.currentTextChanged.connect(lambda source: self.chosen.ask_for_resolution(source != TILES))
        self.chosen.message.connect(self.job.say)
        self.chosen.failed.connect(self._on_failed)
        self.job.asked.connect(self._on_train)
        self.job.runner.progressed.connect(self._on_progress)
        self.job.runner.succeeded.connect(self._on_trained)
        self.job.runner.failed.connect(self.tabs.write)
        self.job.runner.ended.connect(self._on_ended)
        self.checker.progressed.connect(lambda progress: self.job.say(f"{progress.message or 'checking the data'}…"))
        self.checker.succeeded.connect(self._on_checked)
        self.checker.failed.connect(lambda message: self.job.say(f"⚠ {message}"))
        self.resume.clicked.connect(self._on_resume)
        self.predict.clicked.connect(self._on_predict)
        self.out.textChanged.connect(self._offer_resume)

    def hideEvent(self, event: QHideEvent) -> None:
        """Store the settings before the window closes."""
        super().hideEvent(event)
        self.chosen.store()

    def _on_failed(self, message: str) -> None:
        with self.job.reporting():
            raise DataError(message)

    def settings(self) -> TrainSettings:
        """Return the settings in the forms, with the resolution of labelled tiles, if these are chosen.

        Raises:
            LpdError: a value is out of its limits, or the tiles' resolution is missing.
        """
        return self.chosen.value(self.data.tiles_mpp())

    def _fast(self) -> TrainSettings:
        """Return the settings of a fast training of one slide at the chosen resolution and tile size."""
        chosen = self.chosen.form.value()
        of_one_slide = {"feature_dropout": 0.5}  # docs/explanation/results.md, "Live mask": five seeds
        return TrainSettings.build(PRESETS["fast"] | {"mpp": chosen.mpp, "tile": chosen.tile} | of_one_slide)

    def _on_live(self) -> None:
        self.keep.setEnabled(self.live.has_model)

    def _on_accepted(self, canvas: Canvas, labels: NDArray[np.uint8]) -> None:
        with self.job.reporting():
            self.data.drawn.paint.lay(canvas, labels, labels > 0)
            self.job.say("The mask there is kept as strokes; press N for the next place.")

    def _on_keep(self) -> None:
        name = self.data.name()
        self.live.keep(lambda: new_run_folder(self._models_folder(), f"{name}-live"))

    def _on_copy(self) -> None:
        with self.job.reporting():
            command = as_command(self._arguments())
            QGuiApplication.clipboard().setText(command)
            self.job.say(f"Copied; the files that it needs are in {self._run}")

    # Data

    def _on_check(self) -> None:
        with self.job.reporting():
            folder = tempfile.mkdtemp(dir=self._checks.name)
            arguments = self._arguments(lambda: Path(folder))
            self.checker.start(lambda: in_subprocess([*arguments, "--summary"]))
            self.job.say("Checking the data…")

    def _on_checked(self, summary: dict[str, Any]) -> None:
        self.tabs.show_data(Path(summary["sheet"]).parent, summary)
        self._column.reveal(self.tabs)
        count = len(summary["warnings"])
        self.job.say(f"{summary['tiles']} tiles; {count or 'no'} warning{'s' * (count != 1)}: see Data below.")

    # Train

    def _on_train(self) -> None:
        with self.job.reporting():
            arguments = self._arguments()
            self._start(arguments, self.data.tissue_classes())

    def _arguments(self, make_run: Any = None) -> list[str]:
        """Write the files of a run into a new folder and return the arguments of the child process."""
        if self.data.source.currentText() == TILES:
            self.data.tiles.training_source()  # first, to report missing entries in the form's order
        else:
            self.data.drawn.check_places()  # first, as the slide may be another one
        settings = self.settings()
        classes = None if self.data.has_own_classes() else self.data.tissue_classes()
        make = make_run or (lambda: new_run_folder(self._models_folder(), self.data.name()))
        run, source = self.data.training_source(make)
        self._run = run
        return write_run(run, source, settings, classes)

    def _start(
        self, arguments: list[str], classes: Sequence[TissueClass], history: Sequence[dict[str, float]] = ()
    ) -> None:
        self._run, self._trained = out_of(arguments), False
        paused = self.job.runner.paused
        self.job.start(lambda: in_subprocess(arguments, paused))
        self.resume.setVisible(False)
        self.predict.setVisible(False)
        self.device.setVisible(False)
        self.tabs.start(self._run, classes, history)
        self._column.reveal(self.tabs)

    def _on_progress(self, progress: Progress) -> None:
        self.tabs.add(progress)
        if progress.message.startswith(COMPUTING):
            self.device.setText(progress.message[0].upper() + progress.message[1:])
            self.device.setVisible(True)

    def _on_trained(self, result: dict[str, Any]) -> None:
        self._trained = True
        tiles = ", ".join(f"{name} {count}" for name, count in result.get("tiles per class", {}).items())
        self.job.say(
            f"Trained on {result.get('tiles', '?')} tiles ({tiles}). The model is ready in Predict:\n{result['model']}"
        )

    def _on_ended(self) -> None:
        self._offer_resume()
        ready = self._offer_model()
        if self.job.status.text() == "Stopped." and not self.resume.isHidden():
            best = " The best model so far is ready in Predict." if ready else ""
            self.job.say(f"Stopped; what was learned is kept. Press Resume to continue.{best}")
        elif self._trained and self.counterpart.isChecked():
            self.counterpart.setChecked(False)
            with self.job.reporting():
                assert self._run is not None
                self._start(counterpart_of(self._run), run_classes(read_arguments(self._run)))

    def _offer_model(self) -> bool:
        """Offer the run's model, finished or not, to Predict; return whether there is a model yet."""
        model = None if self._run is None else self._run / MODEL_NAME
        if model is None or not model.exists():
            return False
        with self.job.reporting():
            self.tabs.show_card(describe(read_card(model)))
            recent_models.add(model)
            self.predict.setVisible(True)
        return True

    def _models_folder(self) -> Path:
        return Path(self.out.text()).expanduser()

    def _on_out(self) -> None:
        self.out.setText(QFileDialog.getExistingDirectory(self, "Models folder") or self.out.text())

    def _offer_resume(self) -> None:
        """Show the Resume button if a training was stopped or killed."""
        run = unfinished_run(self._models_folder())
        self.resume.setVisible(run is not None and not self.job.runner.running)
        self.resume.setText(f"Resume {run.name}" if run else "Resume")

    def _on_resume(self) -> None:
        with self.job.reporting():
            run = unfinished_run(self._models_folder())
            state = None if run is None else read_state(run)
            if run is None or state is None:
                raise DataError(f"{self._models_folder()}: no stopped training")
            arguments, position = read_arguments(run), state["place"]
            self._start(arguments, run_classes(arguments), position["curve"] + position["history"])

    def _on_predict(self) -> None:
        with self.job.reporting():
            assert self._run is not None
            dock, predict = self._viewer.window.add_plugin_dock_widget("napari-lpd", "Predict", tabify=True)
            dock.raise_()  # where it was open already
            predict.predict_view_with(self._run / MODEL_NAME)
