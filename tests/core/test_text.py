from __future__ import annotations

import html
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lpd.core.errors import one_line
from napari_lpd.core.text import READABLE, area_text, csv_cell, html_text, is_clean, markdown

ANY = st.text(st.characters(exclude_categories=()))  # also halves of characters
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1+1", "＋1", "－x", "＠x", "'=1+1"]
FORMULAS += ['=HYPERLINK("http://a.example","x")', "=cmd().tif", "-", "--a"]
NUMBERS = ["-0.25", "+3", "1e-5", "-1E+05", ".5", "7", "-7."]


@given(ANY, st.integers(20, 400))
def test_a_line_has_no_line_end_no_control_character_and_is_short(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert is_clean(line)
    line.encode()


def test_a_line_that_is_cut_keeps_its_begin_and_its_end():
    line = one_line(f"model.safetensors: class {'x' * 5000} is too long; choose a shorter name")
    assert len(line) == 300
    assert line.startswith("model.safetensors: class xxx")
    assert line.endswith("; choose a shorter name")


def test_letters_of_every_script_stay():
    text = "腫瘍 опухоль ورم می‌خواهم nävus µm² 👩‍⚕️"
    assert one_line(text) == text
    assert is_clean(text)


@pytest.mark.parametrize(
    "text", ["a\nb", "a\tb", " a", "a ", "\x1b[31m", "a\u202eb", "\ufeffa", "\ud800", "a\u2028b", "a\x00"]
)
def test_what_breaks_a_line_or_turns_it_round_is_not_clean(text):
    assert not is_clean(text)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_never_begins_like_a_formula(text):
    assert csv_cell(text).lstrip('"').startswith("'")


@given(ANY)
def test_no_text_begins_like_a_formula(text):
    cell = csv_cell(text).removeprefix('"').lstrip()
    assert cell[:1] not in tuple("=@＝＋－＠")
    assert cell[:1] not in ("+", "-") or float(cell) is not None


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay_numbers(text):
    assert csv_cell(text) == text
    assert csv_cell(float(text)) == str(float(text))


@pytest.mark.parametrize(
    ("value", "cell"), [(None, ""), (float("nan"), ""), (True, "True"), (3, "3"), ("", ""), (-1.5, "-1.5")]
)
def test_values_as_cells(value, cell):
    assert csv_cell(value) == cell


@given(ANY)
def test_html_has_no_tag_and_no_quotation_mark_of_the_text(text):
    escaped = html_text(text)
    assert not set(escaped) & set("<>\"'")
    assert "\x00" not in escaped
    escaped.encode()


def test_html_shows_the_text_itself():
    assert html.unescape(html_text("<b> & 'c' µ")) == "<b> & 'c' µ"


@given(ANY)
def test_markdown_is_one_line_without_tags_links_and_open_cells(text):
    escaped = markdown(text)
    assert "\n" not in escaped and "<" not in escaped and ">" not in escaped
    plain = escaped.replace("\\\\", "")
    for sign in ("|", "](", "][", "]:", "`"):
        assert sign not in plain.replace(f"\\{sign}", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naevus nests", "naevus nests"),
        ("tumour_stroma", "tumour_stroma"),
        ("66.0 [60.1, 71.2]", "66.0 [60.1, 71.2]"),
        ("0.3 *", "0.3 *"),
        ("**b**", r"\*\*b\*\*"),
        ("_b_", r"\_b\_"),
        ("# head", r"\# head"),
        ("+0.123 [0.1, 0.2] *", "+0.123 [0.1, 0.2] *"),
        ("- item", r"\- item"),
        ("---", r"\---"),
        ("1. item", r"1\. item"),
        ("![x](http://a.example)", r"![x\](http://a.example)"),
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script&gt;"),
        ("a & b", "a &amp; b"),
    ],
)
def test_markdown_escapes_what_it_must_and_no_more(text, shown):
    assert markdown(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "gbk", "cp1251", "cp437", "utf-8"])
@given(text=ANY)
def test_every_console_shows_every_text(encoding, text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=READABLE)
    stream.write(text)
    stream.flush()


def test_what_a_console_lacks_has_a_readable_stand_in():
    assert "0.5 mm² at 2 µm × 3 é … → ß 腫".encode("ascii", READABLE) == b"0.5 mm2 at 2 um x 3 e ... -> ss ?"


def test_a_small_area_is_never_nothing():
    assert [area_text(mm2) for mm2 in (12.3456, 0.05, 0.00049, 3e-7, 0.0)] == [
        "12.346", "0.050", "0.0005", "0.0000003", "0.000"
    ]  # fmt: skip
    assert area_text(0.004, 2) == "0.004"
