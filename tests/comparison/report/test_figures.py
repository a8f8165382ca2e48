from __future__ import annotations

import io
import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from napari_lpd.comparison.report import figures
from napari_lpd.comparison.report.figures import heatmap_figure, patch_strip, scatter_figure
from napari_lpd.comparison.result import BankResult, Comparison, Example, Figure, Patch
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import ExportError
from napari_lpd.core.pictures.figure import encoded, write_figure

NAN = float("nan")
COLOURS = ("#3b4cff", "#00b050", "#ff8c1a", "#ffe119", "#9b2fae", "#00b4d8")
MODELS = ("a$_1$", "<b & c>")
DRAWN = {heatmap_figure: "prototype 1", scatter_figure: "focus overlap (IoU)"}


def comparison_of(class_count: int, k: int) -> Comparison:
    """A comparison of two models and a control; its last class was found nowhere."""
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64) // 16
    heat = np.linspace(-0.5, 0.5, k * 64, dtype=np.float32).reshape(k, 8, 8)
    several = Figure(0.4, 0.3, 0.6, (*[0.5] * (class_count - 1), NAN))
    names = ((MODELS[0], "model"), (MODELS[1], "model"), ("random directions", "random"))
    return Comparison(
        classes=tuple(TissueClass(name=f"tissue {i}", color=COLOURS[i]) for i in range(class_count)),
        k=k,
        temperature=0.07,
        reference="truth",
        resamplings=40,
        judged=tuple(f"tissue {i}" for i in range(class_count)),
        chance_overlap=0.05,
        fewest_sources=6,
        tiles=6,
        sources=6,
        models=MODELS,
        banks=tuple(
            BankResult(name, kind, name if kind == "model" else MODELS[0],
                       {"coverage": several, "focus_overlap": several._replace(per_class=(0.1,) * class_count)}, ())
            for name, kind in names
        ),
        differences=(),
        examples=tuple(Example(c, f"{c}.png", tile, mask, (mask, mask), (heat, heat)) for c in range(class_count)),
        notes=(),
    )  # fmt: skip


@pytest.fixture
def comparison():
    return comparison_of(2, 3)


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(figure, ".png"))).convert("RGB"))


@pytest.mark.parametrize("draw", DRAWN)
def test_labels_are_letters_in_svg_and_names_stand_as_they_are(comparison, draw):
    root = ElementTree.fromstring(encoded(draw(comparison), ".svg"))
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert DRAWN[draw] in texts
    for name in MODELS:
        assert any(name in text for text in texts)


def test_pdf_holds_fonts_and_no_other_picture_than_the_tissue(comparison):
    scatter, heatmaps = (encoded(draw(comparison), ".pdf") for draw in (scatter_figure, heatmap_figure))
    for content in (scatter, heatmaps):
        assert b"DejaVuSans" in content
        assert b"/FontFile2" in content  # embedded, as TrueType
    assert b"/Subtype /Image" not in scatter
    assert heatmaps.count(b"/Subtype /Image") == 2 * 2 * (3 + 3)


@pytest.mark.parametrize(("class_count", "k"), [(2, 2), (6, 10)])
def test_a_cell_per_class_model_and_column_and_none_leaves_the_sheet(class_count, k):
    figure = heatmap_figure(comparison_of(class_count, k))
    (axes,) = figure.axes
    assert len(axes.images) == class_count * 2 * (3 + k)
    (right, _), (bottom, _) = axes.get_xlim()[::-1], axes.get_ylim()
    assert all(0 < cell.get_extent()[0] < cell.get_extent()[1] < right for cell in axes.images)
    assert all(0 < cell.get_extent()[3] < cell.get_extent()[2] < bottom for cell in axes.images)


@pytest.mark.parametrize("draw", DRAWN)
def test_pixels_are_of_many_colours_on_white(comparison, draw):
    picture = pixels(draw(comparison))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert (picture[0, 0] == 255).all()


def test_a_long_name_is_not_cut_off(comparison):
    named = replace(comparison, examples=tuple(e._replace(tile="x" * 200) for e in comparison.examples))
    wide, usual = pixels(heatmap_figure(named)), pixels(heatmap_figure(comparison))
    assert wide.shape[1] > usual.shape[1]
    assert wide.shape[0] == usual.shape[0]


def test_what_was_not_measured_is_not_drawn(comparison):
    nothing = Figure(NAN, NAN, NAN, (NAN, NAN))
    banks = [bank._replace(figures=dict.fromkeys(bank.figures, nothing)) for bank in comparison.banks]
    bare = scatter_figure(replace(comparison, banks=tuple(banks), chance_overlap=NAN, resamplings=0))
    texts = [text.get_text() for text in bare.axes[0].get_legend().get_texts()]
    assert texts == [bank.name for bank in comparison.banks]
    assert "interval" not in bare.axes[0].get_legend().get_title().get_text()


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_name_says_the_format_and_the_same_figure_gives_the_same_bytes(comparison, tmp_path, name, start):
    write_figure(scatter_figure(comparison), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(start)
    time.sleep(1.1)  # another second, which a date would show
    write_figure(scatter_figure(comparison), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_another_ending_is_refused_and_writes_nothing(comparison, tmp_path):
    with pytest.raises(ExportError, match=r"a.gif: figures are written as .png, .svg, .pdf; end the name in one"):
        write_figure(scatter_figure(comparison), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_the_users_own_style_is_neither_used_nor_changed(comparison):
    usual = encoded(scatter_figure(comparison), ".svg")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "svg.fonttype": "path"}):
        assert encoded(scatter_figure(comparison), ".svg") == usual
        assert matplotlib.rcParams["font.size"] == 20


def test_no_pyplot_no_torch_and_no_qt_are_loaded():
    code = f"import {figures.__name__}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib.pyplot", "torch", "qtpy", "napari"} & set(loaded)


def test_patches_lie_side_by_side():
    patches = [Patch("t", "s", (0, 0), 0.5, np.full((9, 9, 3), grey, np.uint8)) for grey in (10, 200)]
    strip = patch_strip(patches)
    assert (strip.getpixel((5, 5))[0], strip.getpixel((strip.width // 2 + 5, 5))[0]) == (10, 200)
    assert patch_strip([]).width == 0
