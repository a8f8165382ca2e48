"""Compare two models' prototypes on the open slide or a folder: figures, a card per prototype, jumps to its places."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QHeaderView,
    QLabel,
    QScrollArea,
    QSlider,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_lpd.checkpoint import read_card
from napari_lpd.config import CompareSettings
from napari_lpd.errors import DataError
from napari_lpd.gui._all_heatmaps import pixmap_of
from napari_lpd.gui._inference import keep_triton_out
from napari_lpd.gui._job import JobBar
from napari_lpd.gui._layers import corner, slide_of
from napari_lpd.gui._layout import WIDTH, buttons, chooser, in_row, note
from napari_lpd.gui._model_pair import ModelPair, names_of
from napari_lpd.jobs import Job, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from napari.layers import Image

    from napari_lpd.comparison import Comparison, Figure, Patch, PrototypeCard
    from napari_lpd.slide import Slide

SLIDE, FOLDER = "the open slide", "a folder with img and mask"
QUICK_TILES = 60  # of a slide, looked at from the window; the command line takes more
PATCH = 52
HEATMAPS, SCROLL_BAR = 250, 24  # pixels
WITHOUT_MASKS = "compared where both agree; choose a folder with img and mask to see which is right"
NOWHERE = "no place of it in what was compared; take images, or a slide, where both models find it"


class _Asked(NamedTuple):
    """What was compared: the models' files; a folder, or else the open slide."""

    paths: list[Path]
    folder: Path | None


