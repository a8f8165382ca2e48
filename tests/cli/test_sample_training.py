"""The sample regions teach the sample tissues, and pretrained features matter for that."""

from __future__ import annotations

import pytest

from napari_lpd.cli.train import sample_training
from napari_lpd.core.jobs import in_subprocess, run


def trained_metrics(out, *extra: str) -> dict[str, float]:
    """Train fast, in a process of its own, with as many threads as a user gets."""
    arguments = sample_training(out)
    at = arguments.index("--settings")
    arguments[at : at + 2] = ["--preset", "fast", "--set", "model.necks=1"]
    return run(in_subprocess(["train", *arguments, *extra]))["metrics"]


@pytest.mark.slow
def test_training_on_the_sample_regions_beats_guessing_and_a_random_encoder(tmp_path):
    pretrained = trained_metrics(tmp_path / "pretrained")
    random = trained_metrics(tmp_path / "random", "--encoder-weights", "random")
    assert pretrained["mean recall"] > 0.85
    assert pretrained["mean recall"] > random["mean recall"] + 0.1
    assert pretrained["mean recall"] > pretrained["mean recall of a majority guess"] + 0.5
