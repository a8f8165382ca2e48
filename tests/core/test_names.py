"""Names of classes: those with a meaning are reserved, those in any script can be read in pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from napari_lpd.cli.main import main
from napari_lpd.core.classes import RESERVED, read_classes
from napari_lpd.core.errors import DataError
from napari_lpd.core.pictures import fonts
from napari_lpd.core.pictures.fonts import draw_text, in_figure, runs, width_of


@pytest.mark.parametrize("name", [*RESERVED, "Tissue", " NONE ", "Unlabelled"])
def test_a_name_that_means_something_else_is_refused_before_the_work(tmp_path, tiny_tiff, name, capsys):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": [name, "pink"]}))
    with pytest.raises(DataError, match="a class cannot be called"):
        read_classes(path)
    (tmp_path / "r.geojson").write_text("{}")
    out = tmp_path / "out"
    options = ["--slide", tiny_tiff, "--regions", tmp_path / "r.geojson", "--classes", path, "--out", out]
    assert main(["train", *map(str, options)]) == 2
    assert "which means something else in regions and tables" in capsys.readouterr().err
    assert not out.exists()


def test_a_name_that_holds_such_a_word_is_fine(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"classes": ["fat tissue", "nonee", "unlabelled nuclei"]}))
    assert len(read_classes(tmp_path / "c.json")) == 3


LATIN, OTHERS = ["Épiderme", "Drüse", "żółć", "Ткань", "ιστός", "µm"], ["母斑", "조직", "ウ"]


@pytest.mark.parametrize("text", LATIN)
def test_letters_of_the_first_font_are_drawn_as_they_are(text):
    [(path, piece)] = runs(text)
    assert piece == text
    assert path.endswith("DejaVuSans.ttf")


@pytest.mark.parametrize("text", [*LATIN, *OTHERS])
def test_no_letter_is_drawn_as_a_box(text):
    for path, piece in runs(text):
        font = ImageFont.truetype(path, 20)
        for letter in piece:
            assert fonts._letters(path) & {ord(letter)}, letter
            assert _drawn(letter, font) != _drawn("\U0010ffff", font) or letter == " "


def _drawn(letter, font):
    image = Image.new("L", (60, 40))
    ImageDraw.Draw(image).text((5, 5), letter, 255, font)
    return image.tobytes()


def test_letters_that_no_font_has_are_written_by_their_numbers(monkeypatch):
    monkeypatch.setattr(fonts, "_font_of", lambda letter: fonts._own() if letter.isascii() else None)
    assert runs("a母") == [(fonts._own(), "aU+6BCD ")]
    assert in_figure("母")["s"] == "U+6BCD "
    assert width_of("母", 18) > width_of("a", 18) > 0


def test_pieces_in_several_fonts_stand_side_by_side():
    image = Image.new("RGB", (400, 40), "white")
    draw_text(ImageDraw.Draw(image), (5, 5), "Ab 母斑 É", "black", 18)
    columns = np.flatnonzero(np.asarray(image).min((0, 2)) < 128)
    assert columns.min() >= 5
    assert columns.max() <= 5 + width_of("Ab 母斑 É", 18) + 1


def test_families_of_a_figure_have_the_letters():
    assert in_figure("Épiderme") == {"s": "Épiderme", "family": ["DejaVu Sans"]}
