"""What changes the pixels of a result makes it another result; what only changes how fast it is made does not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import shapely
import tifffile

from napari_lpd.cli.main import main
from napari_lpd.core.settings.prediction import CrfSettings, LabelSettings, PredictSettings
from napari_lpd.prediction.batch import SlideTask
from napari_lpd.prediction.predict import prediction_card
from napari_lpd.results.card import CHANGEABLE, PredictionCard
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.tissue import TissueMask

SETTINGS: dict[str, Any] = {
    "mpp": 2.0,
    "tile": 1024,
    "overlap": 64,
    "flips": True,
    "normalise": "slide",
    "presence": 0.25,
    "background_power": 3.0,
    "tissue_only": False,
    "refiner": "lattice",
    "crf": CrfSettings(iterations=2),
    "block": 512,
    "precision": "bfloat16",
}
RUNTIME: dict[str, Any] = {
    "labels": LabelSettings(sure=0.7),
    "threads": 3,
    "batch": 2,
    "device": "cuda:1",
    "backend": "torch",
}
MASK = TissueMask(np.ones((20, 30), bool), 16.0)
OTHERS: dict[str, dict[str, Any]] = {  # options of a run beside its settings
    "model": {"model_hash": "other"},
    "icc": {"icc": True},
    "image": {"image": 2},
    "mpp": {"bare": True, "mpp": 0.5},
    "override_mpp": {"override_mpp": 0.5},
    "regions": {"scope": [shapely.box(10, 10, 90, 90)]},
    "tissue": {"tissue": MASK},
}
NOT_OF_PIXELS = {"slide", "out", "settings", "replace"}  # what is read, where it goes, and the tables above
NOT_OF_PIXELS |= {"others", "name"}  # the batch's other slides, and what its results are called
NOT_OF_PIXELS |= {"origin"}  # where the regions are counted from: in the scope


class _Options(NamedTuple):
    """Options of one run."""

    settings: PredictSettings = PredictSettings()
    model_hash: str = ""
    icc: bool = False
    image: int | None = None
    bare: bool = False
    mpp: float | None = None
    override_mpp: float | None = None
    scope: Any = ()
    tissue: TissueMask | None = None


@pytest.fixture
def card_of(tiny_model, tiny_image, swapped, tmp_path):
    """Return the card of a run with options; `bare` is a slide without resolution."""
    tags = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "iccprofile": swapped}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for image in (tiny_image, tiny_image[:192, :192]):
            file.write(image, resolution=(1e4, 1e4), resolutionunit="CENTIMETER", **tags)
    tifffile.imwrite(tmp_path / "bare.tif", tiny_image, **tags)

    def card(**options: Any) -> PredictionCard:
        run = _Options(**options)
        model = tiny_model._replace(hash=run.model_hash or tiny_model.hash)
        path = tmp_path / ("bare.tif" if run.bare else "a.tif")
        with open_slide(path, run.mpp, run.icc, run.override_mpp, run.image) as slide:
            return prediction_card(slide, model, run.settings, run.scope, run.tissue)

    return card


def test_the_tables_name_every_setting_and_every_option():
    assert set(SETTINGS) | set(RUNTIME) == set(PredictSettings.model_fields)
    assert set(RUNTIME) == CHANGEABLE
    assert set(OTHERS) | NOT_OF_PIXELS == set(SlideTask._fields)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_changes_pixels_makes_another_result(card_of, name):
    plain, other = card_of(), card_of(settings=PredictSettings(**{name: SETTINGS[name]}))
    assert other.difference(plain).startswith(f"{name}=")
    assert other.digest != plain.digest


@pytest.mark.parametrize("name", sorted(set(RUNTIME) - {"device"}))
def test_a_setting_that_changes_the_speed_does_not(card_of, name):
    plain, other = card_of(), card_of(settings=PredictSettings(**{name: RUNTIME[name]}))
    assert not other.difference(plain)
    assert other.digest == plain.digest


@pytest.mark.parametrize("name", OTHERS)
def test_an_option_that_changes_pixels_makes_another_result(card_of, name):
    plain, other = card_of(bare="bare" in OTHERS[name], mpp=1.0), card_of(**OTHERS[name])
    assert other.difference(plain)
    assert other.digest != plain.digest


@pytest.mark.parametrize(
    "other",
    [TissueMask(np.ones((20, 31), bool), 16.0), TissueMask(np.ones((30, 20), bool), 16.0), MASK._replace(mpp=8.0)],
)
def test_another_tissue_mask_makes_another_result(card_of, other):
    assert card_of(tissue=other).difference(card_of(tissue=MASK)) == "another tissue"


def test_a_profile_that_is_not_there_changes_nothing(tiny_model, tiny_tiff):
    with open_slide(tiny_tiff) as plain, open_slide(tiny_tiff, icc=True) as asked:
        cards = [prediction_card(slide, tiny_model, PredictSettings()) for slide in (plain, asked)]
    assert not cards[0].difference(cards[1])


def test_a_result_that_does_not_say_how_colours_were_treated_is_not_continued(card_of):
    older = PredictionCard.model_validate(card_of().model_dump(exclude={"icc"}))
    assert card_of().difference(older) == "another treatment of the colour profile (--icc)"


def test_asking_for_the_profile_does_not_give_the_numbers_without_it(tiny_image, swapped, tmp_path, capsys):
    slide = tmp_path / "a.tif"
    tags = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "iccprofile": swapped}
    tifffile.imwrite(slide, tiny_image, resolution=(1e4, 1e4), resolutionunit="CENTIMETER", **tags)
    command = ["predict", str(slide), "--out", str(tmp_path / "out"), "--set", "block=64", "--set", "threads=1"]
    assert main(command) == 0
    assert main([*command, "--icc"]) == 2
    assert "holds a prediction with another treatment of the colour profile (--icc)" in capsys.readouterr().err
    assert main([*command, "--icc", "--replace"]) == 0


def test_what_is_already_finished_and_a_profile_that_is_not_there_are_said(tiny_tiff, tmp_path, capsys):
    quick = ["--set", "tile=128", "--set", "overlap=32", "--set", "threads=1"]
    command = ["predict", str(tiny_tiff), "--out", str(tmp_path / "out"), *quick]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "already finished: False" in said.out
    assert "(already finished)" not in said.err
    assert "colour profile" not in said.err
    assert main([*command, "--icc"]) == 0  # the same prediction, as there is no profile
    said = capsys.readouterr()
    assert "already finished: True" in said.out
    assert "(already finished)" in said.err
    assert "tiny.tiff has no colour profile: its colours stay as stored, with or without --icc" in said.err
    assert "tiles" not in said.err
