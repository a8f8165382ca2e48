"""Predicting never writes over what is read, nor over what is not ours, nor where someone else is writing."""

from __future__ import annotations

import os
import shutil

import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from killing import ended, needs_fork, start_child

from napari_lpd import samples
from napari_lpd.cli import main
from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import is_ours
from napari_lpd.core.locks import beside, locked
from napari_lpd.core.outputs import check_distinct
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.text import read_table
from napari_lpd.prediction.batch import SlideTask, result_names, write_summary
from napari_lpd.results.export.ome_tiff import MASK

QUICK = ["--set", "block=128", "--set", "tile=128", "--set", "overlap=32", "--set", "threads=1"]


@pytest.fixture
def predict(capsys):
    """Give the command; returns the exit code and the last line of what it said."""

    def give(*arguments) -> tuple[int, str]:
        code = main(["predict", *map(str, arguments), *QUICK])
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return give


@pytest.fixture
def ome_slide(tiny_image, tmp_path):
    path = tmp_path / "slides" / "case7.ome.tif"
    path.parent.mkdir()
    about = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
    tifffile.imwrite(path, tiny_image, ome=True, photometric="rgb", tile=(64, 64), metadata=about)
    return path


def test_an_ome_tiff_slide_stays_what_it_is_when_its_result_lies_beside_it(predict, ome_slide, tmp_path):
    before = ome_slide.read_bytes()
    assert predict(ome_slide, "--out", tmp_path / "out")[0] == 0
    for path in (tmp_path / "out").iterdir():
        shutil.move(path, ome_slide.parent)
    assert predict(ome_slide, "--out", ome_slide.parent)[0] == 0
    assert ome_slide.read_bytes() == before
    names = ["case7.ome.mask.ome.tif", "case7.ome.tif", "case7.ome.zarr"]
    assert sorted(path.name for path in ome_slide.parent.iterdir()) == names


def test_an_ome_tiff_of_the_same_name_put_beside_a_predicted_slide_stays(predict, tiny_tiff, ome_slide, tmp_path):
    assert predict(tiny_tiff, "--out", tmp_path)[0] == 0
    beside_it = shutil.copy(ome_slide, tmp_path / "tiny.ome.tif")
    assert predict(tiny_tiff, "--out", tmp_path)[0] == 0
    assert beside_it.read_bytes() == ome_slide.read_bytes()


@pytest.mark.parametrize("link", [False, True])
def test_a_slide_with_the_name_of_anothers_mask_is_not_replaced_and_the_others_go_on(
    predict, tiny_tiff, ome_slide, tmp_path, link
):
    out = ome_slide.parent
    theirs = out / "tiny.mask.ome.tif"
    theirs.symlink_to(ome_slide) if link else shutil.copy(ome_slide, theirs)
    before = ome_slide.read_bytes()
    code, said = predict(tiny_tiff, theirs, "--out", out)
    assert (code, theirs.read_bytes(), ome_slide.read_bytes()) == (2, before, before)
    assert "1 of 2 slides failed" in said
    states = {line.cells["slide"]: line.cells["state"] for line in read_table(out / "summary.csv")[1]}
    assert states[str(theirs)] == "ok"
    assert "tiny.mask.ome.tif: is read for this, so nothing is written there" in states[str(tiny_tiff)]
    assert not (out / "tiny.zarr").exists()


def test_what_is_no_mask_of_ours_is_not_replaced_whatever_the_user_says(predict, tiny_tiff, ome_slide, tmp_path):
    assert predict(tiny_tiff, "--out", tmp_path)[0] == 0
    mask = tmp_path / "tiny.mask.ome.tif"
    assert is_ours(mask, MASK)
    mask.write_bytes(ome_slide.read_bytes())
    for more in ((), ("--replace",), ("--overwrite", "--set", "presence=0.4")):
        code, said = predict(tiny_tiff, "--out", tmp_path, *more)
        assert (code, mask.read_bytes()) == (2, ome_slide.read_bytes())
        assert "tiny.mask.ome.tif exists and is no file of this kind written by napari-lpd" in said


def test_a_mask_without_its_result_is_replaced_only_with_leave(predict, tiny_tiff, tmp_path):
    assert predict(tiny_tiff, "--out", tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "tiny.zarr")
    code, said = predict(tiny_tiff, "--out", tmp_path)
    assert code == 2
    assert "tiny.mask.ome.tif exists and belongs to no prediction here" in said
    assert predict(tiny_tiff, "--out", tmp_path, "--overwrite")[0] == 0


@pytest.mark.parametrize("option", ["--regions", "--tissue", "--model", "--settings"])
def test_nothing_that_is_read_lies_where_a_result_goes(predict, tiny_tiff, tmp_path, option):
    inside = tmp_path / "tiny.zarr" / "read"
    inside.parent.mkdir()
    shutil.copy(samples.model_path() if option == "--model" else samples.regions_path("train"), inside)
    if option == "--settings":
        inside.write_text("{}")
    code, said = predict(tiny_tiff, "--out", tmp_path, option, inside)
    assert code == 2
    assert "tiny.zarr: holds read, which is read for this, so it is not replaced" in said


