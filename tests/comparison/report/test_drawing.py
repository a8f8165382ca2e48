from __future__ import annotations

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from napari_lpd.comparison.report.drawing import Drawing
from napari_lpd.core.errors import ExportError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawing():
    """A red disc, a blue square, a green line, letters, and a yellow picture."""
    made = Drawing(120, 80)
    made.disc((20, 20), 10, "#ff0000", "#ff0000")
    made.polygon([(40, 10), (60, 10), (60, 30), (40, 30)], "#0000ff", "#0000ff")
    made.line(((0, 50), (120, 50)), "#00ff00", 4)
    made.paste(Image.new("RGB", (3, 3), "#ffff00"), (80, 10), (30, 20))
    made.text((60, 60), "a < b & c", 12, align="middle")
    return made


@pytest.mark.parametrize("scale", [1, 2])
def test_pixels_show_every_part_at_its_place(drawing, scale):
    picture = drawing.pixels(scale)
    assert picture.size == (120 * scale, 80 * scale)
    for place, colour in {
        (20, 20): (255, 0, 0), (50, 20): (0, 0, 255), (5, 50): (0, 255, 0), (95, 20): (255, 255, 0), (2, 2): (255,) * 3
    }.items():  # fmt: skip
        assert picture.getpixel((place[0] * scale, place[1] * scale)) == colour
    letters = np.argwhere(np.asarray(picture.convert("L"))[56 * scale :] < 128)[:, 1] / scale
    assert 60 - 35 < letters.min() < 60 - 10  # around the middle
    assert 60 + 10 < letters.max() < 60 + 35


def test_svg_holds_shapes_letters_and_the_picture_itself(drawing):
    root = ElementTree.fromstring(drawing.svg())
    assert (root.get("width"), root.get("height")) == ("120", "80")
    disc, line, text, image = (root.find(f"{SVG}{tag}") for tag in ("circle", "line", "text", "image"))
    assert (disc.get("cx"), disc.get("cy"), disc.get("r"), disc.get("fill")) == ("20", "20", "10", "#ff0000")
    assert root.find(f"{SVG}polygon").get("points") == "40,10 60,10 60,30 40,30"
    assert (line.get("x2"), line.get("y2"), line.get("stroke-width")) == ("120", "50", "4")
    assert (text.text, text.get("text-anchor")) == ("a < b & c", "middle")
    assert [image.get(name) for name in ("x", "y", "width", "height")] == ["80", "10", "30", "20"]
    with Image.open(io.BytesIO(base64.b64decode(image.get("href").split(",")[1]))) as inside:
        assert np.abs(np.array(inside.getpixel((5, 5)), int) - (255, 255, 0)).max() <= 4


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<svg")])
def test_the_name_says_the_format(drawing, tmp_path, name, start):
    (tmp_path / name).write_text("an older one")
    drawing.write(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_another_ending_is_refused_and_writes_nothing(drawing, tmp_path):
    with pytest.raises(ExportError, match=r"a.gif: figures are written as .png, .svg, .pdf"):
        drawing.write(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
