"""What a model is trained on: regions drawn on slides, one or several, or labelled tiles; and the tissue classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.classes import read_classes
from napari_lpd.errors import DataError, LpdError
from napari_lpd.gui._classes import ClassTable
from napari_lpd.gui._layout import buttons, chooser, in_row, note
from napari_lpd.gui._slide_regions import SlideRegions
from napari_lpd.project import SUFFIX, Project, read_project, write_project
from napari_lpd.regions import NONE, read_regions, write_regions

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

    from napari_lpd.classes import TissueClass

DRAWN, TILES = "regions drawn on slides", "labelled tiles: a folder or a table"


class TrainingData(QWidget):
    """Choose and annotate the data; regions are saved beside their slide as they are drawn.

    Signals:
        said: a line for the status.
        failed: an error's line.
    """

    said = Signal(str)
    failed = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.project: Path | None = None
        self.source = chooser([DRAWN, TILES])
        self.used = note("Project: none; trains on this slide alone")
        self.folder = QLineEdit()
        self.folder.setPlaceholderText("NAME[1010].png, CLASS/NAME.png, or a table (CSV)")
        self.classes = ClassTable(read_classes(samples.classes_path()))
        self.drawn = SlideRegions(viewer, self.classes)
        self._pages = (QWidget(), QWidget())
        self._lay_out()
        self.drawn.said.connect(self.said)
        self.drawn.failed.connect(self.failed)
        self.source.currentIndexChanged.connect(self._on_source)
        self._on_source(0)

    def _lay_out(self) -> None:
        page = QVBoxLayout(self._pages[0])
        page.setSpacing(4)
        for part in (
            self.drawn,
            self.used,
            buttons(
                (
                    "Add to project…",
                    "Train on this slide together with others, in a project file",
                    self._on_add,
                ),
                ("Open…", "Train on the slides of a project file", self._on_open),
                ("Leave", "Train on the open slide alone", lambda: self.use_project(None)),
            ),
        ):
            page.addWidget(part)
        browse = ("Folder…", "Choose the folder of tiles", self._on_folder)
        table = ("Table…", "Choose a CSV or TSV table of tiles", self._on_table)
        page = QVBoxLayout(self._pages[1])
        page.addWidget(in_row([self.folder, buttons(browse, table)]))
        layout = QVBoxLayout(self)
        layout.setSpacing(4)
        for whole in (layout, *(page.layout() for page in self._pages)):
            whole.setContentsMargins(0, 0, 0, 0)
        glass = "Mark the selected regions as glass or anything that is none of the classes (key 0)"
        class_buttons = buttons(
            ("Mark none", glass, lambda: self.drawn.use(NONE)),
            ("Add class", "One more tissue class", self.classes.add),
            ("Load…", "Names and colours from classes.json", self._on_load_classes),
        )
        for part in (self.source, *self._pages, note("<b>Tissue classes</b>"), self.classes, class_buttons):
            layout.addWidget(part)

    # What is chosen

    def name(self) -> str:
        """A short name for models trained on this."""
        if self.source.currentText() == TILES:
            return Path(self.folder.text()).expanduser().stem or "tiles"
        if self.project is not None:
            return self.project.name.removesuffix(SUFFIX)
        return self.drawn.file().stem

    def tissue_classes(self) -> tuple[TissueClass, ...]:
        """The classes as they stand.

        Raises:
            LpdError: fewer than two, or a name that is empty or occurs twice.
        """
        return self.classes.classes()

    def arguments(self, make_run: Callable[[], Path]) -> tuple[Path, list[str]]:
        """Check the data and make the run's folder; returns it and the arguments that say what is trained on.

        Raises:
            LpdError: something is missing; then no folder was made.
        """
        if self.source.currentText() == TILES:
            if not self.folder.text().strip():
                raise DataError("no labelled tiles given: choose a folder or a table")
            data = Path(self.folder.text()).expanduser()
            if not data.exists():
                raise DataError(f"{data}: no such folder or table")
            return make_run(), ["--data", str(data)]
        if self.project is not None:
            read_project(self.project)
            self.drawn.save()
            write_project(self.project, self._project_now())
            run = make_run()
            kept = write_project(run / f"project{SUFFIX}", self._copied(read_project(self.project), run))
            return run, ["--project", str(kept)]
        slide, regions = self.drawn.file(), self.drawn.checked()
        run = make_run()
        write_regions(run / "regions.geojson", regions, self.tissue_classes())
        mpp = self.drawn.mpp()
        given = [] if mpp is None else ["--slide-mpp", str(mpp)]
        return run, ["--slide", str(slide), "--regions", str(run / "regions.geojson"), *given]

    def has_own_classes(self) -> bool:
        """Whether the classes come with the data: a project's do."""
        return self.source.currentText() == DRAWN and self.project is not None

    # Several slides

    def use_project(self, path: Path | None) -> None:
        """Train on the slides of a project file, or with None on the open slide alone."""
        try:
            if path is not None:
                project = read_project(path)
                self.classes.set_classes(project.classes)
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.project = path
        if path is None:
            self.used.setText("Project: none; trains on this slide alone")
        else:
            names = ", ".join(held.slide.name for held in project.slides)
            self.used.setText(f"Project {path.name}: {len(project.slides)} slides ({names})")

    def _on_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Project", "", f"Projects (*{SUFFIX})")
        if path:
            self.use_project(Path(path))

    def _on_add(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self,
            "Project to add this slide to",
            str(self.project or ""),
            f"Projects (*{SUFFIX})",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if path:
            self.add_to_project(Path(path if path.endswith(SUFFIX) else f"{path}{SUFFIX}"))

    def add_to_project(self, path: Path) -> None:
        """Keep the open slide and its regions in a project file, new or old, and train on that."""
        try:
            own = self.drawn.annotated()
            others = [held for held in read_project(path).slides if held.slide != own.slide] if path.exists() else []
            write_project(path, Project(classes=self.tissue_classes(), slides=(*others, own)))
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.use_project(path)

    def _project_now(self) -> Project:
        assert self.project is not None
        return read_project(self.project).model_copy(update={"classes": self.tissue_classes()})

    def _copied(self, project: Project, run: Path) -> Project:
        """The project with its regions copied into a run's folder, so that the run can be repeated."""
        names = [tissue.name for tissue in project.classes]
        slides = []
        for number, held in enumerate(project.slides, start=1):
            regions = read_regions(held.regions, names)
            copied = write_regions(run / f"regions-{number:03d}.geojson", regions, project.classes)
            slides.append(held.model_copy(update={"regions": copied}))
        return project.model_copy(update={"slides": tuple(slides)})

    # Labelled tiles, and classes

    def _on_source(self, index: int) -> None:
        for number, page in enumerate(self._pages):
            page.setVisible(number == index)

    def _on_folder(self) -> None:
        self.folder.setText(QFileDialog.getExistingDirectory(self, "Folder of tiles") or self.folder.text())

    def _on_table(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Table of tiles", "", "Tables (*.csv *.tsv)")
        self.folder.setText(path or self.folder.text())

    def _on_load_classes(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Classes", "", "Classes (*.json)")
        if path:
            try:
                self.classes.set_classes(read_classes(Path(path)))
            except LpdError as error:
                self.failed.emit(str(error))
