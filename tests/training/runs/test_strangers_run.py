"""What a run's folder or a card from a stranger says of its data is no command line."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file
from torch import zeros

from napari_lpd import samples
from napari_lpd.core.errors import DataError, ModelError
from napari_lpd.core.files import KEY
from napari_lpd.models.card import read_card
from napari_lpd.training.runs.folder import ARGUMENTS, STATE_KEY, STATE_NAME, read_arguments, read_state
from napari_lpd.training.runs.training_tiles import is_at_hand, training_tiles_of


def model_with(tmp_path, **changes):
    card = read_card(samples.model_path()).model_copy(update=changes)
    path = tmp_path / "m.safetensors"
    save_file({"a": zeros(1)}, path, metadata={KEY: card.model_dump_json()})
    return path


@pytest.mark.parametrize(
    "command",
    [
        "napari-lpd train --data 'open",
        "napari-lpd train --slide-mpp fast --slide a.svs --regions b",
        "napari-lpd train --data",
        r"napari-lpd train --data '\\\\evil\share'",
        "napari-lpd train --data //evil/share",
        "napari-lpd train --data http://evil.example/x",
        f"napari-lpd train --data here --source '{'(a+)+' * 100}'",
        "--help",
        "",
    ],
)
def test_no_command_on_a_card_ends_the_program_or_asks_another_computer(tmp_path, command):
    path = model_with(tmp_path, command=command)
    assert not is_at_hand(path)
    with pytest.raises(DataError, match=r"give the training tiles themselves|damaged"):
        training_tiles_of(path)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict", "a.svs", "--out", "HERE"],
        ["train", "--data", "d", "--out", "ELSEWHERE"],
        ["train", "--data", "d", "--out", "HERE", "--set", "model.encoder=hf-hub:evil/x"],
        ["train", "--data", "d", "--out"],
        ["train", "--data", "d"],
        ["train", "--out", "HERE", "--out", "ELSEWHERE"],
    ],
)
def test_a_run_is_gone_on_with_only_by_a_training_into_its_own_folder(tmp_path, arguments):
    given = [{"HERE": str(tmp_path), "ELSEWHERE": str(tmp_path / "b")}.get(word, word) for word in arguments]
    (tmp_path / ARGUMENTS).write_text(json.dumps(given))
    with pytest.raises(DataError, match=r"train anew|Train anew"):
        read_arguments(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 9999, "[]", "{}", "{", "null", '{"identity": 1, "place": {}}', '{"identity": {}, "place": NaN}']
)
def test_a_damaged_state_is_refused_in_one_line(tmp_path, text):
    save_file({"a": zeros(1)}, tmp_path / STATE_NAME, metadata={STATE_KEY: text})
    with pytest.raises(ModelError, match="delete it to train anew"):
        read_state(tmp_path)
