"""What a model is trained on: regions drawn on slides, one or several, or labelled tiles; and the tissue classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.core.classes import CLASSES, read_classes
from napari_lpd.core.errors import LpdError
from napari_lpd.data.project import SUFFIX, Project, read_project, write_project
from napari_lpd.data.regions import NONE, read_regions, write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.gui.common.layout import buttons, chooser, in_row, note
from napari_lpd.gui.layers.slides import slide_path
from napari_lpd.gui.train.class_table import ClassTable
from napari_lpd.gui.train.labelled_tiles import LabelledTiles
from napari_lpd.gui.train.slide_regions import SlideRegions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.data.regions import Region

DRAWN, TILES = "regions drawn on slides", "labelled tiles: a folder or a table"
ALONE = "Project: none; trains on this slide alone"


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
        self.used = note(ALONE)
        self.patient = QLineEdit()
        self.patient.setPlaceholderText("patient, if several slides are of one")
        self.patient.setToolTip("Kept in the project: slides of one patient are never split for validation")
        self.tiles = LabelledTiles()
        self.classes = ClassTable(read_classes(samples.classes_path()))
        self.drawn = SlideRegions(viewer, self.classes)
        self._pages = (QWidget(), self.tiles)
        self._lay_out()
        self.drawn.said.connect(self.said)
        self.drawn.failed.connect(self.failed)
        self.source.currentIndexChanged.connect(self._on_source)
        self.drawn.slides.changed.connect(self._show_patient)
        self._on_source(0)

    def _lay_out(self) -> None:
        page = QVBoxLayout(self._pages[0])
        page.setSpacing(4)
        for part in (
            self.drawn,
            self.used,
            self.patient,
            buttons(
                (
                    "Add to project…",
                    "Train on this slide together with others, in a project file",
                    self._on_add,
                ),
                ("Open project…", "Train on the slides of a project file", self._on_open),
                ("Leave", "Train on the open slide alone", lambda: self.use_project(None)),
            ),
        ):
            page.addWidget(part)
        layout = QVBoxLayout(self)
        layout.setSpacing(4)
        for whole in (layout, page):
            whole.setContentsMargins(0, 0, 0, 0)
        glass = "Mark the selected regions as glass or anything that is none of the classes (key 0)"
        self._mark_none = buttons(("Mark none", glass, lambda: self.drawn.use(NONE)))
        add = buttons(("Add class", "One more tissue class", self.classes.add))
        class_buttons = in_row([self._mark_none, add, self._class_lists()])
        for part in (self.source, *self._pages, note("<b>Tissue classes</b>"), self.classes, class_buttons):
            layout.addWidget(part)

    def _class_lists(self) -> QPushButton:
        """A button that opens ready lists of classes, and those in a file."""
        menu = QMenu(self)
        lists = {"Skin sample": read_classes(samples.classes_path())}
        lists |= {f"{name.upper()}: {', '.join(t.name for t in held)}": held for name, held in CLASSES.items()}
        for title, held in lists.items():
            menu.addAction(title, lambda held=held: self.classes.set_classes(held))
        menu.addAction("From a file (JSON)…", self._on_load_classes)
        button = QPushButton("Lists")
        button.setToolTip("Take the names and colours of a ready list, or of a file")
        button.setMenu(menu)
        return button

    # What is chosen

    def name(self) -> str:
        """A short name for models trained on this."""
        if self.source.currentText() == TILES:
            return self.tiles.name()
        if self.project is not None:
            return self.project.name.removesuffix(SUFFIX)
        return self.drawn.file().stem

    def tiles_mpp(self) -> float | None:
        """µm per pixel of labelled tiles; None where tiles are cut from slides, at any resolution.

        Raises:
            DataError: it is not given.
        """
        return self.tiles.mpp() if self.source.currentText() == TILES else None

    def tissue_classes(self) -> tuple[TissueClass, ...]:
        """The classes as they stand.

        Raises:
            LpdError: fewer than two, or a name that is empty or occurs twice.
        """
        return self.classes.classes()

    def training_source(self, make_run: Callable[[], Path]) -> tuple[Path, TrainingSource]:
        """Check the data and make the run's folder; returns it and what is trained on.

        Raises:
            LpdError: something is missing; then no folder was made.
        """
        if self.source.currentText() == TILES:
            source = self.tiles.training_source()
            return make_run(), source
        if self.project is not None:
            self.drawn.files.save()
            project = self._project_now()
            names = [tissue.name for tissue in project.classes]
            regions_of_slides = [read_regions(held.regions, names) for held in project.slides]
            write_project(self.project, project)
            run = make_run()
            kept = write_project(run / f"project{SUFFIX}", _copied(project, regions_of_slides, run))
            return run, TrainingSource(project=kept)
        slide, regions = self.drawn.file(), self.drawn.checked()
        run = make_run()
        write_regions(run / "regions.geojson", regions, self.tissue_classes())
        return run, TrainingSource(slide=slide, regions=run / "regions.geojson", slide_mpp=self.drawn.mpp())

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
            self.used.setText(ALONE)
        else:
            names = ", ".join(held.slide.name for held in project.slides)
            count = f"{len(project.slides)} slide{'s' * (len(project.slides) > 1)}"
            self.used.setText(f"Project {path.name}: {count} ({names})")
            self._show_patient()

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
            own = self.drawn.annotated().model_copy(update={"patient": self.patient.text().strip()})
            slides = list(read_project(path).slides) if path.exists() else []
            places = [number for number, held in enumerate(slides) if held.slide == own.slide]
            if places:
                slides[places[0]] = own
            else:
                slides.append(own)
            write_project(path, Project(classes=self.tissue_classes(), slides=tuple(slides)))
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.use_project(path)

    def _project_now(self) -> Project:
        assert self.project is not None
        return read_project(self.project).model_copy(update={"classes": self.tissue_classes()})

    def _show_patient(self) -> None:
        """Whose the open slide is, as the project says."""
        layer = self.drawn.slides.find()
        path = None if layer is None else slide_path(layer)
        if self.project is not None and self.project.exists():
            try:
                slides = read_project(self.project).slides
            except LpdError as error:
                self.failed.emit(str(error))
                return
            self.patient.setText(next((held.patient for held in slides if held.slide == path), ""))

    # Source and classes

    def _on_source(self, index: int) -> None:
        for number, page in enumerate(self._pages):
            page.setVisible(number == index)
        drawn = self.source.currentText() == DRAWN
        self._mark_none.setVisible(drawn)
        self.classes.set_markable(drawn)

    def _on_load_classes(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Classes", "", "Classes (*.json)")
        if path:
            try:
                self.classes.set_classes(read_classes(Path(path)))
            except LpdError as error:
                self.failed.emit(str(error))


def _copied(project: Project, regions_of_slides: Sequence[Sequence[Region]], run: Path) -> Project:
    """The project with its regions copied into a run's folder, so that the run can be repeated."""
    slides = []
    for number, (held, regions) in enumerate(zip(project.slides, regions_of_slides, strict=True), start=1):
        copied = write_regions(run / f"regions-{number:03d}.geojson", regions, project.classes)
        slides.append(held.model_copy(update={"regions": copied}))
    return project.model_copy(update={"slides": tuple(slides)})
