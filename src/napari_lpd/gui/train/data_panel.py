"""Training data of a model: regions drawn on one or several slides, or labelled tiles; and the tissue classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QFormLayout, QLineEdit, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.core.classes import CLASSES, TissueClass, read_classes
from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import told_apart
from napari_lpd.data.project import SUFFIX, Project, read_project, write_project
from napari_lpd.data.regions import write_regions
from napari_lpd.data.training_set import TrainingSource, read_annotated
from napari_lpd.gui.common.layout import buttons, chooser, in_row, note
from napari_lpd.gui.common.recent_models import keep, kept
from napari_lpd.gui.layers.slides import entered_mpp, slide_id, slide_image, slide_path
from napari_lpd.gui.train.class_table import ClassTable
from napari_lpd.gui.train.slide_regions import SlideRegions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer
    from napari.layers import Image

    from napari_lpd.data.regions import Region

DRAWN, TILES = "regions drawn on slides", "labelled tiles: a folder or a table"
KEPT = "train/classes"
ALONE = "Project: none; trains on this slide only"
FORMS = (
    "A folder of NAME[1010].png (BCSS-WSSS, LUAD-HistoSeg: a digit per class, in the classes' order) or of"
    " CLASS/NAME.png, or a table (CSV, TSV) with a column path and one of 0 and 1 per class."
)
PATTERN_HELP = (
    "A regular expression whose first group, in a tile's name, is its slide or patient; empty: the name before + or [,"
    " or the table's column source. Tiles of one slide are never split between training and validation."
)


class LabelledTiles(QWidget):
    """Form to choose a folder or table of tiles and enter what the files do not contain."""

    def __init__(self) -> None:
        super().__init__()
        self.folder, self.resolution, self.pattern = QLineEdit(), QLineEdit(), QLineEdit()
        self.folder.setPlaceholderText("folder or table")
        self.resolution.setPlaceholderText("required; the files do not contain it")
        self.pattern.setPlaceholderText("optional: a regular expression")
        self.pattern.setToolTip(PATTERN_HELP)
        browse = ("Folder…", "Choose the folder of tiles", self._on_folder)
        table = ("Table…", "Choose a CSV or TSV table of tiles", self._on_table)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("µm per pixel", self.resolution)
        form.addRow("slide in names", self.pattern)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(in_row([self.folder, buttons(browse, table)]))
        layout.addWidget(note(FORMS))
        layout.addLayout(form)

    def name(self) -> str:
        """Return a short name for models trained on these tiles."""
        return Path(self.folder.text()).expanduser().stem or "tiles"

    def mpp(self) -> float:
        """Return the resolution of the tiles in µm per pixel.

        Raises:
            DataError: the resolution is missing or not plausible.
        """
        return entered_mpp(self.resolution.text(), "the tiles'")

    def training_source(self) -> TrainingSource:
        """Check the form and return the training source.

        Raises:
            DataError: no folder or table is chosen, or it does not exist.
        """
        if not self.folder.text().strip():
            raise DataError("no labelled tiles: choose a folder or a table")
        data = Path(self.folder.text()).expanduser()
        if not data.exists():
            raise DataError(f"{data}: no such folder or table")
        self.mpp()
        pattern = self.pattern.text().strip()
        return TrainingSource(data=data, source_pattern=pattern)

    def _on_folder(self) -> None:
        self.folder.setText(QFileDialog.getExistingDirectory(self, "Folder of tiles") or self.folder.text())

    def _on_table(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Table of tiles", "", "Tables (*.csv *.tsv)")
        self.folder.setText(path or self.folder.text())


class TrainingData(QWidget):
    """Panel to choose and annotate the data; regions are saved beside their slide while they are drawn.

    Signals:
        message: a line for the status.
        failed: an error message.

    Attributes:
        more: What is seldom used, laid out apart: labelled tiles, files of regions, projects.
    """

    message = Signal(str)
    failed = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.project: Path | None = None
        self._patient_of: Image | None = None  # the slide whose patient is shown
        self.source = chooser([DRAWN, TILES])
        self.used = note(ALONE)
        self.patient = QLineEdit()
        self.patient.setPlaceholderText("patient, if several slides are of the same")
        self.patient.setToolTip("Saved in the project: slides of one patient are never split for validation")
        self.tiles = LabelledTiles()
        self.classes = ClassTable(_kept_classes())
        self.drawn = SlideRegions(viewer, self.classes)
        self.more = QWidget()
        self._lay_out()
        self.drawn.message.connect(self.message)
        self.drawn.failed.connect(self.failed)
        self.source.currentIndexChanged.connect(self._on_source)
        self.drawn.slides.changed.connect(self._show_patient)
        self.classes.changed.connect(self._keep_classes)
        self._on_source()

    def _lay_out(self) -> None:
        """Put what every training needs here, in the order of the work, and the rest into `more`."""
        project = buttons(
            ("Add to project…", "Train on this slide together with others, in a project file", self._on_add),
            ("Open project…", "Train on the slides of a project file", self._on_open),
            ("Close", "Close the project and train on the open slide only", lambda: self.use_project(None)),
        )
        add = buttons(("Add class", "One more tissue class", self.classes.add))
        self._of_slides = (self.drawn.slides, self.drawn, self.drawn.file_actions, self.used, self.patient, project)
        main = (self.drawn.slides, self.classes, in_row([add, self._class_lists()]), self.drawn, self.tiles)
        for page, widgets in ((self, main), (self.more, (self.source, *self._of_slides[2:]))):
            layout = QVBoxLayout(page)
            layout.setContentsMargins(0, 0, 0, 0)
            layout.setSpacing(4)
            for widget in widgets:
                layout.addWidget(widget)

    def _class_lists(self) -> QPushButton:
        """Make the button with presets of classes and classes from a file."""
        menu = QMenu(self)
        lists = {"Skin sample": read_classes(samples.classes_path())}
        lists |= {f"{name.upper()}: {', '.join(t.name for t in classes)}": classes for name, classes in CLASSES.items()}
        for title, classes in lists.items():
            menu.addAction(title, lambda classes=classes: self.classes.set_classes(classes))
        menu.addAction("From a file (JSON)…", self._on_load_classes)
        button = QPushButton("Presets")
        button.setToolTip("Load the names and colours of a preset or a file")
        button.setMenu(menu)
        return button

    # Chosen data

    def name(self) -> str:
        """Return a short name for models trained on this data."""
        if self.source.currentText() == TILES:
            return self.tiles.name()
        if self.project is not None:
            return self.project.name.removesuffix(SUFFIX)
        return self.drawn.file().stem

    def tiles_mpp(self) -> float | None:
        """Return the µm per pixel of labelled tiles; None for slides, which are read at any resolution.

        Raises:
            DataError: the resolution is missing.
        """
        return self.tiles.mpp() if self.source.currentText() == TILES else None

    def tissue_classes(self) -> tuple[TissueClass, ...]:
        """Return the classes in the table.

        Raises:
            LpdError: fewer than two, or a name that is empty or occurs twice.
        """
        return self.classes.classes()

    def training_source(self, make_run: Callable[[], Path]) -> tuple[Path, TrainingSource]:
        """Check the data, make the run's folder, and return the folder and the training source.

        Raises:
            LpdError: data are missing; then no folder is made.
        """
        if self.source.currentText() == TILES:
            source = self.tiles.training_source()
            return make_run(), source
        if self.project is not None:
            self.drawn.files.save()
            project = self._project_now()
            names = [tissue.name for tissue in project.classes]
            regions_of_slides = [read_annotated(slide, names) for slide in project.slides]
            write_project(self.project, project)
            run = make_run()
            copy = write_project(run / f"project{SUFFIX}", _copied(project, regions_of_slides, run))
            return run, TrainingSource(project=copy)
        path, regions = self.drawn.file(), self.drawn.checked()
        run = make_run()
        write_regions(run / "regions.geojson", regions, self.tissue_classes())
        mpp, image = self.drawn.mpp(), slide_image(self.drawn.slides.layer())
        return run, TrainingSource(slide=path, regions=run / "regions.geojson", slide_mpp=mpp, image=image)

    def has_own_classes(self) -> bool:
        """Return whether the data bring their own classes, as a project does."""
        return self.source.currentText() == DRAWN and self.project is not None

    # Several slides

    def use_project(self, path: Path | None) -> None:
        """Train on the slides of a project file, or with None on the open slide only."""
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
            names = ", ".join(told_apart([annotated.slide for annotated in project.slides]))
            count = f"{len(project.slides)} slide{'s' * (len(project.slides) > 1)}"
            self.used.setText(f"Project {path.name}: {count} ({names})")
            self._patient_of = None
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
        """Save the open slide and its regions in a project file, new or existing, and train on the project."""
        try:
            said = {"patient": self.patient.text().strip(), "fingerprint": slide_id(self.drawn.slides.layer())}
            annotated = self.drawn.annotated().model_copy(update=said)
            slides = list(read_project(path).slides) if path.exists() else []
            indices = [index for index, other in enumerate(slides) if other.place == annotated.place]
            if indices:
                slides[indices[0]] = annotated
            else:
                slides.append(annotated)
            write_project(path, Project(classes=self.tissue_classes(), slides=tuple(slides)))
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.use_project(path)

    def _project_now(self) -> Project:
        assert self.project is not None
        return read_project(self.project).model_copy(update={"classes": self.tissue_classes()})

    def _show_patient(self) -> None:
        """Show the patient of the chosen slide, as saved in the project, when another slide is chosen."""
        layer = self.drawn.slides.find()
        if layer is self._patient_of:
            return
        self._patient_of = layer
        self.patient.clear()
        path = None if layer is None else slide_path(layer)
        if self.project is not None and self.project.exists() and path is not None:
            place = (path.resolve(), slide_image(layer))
            try:
                slides = read_project(self.project).slides
            except LpdError as error:
                self.failed.emit(str(error))
                return
            self.patient.setText(next((annotated.patient for annotated in slides if annotated.place == place), ""))

    # Source and classes

    def _keep_classes(self) -> None:
        """Store the classes for the next session."""
        keep(KEPT, json.dumps([tissue.model_dump() for tissue in self.classes.drafts()]))

    def _on_source(self) -> None:
        is_drawn = self.source.currentText() == DRAWN
        for widget in self._of_slides:
            widget.setVisible(is_drawn)
        self.tiles.setVisible(not is_drawn)
        self.classes.set_markable(is_drawn)

    def _on_load_classes(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Classes", "", "Classes (*.json)")
        if path:
            try:
                self.classes.set_classes(read_classes(Path(path)))
            except LpdError as error:
                self.failed.emit(str(error))


def _kept_classes() -> tuple[TissueClass, ...]:
    """Return the classes of the session before; at first those of the sample."""
    stored = json.loads(kept(KEPT) or "[]")
    return tuple(TissueClass.build(each) for each in stored) or read_classes(samples.classes_path())


def _copied(project: Project, regions_of_slides: Sequence[Sequence[Region]], run: Path) -> Project:
    """Copy a project's regions into a run's folder, so that the run can be repeated."""
    slides = []
    for number, (annotated, regions) in enumerate(zip(project.slides, regions_of_slides, strict=True), start=1):
        copied = write_regions(run / f"regions-{number:03d}.geojson", regions, project.classes)
        slides.append(annotated.model_copy(update={"regions": copied}))
    return project.model_copy(update={"slides": tuple(slides)})
