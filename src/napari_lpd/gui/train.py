"""The Train widget: regions with tissue names on a slide, or a folder of labelled tiles, become a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.checkpoint import STATE_NAME, read_state
from napari_lpd.classes import read_classes
from napari_lpd.config import TrainSettings
from napari_lpd.errors import DataError
from napari_lpd.gui._classes import ClassTable
from napari_lpd.gui._curves import LossCurves
from napari_lpd.gui._forms import SettingsForm, merged
from napari_lpd.gui._job import JobBar
from napari_lpd.gui._layers import KEY, slide_of, slide_path
from napari_lpd.gui._layout import Column, advanced, buttons, chooser, in_row, note
from napari_lpd.gui._models import recent_models
from napari_lpd.gui._regions import (
    NONE,
    add_regions,
    area_mm2,
    new_regions_layer,
    recolour,
    regions_layers,
    regions_of,
    use_tissue,
)
from napari_lpd.gui._slides import SlidePicker
from napari_lpd.jobs import Progress, in_subprocess
from napari_lpd.presets import PRESETS
from napari_lpd.regions import read_regions, write_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    from napari.layers import Shapes

ARGUMENTS = "arguments.json"  # of the child that trains; with them it goes on
MAIN = ("epochs", "max_steps", "model.prototypes_per_class", "mpp", "tile")


class TrainWidget(QWidget):
    """Choose data and classes, train in a child process, watch the losses."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer

        self.source = chooser(["regions drawn on a slide", "folder of labelled tiles"])
        self.slides = SlidePicker(viewer)
        self.regions = chooser()
        self.folder = QLineEdit()
        self.folder.setPlaceholderText("tiles NAME[1010].png or CLASS/NAME.png, or a table")
        self.classes = ClassTable(read_classes(samples.classes_path()))
        self.preset = chooser(list(PRESETS))
        self.form = SettingsForm(TrainSettings(), only=MAIN)
        self.more = SettingsForm(TrainSettings(), without=MAIN)
        self.out = QLineEdit(str(Path.home() / "napari-lpd"))
        self.job = JobBar("Train")
        self.resume = QPushButton("Resume")
        self.resume.setToolTip("Go on with the training that was stopped last, where it was")
        self.curves = LossCurves()
        self.curves.setVisible(False)

        self._pages = (QWidget(), QWidget())
        self._lay_out()
        self._connect()
        self._on_source(0)
        self._fill_regions()
        self._offer_resume()

    def _lay_out(self) -> None:
        page = QVBoxLayout(self._pages[0])
        page.setContentsMargins(0, 0, 0, 0)
        page.setSpacing(4)
        page.addWidget(self.slides)
        page.addWidget(self.regions)
        page.addWidget(
            buttons(
                ("New regions layer", "An empty layer on the slide to outline regions in", self._on_new_regions),
                ("Load regions…", "Regions from GeoJSON, QuPath's too", self._on_load_regions),
            )
        )
        page = QHBoxLayout(self._pages[1])
        page.setContentsMargins(0, 0, 0, 0)
        page.addWidget(self.folder)
        page.addWidget(buttons(("Browse…", "Choose the folder of tiles", self._on_folder)))
        column = Column()
        column.add(self.source, *self._pages, title="Data")
        glass = "Mark the selected regions as glass or anything that is none of the classes"
        column.add(
            self.classes,
            buttons(
                ("Mark none", glass, lambda: self._on_used(NONE)),
                ("Add class", "One more tissue class", self.classes.add),
                ("Load…", "Names and colours from classes.json", self._on_load_classes),
            ),
            title="Tissue classes",
        )
        column.add(in_row([QLabel("Preset"), self.preset]), self.form, advanced(self.more), title="Settings")
        browse_out = buttons(("Browse…", "Choose the folder", self._on_out))
        column.add(in_row([self.out, browse_out]), title="Models folder")
        column.add(self.job, self.resume, self.curves, note("Research use only; not for diagnosis."))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)

    def _connect(self) -> None:
        self.source.currentIndexChanged.connect(self._on_source)
        self.classes.used.connect(self._on_used)
        self.classes.changed.connect(self._on_classes)
        self.regions.currentIndexChanged.connect(self._count)
        self.preset.currentTextChanged.connect(self._on_preset)
        self.job.asked.connect(self._on_train)
        self.job.runner.progressed.connect(self._on_progressed)
        self.job.runner.succeeded.connect(self._on_trained)
        self.job.runner.ended.connect(self._on_ended)
        self.resume.clicked.connect(self._on_resume)
        self.out.textChanged.connect(self._offer_resume)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(self._viewer.layers.events, event).connect(self._fill_regions)

    def _regions_layer(self) -> Shapes:
        layers = regions_layers(self._viewer)
        index = self.regions.currentIndex()
        if not 0 <= index < len(layers):
            raise DataError("no regions yet: press New regions layer and outline a few regions per tissue")
        return layers[index]

    def _fill_regions(self) -> None:
        chosen = self.regions.currentText()
        self.regions.blockSignals(True)
        self.regions.clear()
        for layer in regions_layers(self._viewer):
            self.regions.addItem(layer.name)
            layer.events.data.connect(self._count)
        self.regions.setCurrentText(chosen)
        self.regions.blockSignals(False)
        self.regions.setVisible(self.regions.count() > 0)
        self._count()

    def _count(self) -> None:
        found = area_mm2(self._regions_layer()) if self.regions.count() else {}
        self.classes.set_counts({name: f"{count} · {area:.2f} mm²" for name, (count, area) in found.items()})

    def _on_source(self, index: int) -> None:
        for number, page in enumerate(self._pages):
            page.setVisible(number == index)

    def _on_new_regions(self) -> None:
        with self.job.reporting():
            layer = self.slides.layer()
            slide_of(layer).close()  # refuses a slide without resolution
            made = new_regions_layer(self._viewer, layer)
            self.regions.setCurrentText(made.name)
            self.job.say("Press a tissue's Mark button and outline what holds it.")

    def _on_load_regions(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Regions", "", "GeoJSON (*.geojson *.json)")
        if path:
            self.load_regions(Path(path))

    def load_regions(self, path: Path) -> None:
        """Draw the regions of a GeoJSON file on the chosen slide."""
        with self.job.reporting():
            regions = read_regions(path)
            self._on_new_regions()
            add_regions(self._regions_layer(), regions, self.classes.drafts())
            self._count()
            self.job.say(f"{len(regions)} regions from {path.name}.")

    def _on_load_classes(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Classes", "", "Classes (*.json)")
        if path:
            with self.job.reporting():
                self.classes.set_classes(read_classes(Path(path)))

    def _on_used(self, name: str) -> None:
        with self.job.reporting():
            said = use_tissue(self._regions_layer(), name, self.classes.drafts())
            self._count()
            self.job.say(said)

    def _on_classes(self) -> None:
        if self.regions.count():
            recolour(self._regions_layer(), self.classes.drafts())
        self._count()

    def _on_preset(self, name: str) -> None:
        settings = TrainSettings.build(PRESETS[name])
        self.form.set_value(settings)
        self.more.set_value(settings)

    def _on_folder(self) -> None:
        self.folder.setText(QFileDialog.getExistingDirectory(self, "Folder of tiles") or self.folder.text())

    def _on_out(self) -> None:
        self.out.setText(QFileDialog.getExistingDirectory(self, "Models folder") or self.out.text())

    def settings(self) -> TrainSettings:
        """The settings as both forms stand."""
        return TrainSettings.build(merged(self.form.value().model_dump(), self.more.changes()))

    def _on_train(self) -> None:
        with self.job.reporting():
            arguments = self._arguments()
            self._start(arguments, [])

    def _start(self, arguments: list[str], taken: Sequence[dict[str, float]]) -> None:
        self.job.start(lambda: in_subprocess(arguments))
        self.resume.setVisible(False)
        self.curves.show_steps(taken)
        self.curves.setVisible(True)

    def _models_folder(self) -> Path:
        return Path(self.out.text()).expanduser()

    def _offer_resume(self) -> None:
        """Show the Resume button where a training was stopped or killed."""
        run = unfinished_run(self._models_folder())
        self.resume.setVisible(run is not None and not self.job.runner.running)
        self.resume.setText(f"Resume {run.name}" if run else "Resume")

    def _on_resume(self) -> None:
        with self.job.reporting():
            run = unfinished_run(self._models_folder())
            state = None if run is None else read_state(run)
            if run is None or state is None:
                raise DataError(f"{self._models_folder()}: holds no training that was stopped")
            self._start(read_arguments(run), state["place"]["curve"])

    def _on_ended(self) -> None:
        self._offer_resume()
        if self.job.status.text() == "Stopped." and not self.resume.isHidden():
            self.job.say("Stopped; what was learned is kept. Resume goes on there.")

    def _arguments(self) -> list[str]:
        """Write what the child needs into a new run folder; returns the child's arguments."""
        settings, classes = self.settings(), self.classes.classes()
        if self.source.currentIndex() == 1:
            if not self.folder.text().strip():
                raise DataError("no folder of tiles given")
            tiles = Path(self.folder.text()).expanduser()
            run = new_run_folder(self._models_folder(), tiles.stem)
            data = ["--data", str(tiles)]
        else:
            layer = self.slides.layer()
            slide_of(layer).close()
            path = slide_path(layer)
            if path is None:
                raise DataError(f"{layer.name} is no slide file: save it as OME-TIFF and open that, then train on it")
            regions = regions_of(self._regions_layer(), layer)
            names = {tissue.name for tissue in classes}
            strange = sorted({name for region in regions for name in region.tissues} - names)
            if strange:
                raise DataError(f"regions are marked {', '.join(strange)}, which is not among the tissue classes")
            run = new_run_folder(self._models_folder(), path.stem)
            write_regions(run / "regions.geojson", regions, classes)
            data = ["--slide", str(path), "--regions", str(run / "regions.geojson")]
            given = layer.metadata[KEY].get("mpp")
            data += [] if given is None else ["--slide-mpp", str(given)]
        entries = {"classes": [tissue.model_dump() for tissue in classes]}
        (run / "classes.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
        changed = settings.model_dump(exclude_defaults=True) | {"mpp": settings.mpp}
        (run / "settings.json").write_text(json.dumps(changed, indent=1), encoding="utf-8")
        files = ["--classes", str(run / "classes.json"), "--settings", str(run / "settings.json")]
        arguments = ["train", *data, *files, "--out", str(run)]
        (run / ARGUMENTS).write_text(json.dumps(arguments, indent=1), encoding="utf-8")
        return arguments

    def _on_progressed(self, progress: Progress) -> None:
        self.curves.add(progress.done, progress.metrics)

    def _on_trained(self, result: dict[str, Any]) -> None:
        model = Path(result["model"])
        recent_models.add(model)
        tiles = ", ".join(f"{name} {count}" for name, count in result.get("tiles per class", {}).items())
        self.job.say(f"Trained on {result.get('tiles', '?')} tiles ({tiles}). The model is ready in Predict:\n{model}")


def unfinished_run(parent: Path) -> Path | None:
    """The run in `parent` that was stopped last, if any."""
    runs = [path.parent for path in parent.glob(f"*/{STATE_NAME}") if (path.parent / ARGUMENTS).exists()]
    return max(runs, key=lambda run: (run / STATE_NAME).stat().st_mtime, default=None)


def read_arguments(run: Path) -> list[str]:
    """The arguments of the child that trained in `run`.

    Raises:
        DataError: they are gone or damaged.
    """
    try:
        arguments = json.loads((run / ARGUMENTS).read_text(encoding="utf-8"))
        return [str(argument) for argument in arguments]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{run / ARGUMENTS}: cannot be read ({error}); train anew") from error


def new_run_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name-001`` or the next free number, so that no model is ever overwritten.

    Raises:
        DataError: the place cannot be written.
    """
    number = 1
    while (folder := parent / f"{name}-{number:03d}").exists():
        number += 1
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder
