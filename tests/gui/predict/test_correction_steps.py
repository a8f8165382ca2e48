"""Steps of correcting that can be taken back, and the memory that they may take."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.gui.predict.correction_steps import Step, Steps


def step(slide, values, origin=(7, 9)):
    prediction = SimpleNamespace(card=SimpleNamespace(slide_hash=slide))
    return Step.around(prediction, origin, values, values > 0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 60)), max_size=30), st.integers(100, 2000))
@settings(deadline=None)
def test_the_newest_steps_are_kept_within_the_bound(drawn, most):
    steps, made = Steps(most), []
    for number, (slide, edge) in enumerate(drawn):
        values = np.random.default_rng(number).integers(1, 255, (edge, edge), np.uint8)
        steps.add(step(slide, values))
        made.append((slide, values))
        assert steps.size <= most
    kept = made[len(made) - len(steps) :]
    for slide in "ab":
        for _, values in reversed([each for each in kept if each[0] == slide]):
            last = steps.last(slide)
            assert (last.stored() == values).all()
            steps.remove(last)
        assert steps.last(slide) is None


def test_a_step_keeps_the_box_of_what_changed_alone():
    values = np.zeros((4096, 4096), np.uint8)
    values[100:120, 30:33] = 2
    one = step("a", values)
    assert one.box == (107, 39, 127, 42)
    assert (one.stored() == 2).all()
    assert len(one.packed) < 100
