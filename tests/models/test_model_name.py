"""What a model is called in tables and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_lpd.comparison.result import names_of
from napari_lpd.models.card import model_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/lung-003/model.safetensors", "lung-003"),
        ("runs/lung-003/last.safetensors", "lung-003 (last)"),
        ("models/A.safetensors", "A"),
        ("models/v1.2.safetensors", "v1.2"),
    ],
)
def test_a_model_is_called_as_its_runs_folder_or_its_own_file(path, name, tmp_path, monkeypatch):
    assert model_name(Path(path)) == name
    assert model_name(tmp_path / path) == name


def test_a_model_here_is_called_as_the_folder_in_which_one_stands(tmp_path, monkeypatch):
    (tmp_path / "lung").mkdir()
    monkeypatch.chdir(tmp_path / "lung")
    assert model_name(Path("model.safetensors")) == "lung"


def test_compared_models_have_names_of_their_own():
    assert names_of([Path("models/A.safetensors"), Path("models/B.safetensors")]) == ["A", "B"]
    assert names_of([Path("x/lpd/model.safetensors"), Path("y/lpd/model.safetensors")]) == ["lpd A", "lpd B"]