NAMES = st.sampled_from(["a", "A", "b", "a.mask", "a.mask.ome", "b.ome", "\u00e9", "e\u0301"])
SLIDES = st.lists(st.tuples(NAMES, st.sampled_from([".svs", ".tif", ".ome.tif", ".mrxs"])), unique=True, min_size=1)


@given(SLIDES)
def test_of_any_slides_in_one_folder_those_that_are_not_refused_have_results_of_their_own(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("batch")
    slides = tuple(dict.fromkeys(folder / (name + suffix) for name, suffix in names))
    for slide in slides:
        slide.write_text(slide.name)
    named = zip(slides, result_names(slides), strict=True)
    tasks = [SlideTask(s, samples.model_path(), folder, PredictSettings(), others=slides, name=n) for s, n in named]
    try:
        check_distinct({task.slide: (task.folder, task.mask) for task in tasks})
    except ExportError:
        return
    results = []
    for task in tasks:
        try:
            task.check()
        except ExportError:
            continue
        results += [task.folder, task.mask]
    for path in results:
        path.write_text("result")
    assert len({path.name for path in results}) == len(results)
    assert [slide.read_text() for slide in slides] == [slide.name for slide in slides]


def test_the_second_of_two_runs_of_one_slide_says_who_is_at_it(predict, tiny_tiff, tmp_path):
    out = tmp_path / "out"
    with locked(beside(out / "tiny.zarr"), out / "tiny.zarr"):
        code, said = predict(tiny_tiff, "--out", out)
    assert code == 2
    assert f"tiny.zarr: is being written by another napari-lpd (process {os.getpid()} on" in said
    assert predict(tiny_tiff, "--out", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["tiny.mask.ome.tif", "tiny.zarr"]


def test_names_at_the_limit_are_predicted_and_longer_ones_and_those_not_in_utf_8_refused_at_once(
    predict, tiny_tiff, tmp_path
):
    for name, code in (("n" * 242 + ".tif", 0), ("n" * 243 + ".tif", 2), (os.fsdecode(b"latin\xe9.tif"), 2)):
        slide = tmp_path / name
        slide.write_bytes(tiny_tiff.read_bytes())
        got, said = predict(slide, "--out", tmp_path / "out")
        assert got == code, said
        if code:
            assert "its name " in said
            assert "tiles" not in said
    code, said = predict(tmp_path / os.fsdecode(b"latin\xe9.tif"), tiny_tiff, "--out", tmp_path / "batch")
    assert (code, (tmp_path / "batch" / "tiny.zarr").is_dir()) == (2, True)
    assert "1 of 2 slides failed" in said


def row(name: str, area: float, tissue: str = "fat") -> dict:
    about = {"unsure mm²": 0.5, "tissue mm²": 2.0, "µm per pixel": 0.5, "resolution from": "tags", "seconds": 1.0}
    return {"slide": name, "state": "ok", "mm²": {tissue: area}, **about}


def cells(path, column: str) -> dict[str, str]:
    return {line.cells["slide"]: line.cells[column] for line in read_table(path)[1]}


def test_a_second_batch_adds_to_the_table_of_the_first(tmp_path):
    path = write_summary([row("a", 1), row("b", 2), {"slide": "c", "error": "c: damaged"}], tmp_path / "summary.csv")
    write_summary([row("b", 3), row("d", 4, "nests")], path)
    assert cells(path, "fat mm²") == {"a": "1.000000", "b": "3.000000", "c": "", "d": ""}
    assert cells(path, "nests mm²") == {"a": "", "b": "", "c": "", "d": "4.000000"}
    assert cells(path, "state") == {"a": "ok", "b": "ok", "c": "c: damaged", "d": "ok"}


def test_columns_that_a_user_has_added_to_the_table_stay(tmp_path):
    path = write_summary([row("a", 1)], tmp_path / "summary.csv")
    text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").splitlines()
    path.write_text(f"{text[0]},seen\n{text[1]},yes\n", encoding="utf-8-sig")
    write_summary([row("b", 1)], path)
    assert cells(path, "seen") == {"a": "yes", "b": ""}


def test_another_table_called_summary_is_found_before_the_work_and_stays(predict, tiny_tiff, tmp_path):
    other = shutil.copy(tiny_tiff, tmp_path / "other.tif")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "summary.csv"
    mine.write_text("patient,age\n1,50\n")
    code, said = predict(tiny_tiff, other, "--out", tmp_path / "out")
    assert (code, mine.read_text()) == (2, "patient,age\n1,50\n")
    assert "summary.csv exists and is no file of this kind" in said
    assert [path.name for path in mine.parent.iterdir()] == ["summary.csv"]


@needs_fork
def test_batches_that_write_one_table_at_once_lose_no_line(tmp_path):
    path = tmp_path / "summary.csv"
    children = [
        start_child(lambda n=n: [write_summary([row(f"{n} {i}", i)], path) for i in range(8)]) for n in range(3)
    ]
    assert [ended(child) for child in children] == [0, 0, 0]
    assert set(cells(path, "state")) == {f"{n} {i}" for n in range(3) for i in range(8)}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]
