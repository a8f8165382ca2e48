"""A folder of images with masks is measured by a model of the same classes and resolution, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.errors import DataError
from napari_lpd.data.images import masked_images
from napari_lpd.evaluation.described import check_fits, description_of
from napari_lpd.models.card import read_card

CARD = read_card(samples.model_path())
NAMES = [tissue.name for tissue in CARD.classes]
LUNG = ["tumour", "stroma", "normal lung", "benign gland"]


def folder_of(tmp_path, colours=None, mode="P"):
    folder = tmp_path / "data" / "test"
    for part in ("img", "mask"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (64, 64), "pink").save(folder / "img" / "a.png")
    mask = Image.fromarray(np.zeros((64, 64), np.uint8))
    if colours and mode == "P":
        mask.putpalette([value for colour in colours for value in colour])
    if mode == "RGB":
        mask = Image.new("RGB", (64, 64), colours[0])
    mask.save(folder / "mask" / "a.png")
    return folder


def say(path, names, mpp=None):
    path.write_text(json.dumps({"classes": names} | ({} if mpp is None else {"mpp": mpp})))
    return path


def checked(folder, classes=None, mpp=None):
    return check_fits(CARD, masked_images(folder), description_of(folder, classes, mpp))


@pytest.mark.parametrize("place", ["folder", "around", "flag"])
@pytest.mark.parametrize("mpp", [None, CARD.settings.mpp, CARD.settings.mpp * 1.05])
def test_the_models_own_classes_are_measured_wherever_they_are_named(tmp_path, place, mpp):
    folder = folder_of(tmp_path)
    path = {"folder": folder, "around": folder.parent, "flag": tmp_path}[place] / "classes.json"
    say(path, NAMES, mpp)
    said = checked(folder, str(path) if place == "flag" else None)
    assert [line for line in said if "resolution" in line] == said
    assert bool(said) == (mpp is None)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (LUNG, "its class 0 is 'tumour', the model's 'epidermis'"),
        ([NAMES[1], NAMES[0], *NAMES[2:]], "its class 0 is 'naevus nests', the model's 'epidermis'"),
        (NAMES[:3], "it has 3 classes, the model 4"),
        ([*NAMES, "bone"], "it has 5 classes, the model 4"),
    ],
)
def test_other_classes_are_refused(tmp_path, names, why):
    folder = folder_of(tmp_path)
    say(folder / "classes.json", names)
    with pytest.raises(DataError, match=rf"classes\.json: {why}"):
        checked(folder)


def test_known_data_sets_are_named_by_a_word(tmp_path):
    with pytest.raises(DataError, match="luad: its class 0 is 'tumour epithelium'"):
        checked(folder_of(tmp_path), "luad")


def test_numbers_of_which_nothing_is_said_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing says which classes .*; pass --classes JSON"):
        checked(folder_of(tmp_path))


def test_a_palette_of_other_colours_says_nothing(tmp_path):
    with pytest.raises(DataError, match="nothing says which classes"):
        checked(folder_of(tmp_path, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255)]))


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_masks_in_the_models_colours_name_themselves(tmp_path, mode):
    assert len(checked(folder_of(tmp_path, [tissue.rgb for tissue in CARD.classes], mode))) == 1


@pytest.mark.parametrize("mpp", [0.357, 4.0, 0.8])
def test_another_resolution_is_refused_and_the_flag_wins(tmp_path, mpp):
    folder = folder_of(tmp_path)
    say(folder / "classes.json", NAMES, mpp)
    with pytest.raises(DataError, match=rf"images of {mpp:g} µm per pixel, but the model was trained at"):
        checked(folder)
    assert checked(folder, mpp=CARD.settings.mpp) == []


@pytest.mark.parametrize(("names", "code"), [(NAMES, 0), (LUNG, 2), (None, 2)])
def test_the_command_line_compares(tmp_path, capsys, names, code):
    folder = folder_of(tmp_path)
    if names:
        say(folder / "classes.json", names)
    given = ["evaluate", "--model", str(samples.model_path()), "--data", str(folder), "--out", str(tmp_path / "r")]
    assert main([*given, "--set", "threads=1", "--set", "bootstrap=0", "--set", 'refiners=["none"]']) == code
    assert (tmp_path / "r" / "report.md").exists() == (code == 0)
    assert capsys.readouterr().err.count("\n") == 1 + (code == 0)
