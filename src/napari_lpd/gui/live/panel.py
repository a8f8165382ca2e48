"""Panel with the live mask: a mask of the view that follows the regions as they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError
from napari_lpd.gui.common.layout import in_row, note
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.common.recent_models import keep, kept, recent_models
from napari_lpd.gui.layers.class_keys import bind_everywhere
from napari_lpd.gui.layers.slides import visible_box_um
from napari_lpd.gui.layers.strokes import Canvas
from napari_lpd.gui.live.follower import Follower, Wanted
from napari_lpd.gui.live.guide import Guide
from napari_lpd.gui.live.held_out import HeldOut
from napari_lpd.gui.live.numbers import FULL_STORE, Learning, areas_in_view, right_by_tissue, share_right, what_is_drawn
from napari_lpd.gui.live.shown import HEATMAP, HeatmapChoice, ShownMask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import napari.viewer
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region
    from napari_lpd.gui.common.slide_picker import SlidePicker
    from napari_lpd.gui.live.engine import Box, Engine, Maps

KEPT, HATCHED = "train/live", "train/hatched"
REST_MS, LOOK_MS = 300, 200  # of rest after a change of the regions, and of the view
GLANCE_MS = 40  # between two looks at what is labelled, while the view moves
OFF = "Off. Tick to see at once what a model makes of the regions that you draw."


class LiveMask(QWidget):
    """Panel with a switch, what the live mask is doing, how right it is, and where to draw next.

    Args:
        viewer: The viewer.
        slides: Chooses the slide.
        regions: Returns the regions that are drawn on it.
        classes: Returns the tissue classes.
        settings: Returns the settings of a fast training.

    Signals:
        message: a line for the status.
        changed: whether a model can be kept may have changed.
        accepted: the mask in a place is right, as a `Canvas` and its labels (h, w).
    """

    message = Signal(str)
    changed = Signal()
    accepted = Signal(object, object)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        slides: SlidePicker,
        regions: Callable[[], Sequence[Region]],
        classes: Callable[[], Sequence[TissueClass]],
        settings: Callable[[], TrainSettings],
    ) -> None:
        super().__init__()
        self._viewer, self._slides = viewer, slides
        self._regions, self._classes, self._settings = regions, classes, settings
        self._summary, self._learning = "", Learning()
        self.switch = QCheckBox("Live mask")
        self.switch.setToolTip("Show a mask of the view that follows every region that you draw, change or delete")
        self.switch.setChecked(kept(KEPT) != "off")
        self.hatched = QCheckBox("Hatch unsure")
        self.hatched.setToolTip("Draw black lines over places that the live model is not sure of")
        self.hatched.setChecked(kept(HATCHED) == "on")
        self.mapped = HeatmapChoice()
        self.line = note("")
        self.guide = Guide(viewer)
        self.held_out = HeldOut(viewer)
        self.shown = ShownMask(viewer)
        self.follower = Follower(self, self._wanted)
        self.runner = self.follower.runner
        self._rest, self._look = _timer(self, REST_MS, self._learn), _timer(self, LOOK_MS, self._go_on)
        self._glance = _timer(self, GLANCE_MS, self._on_glance)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (in_row([self.switch, self.hatched]), self.line, self.guide, self.mapped, self.held_out):
            layout.addWidget(widget)
        self._connect()
        self._on_switch()

    def _connect(self) -> None:
        self.switch.toggled.connect(lambda is_on: keep(KEPT, "on" if is_on else "off"))
        self.switch.toggled.connect(self._on_switch)
        self.hatched.toggled.connect(lambda is_on: keep(HATCHED, "on" if is_on else "off"))
        self.hatched.toggled.connect(self._on_hatched)
        self.mapped.changed.connect(self._on_map)
        self._slides.changed.connect(self.change)
        self.guide.asked.connect(self._show_line)
        follower = self.follower
        follower.said.connect(lambda what: self.line.setText(f"{self._summary}: {what}"))
        follower.refused.connect(lambda reason: self.line.setText(f"⚠ {reason}"))
        follower.due.connect(self._learn)
        follower.learned.connect(self._on_learned)
        follower.labelled.connect(self._paint)
        follower.mapped.connect(self._on_mapped)
        follower.checked.connect(self._on_checked)
        follower.kept.connect(self._on_kept)
        follower.settled.connect(self._show_line)
        camera = self._viewer.scene.camera
        for event in (camera.events.center, camera.events.zoom):
            event.connect(self._on_view)
        self.guide.accepted.connect(self._on_accepted)
        bind_everywhere(self._viewer, "n", self.guide.next_place)
        bind_everywhere(self._viewer, "y", self.guide.looks_right)

    @property
    def _engine(self) -> Engine | None:
        return self.follower.engine

    @property
    def has_model(self) -> bool:
        """Whether something was learned that can be kept."""
        return self._engine is not None and self._engine.model is not None

    def change(self) -> None:
        """Learn anew after a rest, as regions, classes or the slide have changed."""
        if self._engine is not None and self._engine.layer not in self._viewer.layers:
            self._let_go()
        if self.switch.isChecked():
            self._rest.start()

    def put_down(self) -> None:
        """Stop, as the widget is closed."""
        for timer in (self._rest, self._look, self._glance):
            timer.stop()
        self._let_go()

    def _on_switch(self) -> None:
        if self.switch.isChecked():
            self.line.setText("The live mask begins when regions of two tissues are drawn.")
            self._rest.start()
            return
        self.put_down()
        self.line.setText(OFF)

    def _on_hatched(self) -> None:
        self.shown.hatched = self.hatched.isChecked()
        self._paint()

    def _paint(self) -> None:
        if self._engine is not None:
            self.shown.paint(self._engine, self._classes())

    def _let_go(self) -> None:
        """Stop, take the mask away, and close the slide's file when no job reads it any more."""
        self.follower.let_go()
        self._learning = Learning()
        self.shown.clear()
        self._guide(None)
        self.mapped.offer(None)
        self.changed.emit()

    # Learn

    def _learn(self) -> None:
        if self.follower.overtake():
            return
        try:
            layer, regions, settings = self._slides.layer(), self._regions(), self._settings()
        except LpdError as error:
            self.line.setText(str(error))
            return
        classes = self._classes()
        if len({name for region in regions for name in region.tissues}) < 2:
            self.line.setText("Draw a region of each of two tissues: the live mask begins with them.")
            return
        if self._engine is None or not self._engine.fits(layer, settings):
            self._let_go()
        engine = self.follower.take_up(layer, settings)
        asked = {region.key for region in regions}, [tissue.name for tissue in classes]
        self._summary = what_is_drawn(regions, classes)
        if engine.model is not None and asked == engine.learned:  # a colour has changed, or what was refused is undone
            engine.refusal = ""
            self._paint()
            self.follower.go_on()
            return
        keep_triton_out()
        self.guide.ask_nothing()
        self.follower.learn(regions, classes, asked)

    def _on_learned(self) -> None:
        assert self._engine is not None
        self._guide(self._engine)
        self.mapped.offer(self._engine.model)
        self.changed.emit()

    # Label what is in view, then check

    def _wanted(self) -> Wanted:
        """Return what is to be seen."""
        return Wanted(self._box(), self.mapped.tissue, self.mapped.bank)

    def _box(self) -> Box | None:
        engine = self._engine
        if engine is None or not self.switch.isChecked():
            return None
        try:
            return visible_box_um(self._viewer, engine.layer)
        except LpdError:  # out of view: there is nothing to label
            return None

    def _go_on(self) -> None:
        if self.switch.isChecked():
            self.follower.go_on()

    def _on_view(self) -> None:
        if self.switch.isChecked() and self.has_model:
            self._look.start()
            if not self._glance.isActive():
                self._glance.start()

    def _on_glance(self) -> None:
        """Show at once what is labelled where the view is now."""
        box = self._box()
        if self._engine is not None and self._engine.model is not None and box:
            self._engine.look(box)
            self._paint()

    def _on_checked(self) -> None:
        engine = self._engine
        assert engine is not None
        self._guide(engine)
        if not engine.unchecked:
            self._learning.note(len(engine.learned[0]), list(engine.verdicts.values()))
        self._show_line()

    def _guide(self, engine: Engine | None) -> None:
        for guide in (self.guide, self.held_out):
            guide.follow(engine)

    def _show_line(self) -> None:
        """Say what was learned from, how long it took, how right it is, what is in view, and what is worth while."""
        engine = self._engine
        if engine is None or engine.model is None or engine.refusal:
            return
        verdicts, box = list(engine.verdicts.values()), self._box()
        text = f"{self._summary}, updated in {engine.took:.1f} s{share_right(verdicts)}"
        areas, full = areas_in_view(engine, box) if box else "", FULL_STORE if engine.is_full else ""
        lines = [f"{self.guide.question} {text}".strip()]
        unmapped = f"⚠ {engine.unmapped}" if self.mapped.tissue and engine.unmapped else ""
        lines += [f"{each}." for each in (areas, self._learning.advice(), full, unmapped) if each]
        self.line.setText("\n".join(lines))
        self.line.setToolTip(right_by_tissue(verdicts))

    def _on_map(self) -> None:
        if self.mapped.tissue:
            self._go_on()
        else:
            self._unmap()

    def _unmap(self) -> None:
        self.shown.clear(HEATMAP)
        if self._engine is not None:
            self._engine.unmap()

    def _on_mapped(self, tissue: str, maps: Maps) -> None:
        assert self._engine is not None
        if (tissue, maps.bank) == (self.mapped.tissue, self.mapped.bank):
            self.shown.show_maps(self._engine, tissue, maps)
        else:  # something else was chosen meanwhile
            self._unmap()

    # Accept, keep

    def _on_accepted(self, first: tuple[int, int], labels: NDArray[np.uint8]) -> None:
        engine = self._engine
        assert engine is not None and engine.model is not None
        pixel = engine.settings.mpp / engine.layer.scale[-2:]
        names = tuple(tissue.name for tissue in engine.model.card.classes)
        origin = np.array(first) * pixel
        self.accepted.emit(Canvas(tuple(origin.tolist()), labels.shape, tuple(pixel.tolist()), names), labels)

    def keep(self, folder: Callable[[], Path]) -> None:
        """Save what was learned last, or is being learned, into a folder, for Predict, Explore and exports."""
        if not self.follower.keep(folder):
            self.message.emit("Nothing is learned yet: draw regions of two tissues.")

    def _on_kept(self, path: Path) -> None:
        recent_models.add(path)
        self.message.emit(f"Kept, and ready in Predict: {path}")


def _timer(parent: QWidget, wait_ms: int, action: Callable[[], None]) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(wait_ms)
    timer.timeout.connect(action)
    return timer
