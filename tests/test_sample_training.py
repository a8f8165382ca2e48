"""The sample regions teach the sample tissues, and pretrained features matter for that."""

from __future__ import annotations

import json

import pytest

from napari_lpd.cli import main, sample_training


def trained_metrics(capsys, out, *extra: str) -> dict[str, float]:
    assert main(["train", *sample_training(out), "--json", *extra]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]


@pytest.mark.slow
def test_training_on_the_sample_regions_beats_guessing_and_a_random_encoder(tmp_path, capsys):
    pretrained = trained_metrics(capsys, tmp_path / "pretrained")
    random = trained_metrics(capsys, tmp_path / "random", "--encoder-weights", "random")
    assert pretrained["mean recall"] > 0.85
    assert pretrained["mean recall"] > random["mean recall"] + 0.1
    assert pretrained["mean recall"] > pretrained["mean recall of a majority guess"] + 0.5
