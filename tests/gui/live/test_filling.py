"""The slide beyond the view: it is labelled while nothing else is to be done, and is there at once when one pans."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.jobs import run
from napari_lpd.data.regions import Region, Verdict
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.live import engine as engines
from napari_lpd.gui.live.engine import Engine
from napari_lpd.gui.live.numbers import FULL_STORE, Learning, areas_in_view, what_is_drawn

VIEW = (0.0, 0.0, 400.0, 400.0)


@pytest.fixture
def wide(tiny_image):
    """A slide of 3 x 4 cells."""
    options = {"rgb": True, "name": "wide", "scale": (1, 1), "units": ("micrometer", "micrometer")}
    return Image(np.tile(tiny_image, (6, 5, 1)), **options)


@pytest.fixture
def engine(wide, small, tiny_regions, classes):
    """What has learned the slide's regions, and labelled the view."""
    keep_triton_out()
    made = Engine(wide, small)
    made.begin_anew((set(), []), run(made.learning(tiny_regions, classes)), 1.0)
    while missing := made.look(VIEW):
        made.take(run(made.labelling(missing)))
    yield made
    made.close()


def fill(engine, near=False):
    """Fill until there is nothing more to do; returns the cells in the order in which they were labelled."""
    order = []
    while not engine.is_filled(VIEW, near):
        filled = run(engine.filling(VIEW, frozenset(engine.cells), near))
        order += filled.cells
        engine.take_filled(filled)
    return order


def test_all_of_the_slide_is_labelled_from_the_view_outwards(engine):
    assert list(engine.cells) == [(0, 0)]
    assert fill(engine, near=True) == [(0, 1), (1, 0), (1, 1)]  # within a view's width
    order = fill(engine)
    assert order[:2] == [(0, 2), (2, 0)] and order[-1] == (2, 3) and len(order) == 8
    assert not engine.is_full
    assert engine.look((600, 1100, 1400, 1900)) == [] and (2, 3) in engine.seen  # panning needs no job


def test_a_full_store_ends_the_filling_and_drops_nothing(engine):
    store = engine._live._store
    store._room = store._held + 2 * next(iter(store._cells.values())).nbytes
    kept = set(store._cells)
    fill(engine)
    assert engine.is_full and kept < set(store._cells) and len(store._cells) == len(kept) + 2
    assert len(engine.cells) == 3


def test_a_bound_on_labelled_cells_ends_it_too(engine, monkeypatch):
    monkeypatch.setattr(engines, "MOST", 4)
    assert len(fill(engine)) == 3 and engine.is_full


def test_panning_shows_what_is_filled_without_a_job_and_a_full_store_is_said(
    train, wide, viewer, small, tiny_regions, classes, settled, live_layers
):
    train.live._settings = lambda: small
    viewer.add_layer(wide)
    train.data.drawn.slides._box.choose(wide)
    viewer.canvas.size = (400, 400)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 200, 200)
    layer = new_regions_layer(viewer, wide)
    add_regions(layer, tiny_regions, classes)
    train.data.drawn.files.note(layer)
    settled(train)
    live = train.live
    assert len(live._engine.cells) == 12 and not live.runner.running
    (mask,) = live_layers()
    live.runner.start = None  # a job would be an error
    viewer.scene.camera.center = (0, 1300, 1740)
    live._look.stop()
    live._on_glance()
    np.testing.assert_allclose(mask.translate, (1024, 1536))
    assert {1, 2} <= set(np.unique(mask.data))
    live._engine.is_full = True
    live._show_line()
    assert live.line.text().split("\n")[-1] == f"{FULL_STORE}."


def test_areas_of_the_view_count_its_pixels_alone(engine):
    engine.cells[0, 0].labels[:] = 1
    engine.cells[0, 0].labels[:, 100:] = 2
    engine.cells[0, 0].labels[:, 200:] = 253
    engine.cells[0, 0].labels[:, 380:] = 0
    assert areas_in_view(engine, (0, 0, 200, 400)) == "In view, 0.076 mm²: unsure 47 %, dark 26 %, pink 26 %"
    engine.seen, engine.cells[1, 1] = [(0, 0), (1, 1)], engine.cells[0, 0]  # one that is beyond the view
    assert areas_in_view(engine, (0, 0, 200, 400)) == "In view, 0.076 mm²: unsure 47 %, dark 26 %, pink 26 %"


def test_nothing_is_mapped_where_nothing_is_labelled_yet(engine):
    engine.cells.clear()
    assert run(engine.mapping("dark", "learned")) is None and not engine.unmapped


def test_more_regions_that_do_not_help_speak_for_training_fully():
    def verdicts(right, wrong):
        return [Verdict(("a",), {"a": 9}, VIEW)] * right + [Verdict(("a",), {"b": 9}, VIEW)] * wrong

    learning = Learning()
    learning.note(4, verdicts(3, 0))  # too few to say anything
    assert learning.advice() == ""
    learning.note(10, verdicts(8, 2))
    learning.note(12, verdicts(9, 3))
    assert learning.advice() == ""  # hardly more regions than before
    learning.note(14, verdicts(11, 3))
    assert learning.advice().startswith("More regions have not helped lately: Train fully")
    learning.note(18, verdicts(16, 2))
    assert learning.advice() == ""  # they have
    learning.note(20, verdicts(20, 0))
    assert "Train fully can add little" in learning.advice()


def test_regions_strokes_and_tissues_without_any_are_counted(tiny_regions, classes):
    stroke = Region(tiny_regions[0].vertices, ("dark",), pixels=True)
    assert what_is_drawn([*tiny_regions, stroke], classes) == "2 tissues, 2 regions, 1 stroke"
    third = TissueClass(name="edge", color="#00ff00")
    assert what_is_drawn(tiny_regions, (*classes, third)) == "2 tissues, 2 regions (none of edge)"


def test_a_slide_of_ten_billion_pixels_is_filled_as_far_as_there_is_room(
    small, tiny_image, tiny_regions, classes, monkeypatch
):
    monkeypatch.setattr(engines, "MOST", 3)
    keep_triton_out()
    levels = [np.broadcast_to(tiny_image[0, 0], (edge, edge, 3)) for edge in (100_000, 6_250)]
    options = {"rgb": True, "multiscale": True, "scale": (1, 1), "units": ("micrometer", "micrometer")}
    engine = Engine(Image(levels, **options), small)
    engine.begin_anew((set(), []), run(engine.learning(tiny_regions, classes)), 1.0)
    view = (50_000.0, 50_000.0, 50_400.0, 50_400.0)
    assert engine.look(view) == [(98, 98), (97, 98), (98, 97)]  # from its middle outwards
    engine.take(run(engine.labelling(engine.seen)))
    filled = run(engine.filling(view, frozenset(engine.cells)))
    assert filled.is_full and not filled.cells
    engine.close()
