"""The widget for several slides: ``predict`` on a list of them, which can be stopped and gone on with on any day."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QSplitter, QVBoxLayout

from napari_lpd.core.errors import NOTICE, DataError
from napari_lpd.core.jobs import Progress, SlideDone, duration, in_subprocess
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.batch.slide_table import Entry, SlideTable
from napari_lpd.gui.common.dock import DockWidget
from napari_lpd.gui.common.forms import SettingsForm
from napari_lpd.gui.common.job import JobBar, JobRunner
from napari_lpd.gui.common.layout import Column, buttons, folded, foot, in_column, in_row, note, primary
from napari_lpd.gui.common.recent_models import keep, kept
from napari_lpd.gui.contributions import slide_layer_data
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.layers.slides import UM, bring_to_front, entered_mpp, set_resolution, slide_layers, slide_path
from napari_lpd.gui.predict.model_picker import ModelPicker
from napari_lpd.prediction.batch import read_summary
from napari_lpd.prediction.plan import PLAN, TABLE, BatchPlan, slides_in
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.formats import TIFF_SUFFIXES, VENDOR_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import napari.viewer

    from napari_lpd.core.jobs import Job
    from napari_lpd.prediction.batch import SlideTask

KEPT = "batch/folder"
CLOSING = "Slides are being segmented. Close anyway? What is done is kept; Start continues from there."
NOT_SHOWN = ("icc", "override_mpp", "image", "origin")  # parts of a plan that only the command line sets


class BatchWidget(DockWidget):
    """Widget to segment several slides with one model, overnight."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._slides: list[Path] = []
        self._plan: BatchPlan | None = None  # of the folder
        self._done = 0  # slides of this run
        self._latest: Progress | None = None

        self.table = SlideTable()
        self.model = ModelPicker(lambda: None)
        self.out = QLineEdit(placeholderText="folder for the results")
        self.mpp = QLineEdit(placeholderText="µm per pixel of slides whose files have none")
        self.replace = QCheckBox("Replace results of another model or other settings")
        self.scheduler = QLineEdit(placeholderText="tcp://HOST:8786; empty: this computer")
        self.form = SettingsForm(PredictSettings())
        self.others, self.total = note(""), note("")
        self.job = JobBar("Start", pausable=True, question=CLOSING)
        self.finder = JobRunner(self)
        self._lay_out()
        self._connect()
        self._go_on()

    def _lay_out(self) -> None:
        self._list = buttons(
            ("Add slides…", "Choose slide files", self._on_add),
            ("Add a folder…", "Add all slides in a folder and the folders in it", self._on_add_folder),
            ("Remove", "Take the selected slides from the list; results stay", self._on_remove),
        )
        browse = buttons(("Browse…", "Choose the folder; one of an earlier batch goes on", self._on_browse))
        folder = in_row([self.out, browse])
        more = folded("More", in_column([self.mpp, self.replace, note("Dask cluster"), self.scheduler, self.form]))
        self._chosen = Column()
        self._chosen.add(folder, title="Folder for the results")
        self._chosen.add(self.model, title="Model")
        self._chosen.add(more, self.others, note(NOTICE))
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(in_column([self._list, self.table]))
        split.addWidget(self._chosen)
        split.setChildrenCollapsible(False)
        split.setSizes((360, 240))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 0, 0)
        layout.addWidget(split)
        layout.addWidget(foot(self.total, self.job))
        primary(self.job.button)

    def _connect(self) -> None:
        self.table.opened.connect(self._on_opened)
        self.model.failed.connect(self._on_failed)
        self.out.editingFinished.connect(self._on_folder)
        self.job.asked.connect(self._on_start)
        self.job.runner.progressed.connect(self._on_progressed)
        self.job.runner.ended.connect(self._on_ended)
        self.finder.succeeded.connect(self.add)
        self.finder.failed.connect(lambda message: self.job.say(f"⚠ {message}"))

    def use(self, model: Path, settings: PredictSettings) -> None:
        """Take over model and settings, unless there is a batch that has its own."""
        if not self._slides:
            self.model.choose(model)
            self.form.set_value(settings)
        else:
            self.job.say("Model and settings are those of this batch: change them below for another.")

    # Slides and folder

    def add(self, slides: Iterable[Path]) -> None:
        """Add slides that are not in the list yet."""
        self._slides = list(dict.fromkeys([*self._slides, *(path.absolute() for path in slides)]))
        self._refresh()

    def _on_add(self) -> None:
        patterns = " ".join(f"*{suffix}" for suffix in (*VENDOR_SUFFIXES, *TIFF_SUFFIXES))
        paths, _ = QFileDialog.getOpenFileNames(self, "Slides", "", f"Slides ({patterns});;All files (*)")
        self.add(map(Path, paths))

    def _on_add_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of slides")
        if folder:
            with self.job.reporting():
                self.finder.start(lambda: _found(Path(folder)))

    def _on_remove(self) -> None:
        chosen = self.table.chosen()
        self._slides = [path for row, path in enumerate(self._slides) if row not in chosen]
        self._refresh()

    def _on_browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the results", self.out.text())
        if folder:
            self.out.setText(folder)
            self._on_folder()

    def _on_folder(self) -> None:
        if self.out.text().strip() and (self._plan is None or self._folder() != Path(kept(KEPT))):
            self.open_folder()

    def _folder(self) -> Path:
        if not self.out.text().strip():
            raise DataError("choose the folder for the results")
        return Path(self.out.text().strip()).expanduser().absolute()

    def open_folder(self) -> None:
        """Go on with the batch in the folder, if there is one: its slides, model and settings."""
        with self.job.reporting():
            out = self._folder()
            keep(KEPT, str(out))
            self._plan = BatchPlan.read(out) if (out / PLAN).exists() else None
            if self._plan is not None:
                self._slides = list(dict.fromkeys([*self._plan.slides, *self._slides]))
                self._show_plan(self._plan)
                self.job.say("A batch was begun in this folder: its slides, model and settings are shown.")
            self._refresh()

    def _go_on(self) -> None:
        """Show the batch of the session before, unless it is all done."""
        self.out.setText(kept(KEPT))
        if self.out.text() and (self._folder() / PLAN).exists():
            self.open_folder()
            if self.table.entries and all(entry.is_done for entry in self.table.entries):
                self._slides, self._plan = [], None
                self.out.clear()
        self._refresh()

    def _show_plan(self, plan: BatchPlan) -> None:
        self.form.set_value(plan.settings)
        self.mpp.setText("" if plan.mpp is None else f"{plan.mpp:g}")
        self.replace.setChecked(plan.replace)
        self.scheduler.setText(plan.scheduler)
        plain = BatchPlan(slides=plan.slides, model=plan.model)
        set_there = [name for name in NOT_SHOWN if getattr(plan, name) != getattr(plain, name)]
        others = ", ".join(f"{name} {getattr(plan, name)}" for name in set_there)
        self.others.setText(f"From the command line: {others}" if others else "")
        self.model.choose(plan.model)

    def plan(self) -> BatchPlan:
        """Return what is to be done.

        Raises:
            LpdError: slides, folder or model are missing, or a setting is out of its limits.
        """
        if not self._slides:
            raise DataError("no slides yet: press Add slides… or Add a folder…")
        values = {} if self._plan is None else {name: getattr(self._plan, name) for name in NOT_SHOWN}
        values |= {"slides": self._slides, "model": self.model.path().absolute(), "settings": self.form.value()}
        values |= {"replace": self.replace.isChecked(), "scheduler": self.scheduler.text().strip()}
        mpp = self.mpp.text()
        return BatchPlan.build(values | {"mpp": entered_mpp(mpp, "the slides'") if mpp.strip() else None})

    # Run

    def _on_start(self) -> None:
        with self.job.reporting():
            plan, out = self.plan(), self._folder()
            plan.write(out)
            keep(KEPT, str(out))
            self._plan, self._done, self._latest = plan, 0, None
            paused = self.job.runner.paused
            self.job.start(lambda: in_subprocess(["predict", "--resume", "--out", str(out)], paused))
            self.job.pause.setVisible(not plan.scheduler)  # what was sent to a cluster goes on there
            self._list.setEnabled(False)
            self._chosen.setEnabled(False)
            self._refresh()

    def _on_progressed(self, progress: Progress) -> None:
        assert self._plan is not None
        if isinstance(progress, SlideDone):
            self._done += 1
            self._latest = None
            self._refresh()
        elif not self._plan.scheduler:
            self._latest = progress
        self._show_running()

    def _running_row(self) -> int | None:
        """Return the row of the slide that is running, which is the first that is not done in this run."""
        alone = self.job.runner.running and self._plan is not None and not self._plan.scheduler
        return self._done if alone and self._done < len(self._slides) else None

    def _show_running(self) -> None:
        row = self._running_row()
        self.table.show_running(row, self._latest or Progress(0, 0))
        entries = self.table.entries
        done, failed = sum(entry.is_done for entry in entries), sum(bool(entry.error) for entry in entries)
        left = self.table.seconds_left(row, self._latest)
        parts = [f"{done} of {len(entries)} slides done", f"{failed} failed" if failed else ""]
        parts += [f"about {duration(left)} left" if left and row is not None else ""]
        self.total.setText(" · ".join(part for part in parts if part) if entries else "")

    def _on_ended(self) -> None:
        self._list.setEnabled(True)
        self._chosen.setEnabled(True)
        with self.job.reporting():
            self._refresh()
        if self.job.status.text() == "Stopped.":
            self.job.say("Stopped; what is done is kept. Start continues from there, as does, on the command line,"
                         f" napari-lpd predict --resume --out {self.out.text()}")  # fmt: skip
        elif not self.job.status.text().startswith("⚠"):
            self.job.say("All slides are done: double click one to see its mask.")

    def _refresh(self) -> None:
        """Show the slides with what the table of the folder says of them."""
        if not self._slides or not self.out.text().strip():
            tasks, lines = self._tasks(Path()), {}
        else:
            tasks, lines = self._tasks(self._folder()), read_summary(self._folder() / TABLE)
        row = self._running_row()
        for task in tasks[row:] if row is not None and self.replace.isChecked() else []:
            lines.pop(str(task.slide), None)  # of a result that is to be replaced
        self.table.show_entries([Entry(task, lines.get(str(task.slide), {})) for task in tasks])
        self._show_running()

    def _tasks(self, out: Path) -> Sequence[SlideTask]:
        """Return the listed slides as tasks; model and settings play no part in where results go."""
        return BatchPlan(slides=tuple(self._slides), model=Path()).tasks(out) if self._slides else []

    def _on_failed(self, message: str) -> None:
        with self.job.reporting():
            raise DataError(message)

    # Look at one

    def _on_opened(self, task: SlideTask) -> None:
        with self.job.reporting():
            layer = next((each for each in slide_layers(self._viewer) if slide_path(each) == task.slide), None)
            if layer is None:
                data, options, _ = slide_layer_data(task.slide, self._plan.image if self._plan else None)
                layer = self._viewer.add_image(data, **options)
                if self._plan and self._plan.mpp and any(str(unit) != UM for unit in layer.units):
                    set_resolution(layer, self._plan.mpp)
            bring_to_front(self._viewer, layer)
            if task.folder.exists():
                show_prediction(self._viewer, Prediction.open(task.folder), layer)


def _found(folder: Path) -> Job[list[Path]]:
    """Find the slides in a folder."""
    found: list[Path] = []
    try:
        for path in slides_in(folder):
            found.append(path)
            yield Progress(0, 0, f"{len(found)} slides found")
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({error.strerror})") from error
    if not found:
        raise DataError(f"{folder}: holds no slides ({', '.join((*VENDOR_SUFFIXES, *TIFF_SUFFIXES))})")
    return found
