"""What is read is never written over, whatever its name, through whatever link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lpd.core.errors import ExportError
from napari_lpd.core.outputs import check_distinct, check_name, check_outputs


def test_new_files_beside_what_is_read_are_fine(tmp_path):
    (tmp_path / "a.svs").write_text("slide")
    check_outputs([tmp_path / "a.zarr", tmp_path / "a.mask.ome.tif"], [tmp_path / "a.svs", None])


SAME = {
    "the same path": lambda folder: folder / "a.svs",
    "a way round": lambda folder: folder / "other" / ".." / "a.svs",
    "a link to it": lambda folder: folder / "link.svs",
    "in a folder that is a link": lambda folder: folder / "linked" / "a.svs",
    "in capitals": lambda folder: folder / "A.SVS",
    "a hard link": lambda folder: folder / "hard.svs",
    "another way to compose an accent": lambda folder: folder / "e\u0301.svs",
}


@pytest.mark.parametrize("how", SAME)
def test_an_output_that_is_an_input_is_refused(tmp_path, how):
    slide, accent = tmp_path / "a.svs", tmp_path / "\u00e9.svs"
    for path in (slide, accent):
        path.write_text("slide")
    (tmp_path / "other").mkdir()
    (tmp_path / "link.svs").symlink_to(slide)
    (tmp_path / "linked").symlink_to(tmp_path)
    os.link(slide, tmp_path / "hard.svs")
    output = SAME[how](tmp_path)
    with pytest.raises(ExportError, match=r"(?i)svs: is read for this, so nothing is written there"):
        check_outputs([tmp_path / "new", output], [slide, accent])
    with pytest.raises(ExportError, match=r"is read for this, so nothing is written there"):
        check_outputs([slide, accent], [output])


def test_a_folder_with_an_input_is_not_replaced_and_nothing_is_written_into_a_result_that_is_read(tmp_path):
    result = tmp_path / "a.zarr"
    (result / "labels").mkdir(parents=True)
    (result / "zarr.json").write_text("{}")
    (result / "model.safetensors").write_text("")
    with pytest.raises(ExportError, match=r"a\.zarr: holds model\.safetensors, which is read"):
        check_outputs([result], [result / "model.safetensors"])
    with pytest.raises(ExportError, match=r"b\.zarr: lies in the result a\.zarr"):
        check_outputs([result / "labels" / "b.zarr"], [result])
    check_outputs([tmp_path / "images" / "report.md"], [tmp_path / "images"])


@pytest.mark.parametrize(("one", "two"), [("a.zarr", "a.zarr"), ("a.zarr", "A.zarr"), ("\u00e9.zarr", "e\u0301.zarr")])
def test_two_inputs_that_want_one_output_are_named(tmp_path, one, two):
    with pytest.raises(ExportError, match=r"x/a\.svs and y/a\.svs would both be written to .*zarr"):
        check_distinct({Path("x/a.svs"): [tmp_path / one], Path("y/a.svs"): [tmp_path / two]})


def test_names_at_the_limit_of_the_file_system_are_fine_and_longer_ones_are_refused(tmp_path):
    check_name(tmp_path / "new" / ("n" * 255))
    for name in ("n" * 256, "\u00e9" * 128):
        with pytest.raises(ExportError, match=r"…: its name has 256 bytes, and .* takes 255: give"):
            check_name(tmp_path / "new" / name)
    deep = tmp_path.joinpath(*["f" * 200] * 20, "n" * 200)
    with pytest.raises(ExportError, match=r"its path has \d+ bytes, and .* takes 4096"):
        check_name(deep)


def test_names_that_are_not_utf_8_are_refused(tmp_path):
    latin = tmp_path / os.fsdecode(b"latin\xe9.tif")
    with pytest.raises(ExportError, match=r"latin\ufffd\.tif: its name is not UTF-8") as error:
        check_outputs([latin], [])
    str(error.value).encode()
    check_outputs([tmp_path / "a"], [latin])


NAMES = st.lists(st.sampled_from(["a", "A", "\u00e9", "e\u0301", "b", "b.ome", "link", "sub/a", "sub/B"]), unique=True)


@given(NAMES, NAMES)
def test_where_outputs_pass_the_check_writing_them_changes_no_input(tmp_path_factory, inputs, outputs):
    folder = tmp_path_factory.mktemp("names")
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder / "a")
    read = [folder / name for name in inputs if name != "link"]
    for path in read:
        path.write_text(path.name)
    wanted = {name: [folder / name] for name in outputs}
    try:
        check_distinct({Path(name): paths for name, paths in wanted.items()})
        outputs = [path for paths in wanted.values() for path in paths]
        check_outputs(outputs, [*read, *([folder / "link"] if "link" in inputs else [])])
    except ExportError:
        return
    for name, (path,) in wanted.items():
        path.write_text(f"output {name}")
    assert [path.read_text() for path in read] == [path.name for path in read]
    assert [path.read_text() for (path,) in wanted.values()] == [f"output {name}" for name in wanted]
