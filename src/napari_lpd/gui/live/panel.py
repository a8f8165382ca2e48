"""Panel with the live mask: a mask of the view that follows the regions as they are drawn."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError
from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import Progress
from napari_lpd.data.tileset import CELL
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.common.layout import buttons, note
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.layers.results import label_colours, our_layers
from napari_lpd.gui.layers.slides import UM, corner, of_slide, slide_id, slide_of, visible_box_um

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer
    from napari.layers import Image

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Job
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region
    from napari_lpd.gui.common.slide_picker import SlidePicker
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.training.live import CellIndex, LiveCell, LiveModel, LiveSlide

_Asked = tuple[set[Any], list[str]]  # keys of regions, names of classes
LIVE = "live"  # kind of the layer
REST_MS, LOOK_MS = 300, 200  # of rest after a change of the regions, and of the view
CHUNK, MOST = 8, 600  # cells labelled between two looks at the window; cells that are kept
PLACE_UM = 1000.0  # of the view at a place that is suggested
EDGE = 2048  # pixels of the shown mask's longer edge, at most
OFF = "Draw regions of two tissues and see at once what the model makes of them. Tick to begin."


class LiveMask(QWidget):
    """Panel with a switch, what it is doing, *Next place* and *Keep this model*.

    Args:
        viewer: The viewer.
        slides: Chooses the slide.
        regions: Returns the regions that are drawn on it.
        classes: Returns the tissue classes.
        settings: Returns the settings of a fast training.
        folder: Makes the folder for a model that is kept.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        slides: SlidePicker,
        regions: Callable[[], Sequence[Region]],
        classes: Callable[[], Sequence[TissueClass]],
        settings: Callable[[], TrainSettings],
        folder: Callable[[], Path],
    ) -> None:
        super().__init__()
        self._viewer, self._slides = viewer, slides
        self._regions, self._classes, self._settings, self._folder = regions, classes, settings, folder
        self._engine: _Engine | None = None
        self._is_due = False
        self._asked: _Asked = (set(), [])
        self._question = self._summary = ""
        self._began = self._took = 0.0
        self.switch = QCheckBox("Live mask of this view")
        self.switch.setToolTip("Show a mask of the view that follows every region that you draw, change or delete")
        self.line = note(OFF)
        self.runner = JobRunner(self)
        self.actions = buttons(
            ("Next place", "Go to the place where one more region would help most", self._on_next),
            ("Keep this model", "Save what the live mask has learned, for Predict, Explore and exports", self._on_keep),
        )
        self.actions.setVisible(False)
        self._rest, self._look = self._timer(REST_MS, self._learn), self._timer(LOOK_MS, self._fill)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.switch, self.line, self.actions):
            layout.addWidget(widget)
        self.switch.toggled.connect(self._on_switch)
        slides.changed.connect(self.change)
        self.runner.progressed.connect(self._on_progressed)
        self.runner.succeeded.connect(self._on_succeeded)
        self.runner.ended.connect(self._on_ended)
        for event in (viewer.scene.camera.events.center, viewer.scene.camera.events.zoom):
            event.connect(self._on_view)

    def _timer(self, wait_ms: int, action: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(wait_ms)
        timer.timeout.connect(action)
        return timer

    def change(self) -> None:
        """Learn anew after a rest, as regions or classes have changed."""
        if self.switch.isChecked():
            self._rest.start()

    def put_down(self) -> None:
        """Stop, as the widget is closed."""
        self.switch.setChecked(False)

    def _on_switch(self, is_on: bool) -> None:
        self.actions.setVisible(False)
        if is_on:
            self._learn()
            return
        self._is_due = False
        self.runner.stop()
        self._rest.stop()
        self.line.setText(OFF)
        for layer in [layer for layer in self._viewer.layers if layer.metadata.get(KEY, {}).get("kind") == LIVE]:
            self._viewer.layers.remove(layer)

    # Learn

    def _learn(self) -> None:
        if self.runner.running:  # the latest change overtakes it
            self._is_due = True
            self.runner.stop()
            return
        try:
            layer, regions, settings = self._slides.layer(), self._regions(), self._settings()
        except LpdError as error:
            self.line.setText(str(error))
            return
        if len({name for region in regions for name in region.tissues}) < 2:
            self.line.setText("Draw a region of each of two tissues: the live mask begins with them.")
            return
        if self._engine is None or not self._engine.fits(layer, settings):
            self._engine = _Engine(layer, settings, self._engine)
        job, classes = self._engine.learning, self._classes()
        asked = {region.key for region in regions}, [tissue.name for tissue in classes]
        if self._engine.model is not None and asked == self._engine.learned:  # colours may have changed
            self._paint()
            self._fill()
            return
        keep_triton_out()
        self._asked = asked
        self._began, self._question = time.monotonic(), ""
        self._summary = f"{len({n for r in regions for n in r.tissues})} tissues, {len(regions)} regions"
        self.runner.start(lambda: job(regions, classes))

    def _on_progressed(self, progress: Progress) -> None:
        share = f" {100 * progress.done // progress.total} %" if progress.total else ""
        self.line.setText(f"{self._summary}: {progress.message}{share}…")

    def _on_succeeded(self, result: Any) -> None:
        engine = self._engine
        assert engine is not None
        if isinstance(result, str):
            self.line.setText(f"⚠ {result}")
        elif isinstance(result, Path):
            recent_models.add(result)
            self.line.setText(f"Kept, and ready in Predict: {result}")
        elif isinstance(result, dict):
            engine.cells.update(result)
            while len(engine.cells) > MOST:
                engine.cells.popitem(last=False)
            self._paint()
        else:
            self._took, engine.learned = time.monotonic() - self._began, self._asked
            engine.cells.clear()  # the mask stays on screen until the next one is there

    def _on_ended(self) -> None:
        if self._is_due:
            self._is_due = False
            self._learn()
        elif self.switch.isChecked() and not self.line.text().startswith(("⚠", "Kept")):
            self._fill()

    # Label what is in view

    def _on_view(self) -> None:
        if self.switch.isChecked():
            self._look.start()

    def _fill(self) -> None:
        """Label a few more cells of the view, from its middle outwards."""
        engine = self._engine
        if engine is None or engine.model is None or self.runner.running or not self.switch.isChecked():
            return
        try:
            box = visible_box_um(self._viewer, engine.layer)
        except LpdError:  # out of view: there is nothing to label
            return
        known = frozenset(engine.cells)
        if engine.is_labelled(box, known):
            self._paint()
            self.line.setText(f"{self._question}{self._summary}, learned in {self._took:.1f} s")
            self.actions.setVisible(True)
        else:
            self.runner.start(lambda: engine.labelling(box, known))

    def _paint(self) -> None:
        """Show the labelled cells of the view in one layer, coarser where there are many."""
        engine = self._engine
        if engine is None or engine.model is None or not engine.cells or engine.layer not in self._viewer.layers:
            return
        shown = [cell for cell in engine.seen if cell in engine.cells]
        if not shown:
            return
        (top, left), (bottom, right) = np.min(shown, 0), np.max(shown, 0) + 1
        step = 1
        while max(bottom - top, right - left) * CELL // step > EDGE and step < CELL:
            step *= 2
        edge = CELL // step
        mask = np.zeros(((bottom - top) * edge, (right - left) * edge), np.uint8)
        for y, x in shown:
            part = engine.cells[y, x].labels[step // 2 :: step, step // 2 :: step]
            mask[(y - top) * edge : (y - top + 1) * edge, (x - left) * edge : (x - left + 1) * edge] = part
        mpp = engine.settings.mpp
        origin = corner(engine.layer) + np.array([top, left]) * CELL * mpp + mpp * step / 2
        self._show(mask, engine, {"scale": (mpp * step, mpp * step), "translate": origin})

    def _show(self, mask: Any, engine: _Engine, options: dict[str, Any]) -> None:
        """Put the mask into the slide's live layer, made below its regions; selection and tool stay as they are."""
        assert engine.model is not None
        options |= label_colours(self._colours(engine.model))
        for layer in our_layers(self._viewer, slide_id(engine.layer), LIVE):
            for name, value in options.items():
                setattr(layer, name, value)
            layer.data = mask
            return
        active = self._viewer.layers.selection.active
        about = {KEY: {"kind": LIVE, **of_slide(engine.layer)}}
        name = f"live mask ({engine.layer.name})"
        layer = Labels(mask, name=name, opacity=0.5, units=(UM, UM), metadata=about, **options)
        self._viewer.layers.insert(self._viewer.layers.index(engine.layer) + 1, layer)
        layer.editable = False
        self._viewer.layers.selection.active = active

    def _colours(self, model: LoadedModel) -> list[TissueClass]:
        """Return the model's classes in the colours that they have now."""
        now = {tissue.name: tissue for tissue in self._classes()}
        return [now.get(tissue.name, tissue) for tissue in model.card.classes]

    # Next place, keep

    def _on_next(self) -> None:
        from napari_lpd.training.live import next_place

        engine = self._engine
        if engine is None or engine.model is None:
            return
        names = [tissue.name for tissue in engine.model.card.classes]
        for _ in names:  # every tissue in its turn
            label = len(engine.places) % len(names) + 1
            place = next_place(engine.cells, engine.settings.mpp, label, engine.places)
            engine.places.append(place or (-1e9, -1e9))
            if place is not None:
                camera = self._viewer.scene.camera
                camera.zoom = max(camera.zoom, min(self._viewer.canvas.size) / PLACE_UM)
                camera.center = (*corner(engine.layer) + np.array(place),)
                self._question = f"Is this {names[label - 1]}? Outline what it is. "
                self.line.setText(self._question)
                return
        self.line.setText("No place in this view needs a region: move the view, or zoom out.")

    def _on_keep(self) -> None:
        engine = self._engine
        if engine is None or self.runner.running:
            self.line.setText("Wait until the mask is complete, then keep the model.")
            return
        self.runner.start(lambda: engine.keeping(self._folder()))


class _Engine:
    """What learns and labels one slide, in a thread.

    Attributes:
        layer: The slide's layer.
        settings: Of the training.
        seen: The cells of the view that was asked for last.
        cells: The cells that are labelled with the model.
        places: The places (y, x) in µm that were suggested.
        learned: Regions and classes from which the model has learned.
    """

    def __init__(self, layer: Image, settings: TrainSettings, before: _Engine | None) -> None:
        self.layer, self.settings = layer, settings
        self.seen: list[CellIndex] = []
        self.cells: OrderedDict[CellIndex, LiveCell] = OrderedDict()
        self.places: list[tuple[float, float]] = []
        self.learned: _Asked = (set(), [])
        self._box: tuple[float, ...] = ()
        self._slide: LiveSlide | None = None
        self._live: LiveModel | None = None
        self._before = before

    def fits(self, layer: Image, settings: TrainSettings) -> bool:
        """Return whether it is for this slide and these settings."""
        return self.layer is layer and self.settings == settings

    @property
    def model(self) -> LoadedModel | None:
        """What was learned last."""
        return None if self._live is None else self._live.model

    def _opened(self) -> tuple[LiveModel, LiveSlide]:
        from napari_lpd.training.live import LiveModel, LiveSlide

        if self._before is not None and self._before._slide is not None:
            self._before._slide.close()
            self._before = None
        if self._live is None or self._slide is None:
            self._slide, self._live = LiveSlide(slide_of(self.layer)), LiveModel(self.settings)
        return self._live, self._slide

    def learning(self, regions: Sequence[Region], classes: Sequence[TissueClass]) -> Job[Any]:
        """Learn from the regions; returns the model, or a line that says why nothing can be learned."""
        try:
            yield Progress(0, 0, "reading the slide")
            live, slide = self._opened()
            return (yield from live.learn(slide, regions, classes))
        except LpdError as error:
            return str(error)

    def is_labelled(self, box: tuple[float, ...], known: frozenset[CellIndex]) -> bool:
        """Return whether all cells of the box are known."""
        return self._box == box and set(self.seen) <= known

    def labelling(
        self, box: tuple[float, float, float, float], known: frozenset[CellIndex]
    ) -> Job[dict[CellIndex, LiveCell]]:
        """Label a few of the box's cells that are not known; returns them."""
        live, slide = self._opened()
        if self._box != box:
            self.seen, self._box = slide.cells(box, self.settings.mpp)[:MOST], box
        missing = [cell for cell in self.seen if cell not in known]
        made = {}
        for number, cell in enumerate(missing[:CHUNK], start=1):
            made[cell] = live.label(slide, cell)
            yield Progress(len(self.seen) - len(missing) + number, len(self.seen), "labelling the view")
        return made

    def keeping(self, folder: Path) -> Job[Path]:
        """Save the model; returns its file."""
        live, _ = self._opened()
        yield Progress(0, 0, "saving the model")
        return live.save(folder / "model.safetensors")
