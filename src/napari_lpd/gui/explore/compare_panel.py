"""Panel to compare two models' prototypes on a slide or a folder: metrics, figures and a card per prototype."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QHeaderView,
    QLabel,
    QScrollArea,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import atomic_write
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.settings.evaluation import CompareSettings
from napari_lpd.gui.common.job import JobBar
from napari_lpd.gui.common.layout import WIDTH, buttons, chooser, note
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.explore.heatmap_window import chosen_picture, pixmap_of
from napari_lpd.gui.explore.prototype_card import NOWHERE, CardView, jump
from napari_lpd.gui.layers.slides import slide_of
from napari_lpd.models.card import read_card
from napari_lpd.training.runs import training_tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from matplotlib.figure import Figure as Picture
    from napari.layers import Image

    from napari_lpd.comparison.result import Comparison, Figure, Patch
    from napari_lpd.gui.explore.model_pair import ModelPair
    from napari_lpd.slides.slide import Slide

SLIDE, FOLDER = "the open slide", "a folder with img and mask"
QUICK_TILES = 60  # tiles of a slide; fewer than on the command line
HEATMAPS, SCROLL_BAR = 250, 24  # pixels
WITHOUT_MASKS = "compared where both agree; choose a folder with img and mask to see which is right"
QUICK_TRAINING = 120  # training tiles
WITHOUT, OF_MODEL, CHOSEN = (
    "without training tiles",
    "with the first model's training tiles",
    "with training tiles from a folder",
)
TRAINING = (
    "Training tiles add each prototype's nearest training patches and a second control: clusters of the tiles'"
    " features, as in PBIP's bank"
)
MEANING = "Click a metric to see what it means."


class ComparisonRequest(NamedTuple):
    """Model files, the folder or slide to compare them on, and training tiles as `chosen_training_tiles` takes them."""

    paths: list[Path]
    data: Path | Slide
    training: Path | None = None


class ComparePanel(QWidget):
    """Panel to compare two models at the same locations and show metrics and conclusions.

    Args:
        viewer: The viewer.
        slide_layer: Returns the slide's layer; raises LpdError if there is none.
        pair: The panel with the two models.
    """

    def __init__(self, viewer: napari.Viewer, slide_layer: Callable[[], Image], pair: ModelPair) -> None:
        super().__init__()
        self._viewer, self._slide_layer, self.pair = viewer, slide_layer, pair
        self.data = chooser([SLIDE, FOLDER])
        self.training = chooser([WITHOUT, OF_MODEL, CHOSEN])
        self.training.setToolTip(TRAINING)
        self.folder: Path | None = None
        self._tiles: Path | None = None
        self._request = self._compared = ComparisonRequest([], Path())
        self.job = JobBar("Compare")
        self.comparison: Comparison | None = None
        self.table = QTableWidget(0, 0)
        self.verdicts, self.meaning = note(""), note(MEANING, rich=True)
        self.card = CardView()
        self.heatmaps, self.scatter = QLabel(), QLabel()
        self._heatmaps_area = QScrollArea()
        self._result = QWidget()
        self._lay_out()
        self.data.currentTextChanged.connect(self._on_data)
        self.training.currentTextChanged.connect(self._on_training)
        self.pair.boxes[0].currentIndexChanged.connect(self._on_model)
        self.job.asked.connect(self._on_compare)
        self.job.runner.succeeded.connect(self.show_comparison)
        self.table.currentCellChanged.connect(self._on_row)
        self.card.asked.connect(self.jump)
        self.card.tissue.currentIndexChanged.connect(self._show_heatmaps)
        self._on_model()

    def _lay_out(self) -> None:
        result = QVBoxLayout(self._result)
        result.setContentsMargins(0, 0, 0, 0)
        files = buttons(
            ("Heatmaps…", "Save heatmaps of all classes (figure 3 of the paper)", self._on_heatmaps),
            ("Scatter…", "Save the scatter plot of coverage against overlap", self._on_scatter),
            ("CSV…", "Save all metrics of the table, also per class", self._on_csv),
            ("Report…", "Save HTML, Markdown, CSV, JSON and both figures in a folder", self._on_report),
        )
        for widget in (
            self.verdicts,
            self.table,
            self.meaning,
            files,
            note("<b>One prototype</b>", rich=True),
            self.card,
            note("<b>Heatmaps of one tile, both models</b>", rich=True),
            self._heatmaps_area,
            note("<b>Coverage against overlap</b>: right and low is good", rich=True),
            self.scatter,
        ):
            result.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().setDefaultSectionSize(22)
        self._heatmaps_area.setWidget(self.heatmaps)
        self._heatmaps_area.setWidgetResizable(True)
        self._result.setVisible(False)
        for widget in (self.data, self.training, self.job, self._result):
            layout.addWidget(widget)

    def _on_data(self, text: str) -> None:
        if text == FOLDER:
            chosen = QFileDialog.getExistingDirectory(self, "Folder with img and mask")
            self.folder = Path(chosen) if chosen else None
            if self.folder is None:
                self.data.setCurrentText(SLIDE)

    def _on_training(self, text: str) -> None:
        if text == CHOSEN:
            chosen = QFileDialog.getExistingDirectory(self, "Folder of labelled training tiles")
            self._tiles = Path(chosen) if chosen else None
            if self._tiles is None:
                self.training.setCurrentText(WITHOUT)

    def _on_model(self) -> None:
        """Choose the first model's training tiles if they are available; keep a folder that the user chose."""
        path = self.pair.boxes[0].currentData()
        if path and self.training.currentText() != CHOSEN:
            with self.job.reporting():
                self.training.setCurrentText(OF_MODEL if training_tiles.is_at_hand(Path(path)) else WITHOUT)

    def _on_compare(self) -> None:
        with self.job.reporting():
            paths, folder = self.pair.paths(), self.folder if self.data.currentText() == FOLDER else None
            data = folder or slide_of(self._slide_layer())
            training = {WITHOUT: None, OF_MODEL: training_tiles.OF_MODEL}.get(self.training.currentText(), self._tiles)
            request = self._request = ComparisonRequest(paths, data, training)
            settings = CompareSettings(
                slide_tiles=QUICK_TILES, training_tiles=QUICK_TRAINING, stability_tiles=8, nearest=5, nearest_places=5
            )
            self.job.start(lambda: compare_job(request, settings))

    # Results

    def show_comparison(self, comparison: Comparison) -> None:
        """Show metrics, conclusions and cards."""
        from napari_lpd.comparison.report.figures import scatter_figure
        from napari_lpd.comparison.report.tables import verdicts_of

        self.comparison, self._compared = comparison, self._request
        lines = [*verdicts_of(comparison), *comparison.notes[:3]]
        if comparison.reference == "agreement" and isinstance(self._compared.data, Path):
            lines.insert(0, f"{self._compared.data} has no masks: {WITHOUT_MASKS}")
        self.verdicts.setText("\n".join(lines))
        self._fill_table(comparison)
        self.card.set_comparison(comparison)
        smooth = Qt.TransformationMode.SmoothTransformation
        scatter = scatter_figure(comparison)
        picture = pixmap_of(scatter, (WIDTH - 30) / scatter.get_figwidth())
        self.scatter.setPixmap(picture.scaledToWidth(WIDTH - 30, smooth))  # a figure with long names is wider
        self._result.setVisible(True)
        self._show_heatmaps()
        sources = f"{comparison.sources} slides or patients" if comparison.sources > 1 else "one slide or patient"
        self.job.say(f"{comparison.tiles} tiles of {sources} compared.")

    def _fill_table(self, comparison: Comparison) -> None:
        self.table.setColumnCount(len(comparison.banks))
        self.table.setRowCount(len(comparison.metrics))
        self.table.setHorizontalHeaderLabels([bank.name for bank in comparison.banks])
        for row, metric in enumerate(comparison.metrics):
            title = QTableWidgetItem(metric.label)
            title.setToolTip(metric.meaning)
            self.table.setVerticalHeaderItem(row, title)
            for column, bank in enumerate(comparison.banks):
                item = QTableWidgetItem(_value(bank.figures.get(metric.name)))
                item.setToolTip(f"{bank.name}, {metric.label}: {metric.meaning}")
                self.table.setItem(row, column, item)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + 22 * len(comparison.metrics) + 18)

    def _on_row(self, row: int) -> None:
        if self.comparison is not None and row >= 0:
            metric = self.comparison.metrics[row]
            self.meaning.setText(f"<b>{metric.label}</b>: {metric.meaning}.")

    def jump(self, patch: Patch) -> None:
        """Move the viewer to a patch."""
        with self.job.reporting():
            jump(self._viewer, patch, read_card(self._compared.paths[0]).settings.mpp)

    def _show_heatmaps(self) -> None:
        if self.comparison is None:
            return
        from napari_lpd.comparison.report.figures import heatmap_figure

        examples = [e for e in self.comparison.examples if e.class_index == self.card.tissue.currentIndex()]
        if examples:
            figure = heatmap_figure(replace(self.comparison, examples=tuple(examples)))
            self.heatmaps.setPixmap(pixmap_of(figure, HEATMAPS / figure.get_figheight()))
        else:
            self.heatmaps.setText(f"{self.card.tissue.currentText()}: {NOWHERE}")
        self._heatmaps_area.setFixedHeight((HEATMAPS if examples else 0) + SCROLL_BAR)

    def _require_comparison(self) -> Comparison:
        if self.comparison is None:
            raise DataError("no comparison yet: press Compare first")
        return self.comparison

    def _on_heatmaps(self) -> None:
        from napari_lpd.comparison.report.figures import heatmap_figure

        self._save_figure("prototypes", heatmap_figure)

    def _on_scatter(self) -> None:
        from napari_lpd.comparison.report.figures import scatter_figure

        self._save_figure("coverage against overlap", scatter_figure)

    def _save_figure(self, name: str, draw: Callable[[Comparison], Picture]) -> None:
        from napari_lpd.core.pictures.figure import write_figure

        path = chosen_picture(self, name)
        if path:
            with self.job.reporting():
                write_figure(draw(self._require_comparison()), path)
                self.job.say(f"Written: {path}")

    def _on_csv(self) -> None:
        from napari_lpd.comparison.report.writer import MARKS, figures_csv

        path, _ = QFileDialog.getSaveFileName(self, "Figures", "figures.csv", "Tables (*.csv)")
        if path:
            with self.job.reporting(), atomic_write(Path(path), mark=MARKS["figures.csv"]) as partial:
                partial.write_bytes(figures_csv(self._require_comparison()))
                self.job.say(f"Written: {path}")

    def _on_report(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the report")
        if folder:
            self.write_report(Path(folder))

    def write_report(self, folder: Path) -> None:
        """Write report, tables and figures to a folder."""
        from napari_lpd.comparison.report.writer import write_comparison

        with self.job.reporting():
            comparison = self._require_comparison()
            paths = [f"{name}: {path}" for name, path in zip(comparison.models, self._compared.paths, strict=True)]
            self.job.say(f"Written: {write_comparison(folder, comparison, paths)}")


def compare_job(request: ComparisonRequest, settings: CompareSettings) -> Job[Comparison]:
    """Load the models and compare them, in a thread; torch is imported here."""
    yield Progress(0, 0, "loading the models")
    keep_triton_out()
    from napari_lpd.comparison.compare import compare, prepare
    from napari_lpd.training.runs.training_tiles import chosen_training_tiles

    with nullcontext(request.data) if isinstance(request.data, Path) else request.data as data:
        models, tiles = prepare(request.paths, data, settings)
        training = chosen_training_tiles(request.training, request.paths[0])
        return (yield from compare(models, tiles, settings, training))


def _value(figure: Figure | None) -> str:
    """Format a metric with its interval, to two decimals."""
    if figure is None or np.isnan(figure.value):
        return "–"
    value, *limits = (f"{round(number, 2) + 0.0:.2f}" for number in figure[:3])  # no -0.00
    return value if np.isnan(figure.low) else f"{value} [{', '.join(limits)}]"