class ComparePanel(QWidget):
    """Two models, the same places, and what the numbers allow to say.

    Args:
        viewer: The viewer.
        slide_layer: Gives the slide's layer; raises LpdError where there is none.
        pair: Gives the models.
    """

    jumped = Signal(object)

    def __init__(self, viewer: napari.Viewer, slide_layer: Callable[[], Image], pair: ModelPair) -> None:
        super().__init__()
        self._viewer, self._slide_layer, self.pair = viewer, slide_layer, pair
        self.data = chooser([SLIDE, FOLDER])
        self.folder: Path | None = None
        self._asked = self._compared = _Asked([], None)
        self.job = JobBar("Compare")
        self.comparison: Comparison | None = None
        self.table = QTableWidget(0, 0)
        self.verdicts = note("")
        self.bank, self.tissue = chooser(), chooser()
        self.prototype = QSlider(Qt.Orientation.Horizontal)
        self.card = note("")
        self.patches = QWidget()
        self.heatmaps, self.scatter = QLabel(), QLabel()
        self._heatmaps_area = QScrollArea()
        self._result = QWidget()
        self._lay_out()
        self.data.currentTextChanged.connect(self._on_data)
        self.job.asked.connect(self._on_compare)
        self.job.runner.succeeded.connect(self.show_comparison)
        for changed in (self.bank.currentIndexChanged, self.tissue.currentIndexChanged, self.prototype.valueChanged):
            changed.connect(self._show_card)
        self.tissue.currentIndexChanged.connect(self._show_heatmaps)

    def _lay_out(self) -> None:
        patches = QVBoxLayout(self.patches)
        patches.setContentsMargins(0, 0, 0, 0)
        result = QVBoxLayout(self._result)
        result.setContentsMargins(0, 0, 0, 0)
        report = buttons(
            ("Report and figures…", "HTML, Markdown, CSV, JSON, figures as PNG and PDF, into a folder", self._on_report)
        )
        for part in (
            self.verdicts,
            self.table,
            report,
            note("<b>One prototype</b>"),
            in_row([self.bank, self.tissue]),
            self.prototype,
            self.card,
            self.patches,
            note("<b>The same tile, both models</b>"),
            self._heatmaps_area,
            note("<b>Coverage against overlap</b>: right and low is good"),
            self.scatter,
        ):
            result.addWidget(part)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().setDefaultSectionSize(22)
        self._heatmaps_area.setWidget(self.heatmaps)
        self._heatmaps_area.setWidgetResizable(True)
        self._result.setVisible(False)
        for part in (self.data, self.job, self._result):
            layout.addWidget(part)

    def _on_data(self, text: str) -> None:
        if text == FOLDER:
            chosen = QFileDialog.getExistingDirectory(self, "Folder with img and mask")
            self.folder = Path(chosen) if chosen else None
            if self.folder is None:
                self.data.setCurrentText(SLIDE)

    def _on_compare(self) -> None:
        with self.job.reporting():
            paths, folder = self.pair.paths(), self.folder if self.data.currentText() == FOLDER else None
            self._asked = _Asked(paths, folder)
            settings = CompareSettings(slide_tiles=QUICK_TILES, stability_tiles=8, nearest=5)
            if folder is not None:
                self.job.start(lambda: compare_job(paths, settings, folder=folder))
            else:
                slide = slide_of(self._slide_layer())
                self.job.start(lambda: compare_job(paths, settings, slide=slide))

    # What came out

    def show_comparison(self, comparison: Comparison) -> None:
        """Show figures, verdicts and cards."""
        from napari_lpd.comparison_figures import scatter_figure
        from napari_lpd.comparison_report import verdicts_of

        self.comparison, self._compared = comparison, self._asked
        lines = [*verdicts_of(comparison), *comparison.notes[:3]]
        if comparison.reference == "agreement" and self._compared.folder is not None:
            lines.insert(0, f"{self._compared.folder} has no masks: {WITHOUT_MASKS}")
        self.verdicts.setText("\n".join(lines))
        self._fill_table(comparison)
        for box, names in (
            (self.bank, [bank.name for bank in comparison.banks]),
            (self.tissue, [tissue.name for tissue in comparison.classes]),
        ):
            box.blockSignals(True)
            box.clear()
            box.addItems(names)
            box.blockSignals(False)
        self.prototype.setRange(0, comparison.k - 1)
        smooth = Qt.TransformationMode.SmoothTransformation
        self.scatter.setPixmap(pixmap_of(scatter_figure(comparison)).scaledToWidth(WIDTH - 30, smooth))
        self._result.setVisible(True)
        self._show_card()
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
                item.setToolTip(f"{bank.name}: {_with_limits(bank.figures.get(metric.name))}\n{metric.meaning}")
                self.table.setItem(row, column, item)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + 22 * len(comparison.metrics) + 18)

    def _chosen(self) -> PrototypeCard | None:
        if self.comparison is None or self.bank.currentIndex() < 0 or self.tissue.currentIndex() < 0:
            return None
        cards = self.comparison.banks[self.bank.currentIndex()].cards
        own = cards[self.tissue.currentIndex()] if self.tissue.currentIndex() < len(cards) else ()
        return own[self.prototype.value()] if self.prototype.value() < len(own) else None

    def _show_card(self) -> None:
        card = self._chosen()
        title = f"Prototype {self.prototype.value() + 1} of {self.prototype.maximum() + 1}"
        said = NOWHERE if card is None or np.isnan(card.usage) else card_text(card)
        self.card.setText(f"{title}: {said}")
        row = QWidget()
        layout = in_row([self._patch_button(patch) for patch in (card.patches if card else ())])
        outer = self.patches.layout()
        while outer.count():
            old = outer.takeAt(0).widget()
            old.setParent(None)
            old.deleteLater()
        outer.addWidget(layout if card and card.patches else row)

    def _patch_button(self, patch: Patch) -> QToolButton:
        button = QToolButton()
        image = np.ascontiguousarray(patch.image)
        height, width = image.shape[:2]
        pixels = QImage(image.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        button.setIcon(QIcon(QPixmap.fromImage(pixels.copy())))
        button.setIconSize(QSize(PATCH, PATCH))
        button.setToolTip(f"{patch.tile}, cosine {patch.cosine:.2f}: click to go there")
        button.clicked.connect(lambda: self.jump(patch))
        return button

    def jump(self, patch: Patch) -> None:
        """Move the viewer to a patch of the open slide."""
        with self.job.reporting():
            layer = self._slide_layer()
            if patch.source != layer.name or self.comparison is None:
                raise DataError(f"{patch.tile} is no place on the open slide; open {patch.source} to go there")
            y, x = corner(layer) + np.array(patch.place) * self._mpp
            self._viewer.scene.camera.center = (0, float(y), float(x))
            self._viewer.scene.camera.zoom = 2.0
            self.jumped.emit(patch)

    @property
    def _mpp(self) -> float:
        return read_card(self._compared.paths[0]).settings.mpp

    def _show_heatmaps(self) -> None:
        if self.comparison is None:
            return
        from dataclasses import replace

        from napari_lpd.comparison_figures import heatmap_figure

        own = [e for e in self.comparison.examples if e.class_index == self.tissue.currentIndex()]
        if own:
            picture = pixmap_of(heatmap_figure(replace(self.comparison, examples=tuple(own))))
            picture = picture.scaledToHeight(HEATMAPS, Qt.TransformationMode.SmoothTransformation)
            self.heatmaps.setPixmap(picture)
        else:
            self.heatmaps.setText(f"{self.tissue.currentText()}: {NOWHERE}")
        self._heatmaps_area.setFixedHeight((HEATMAPS if own else 0) + SCROLL_BAR)

    def _on_report(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the report")
        if folder:
            self.write_report(Path(folder))

    def write_report(self, folder: Path) -> None:
        """Write report, tables and figures into a folder."""
        from napari_lpd.comparison_report import write_comparison

        with self.job.reporting():
            if self.comparison is None:
                raise DataError("nothing is compared yet: press Compare first")
            paths = [f"{name}: {path}" for name, path in zip(self.comparison.models, self._compared.paths, strict=True)]
            self.job.say(f"Written: {write_comparison(folder, self.comparison, paths)}")


def compare_job(
    paths: Sequence[Path], settings: CompareSettings, folder: Path | None = None, slide: Slide | None = None
) -> Job[Comparison]:
    """Load the models and compare them, in a thread; torch is imported here."""
    yield Progress(0, 0, "loading the models")
    keep_triton_out()
    from napari_lpd.compare import compare
    from napari_lpd.compare_tiles import tiles_of_folder, tiles_of_slide
    from napari_lpd.model import load_model

    named = zip(paths, names_of(paths), strict=True)
    models = [load_model(path, settings.device)._replace(name=name) for path, name in named]
    card = models[0].card
    if folder is not None:
        return (yield from compare(models, tiles_of_folder(folder, card.classes), settings))
    assert slide is not None
    with slide:
        tiles = tiles_of_slide(slide, card.settings.mpp, card.settings.tile, settings.slide_tiles)
        return (yield from compare(models, tiles, settings))


def card_text(card: PrototypeCard) -> str:
    """A prototype's card in words."""
    flags = "".join(f" <b>{name}</b>" for name, on in (("dead", card.dead), ("redundant", card.redundant)) if on)
    parts = {
        "reaches": card.own,
        "alone": card.marginal,
        "nearest on": card.usage,
        "purity": card.purity,
        "stability": card.stability,
        "IoU lost without it": card.loss,
        "nearest sibling": card.sibling,
    }
    return ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if not np.isnan(value)) + flags


def _value(figure: Figure | None) -> str:
    return "–" if figure is None or np.isnan(figure.value) else f"{round(figure.value, 2) + 0.0:.2f}"  # no -0.00


def _with_limits(figure: Figure | None) -> str:
    if figure is None:
        return "not measured"
    limits = "no interval" if np.isnan(figure.low) else f"95 % interval {figure.low:.2f} to {figure.high:.2f}"
    return f"{figure.value:.3f}, {limits}"
