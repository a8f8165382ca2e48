"""A result is believed only where it says what was written: whatever is lost or changed in it ends in one line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_predictions import predicted

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.results import MeasureSettings
from napari_lpd.gui.contributions import get_reader
from napari_lpd.results.card import ResultAttributes, _checksum
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.create import start_prediction
from napari_lpd.results.measures.areas import measure
from napari_lpd.results.prediction import Prediction, is_prediction
from napari_lpd.results.store import DamagedResultError
from napari_lpd.slides.tissue import TissueMask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLASSES = (TissueClass(name="dark", color="#3b4cff"), TissueClass(name="pink", color="#ff8c1a"))
BLOCKY = {"block": 64, "settings": PredictSettings(tile=256, block=64, background_power=2)}
TISSUE = TissueMask(np.ones((8, 8), bool), 16.0)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A finished result of 150 x 100 pixels in blocks of 64, with every file that a result has but corrections."""
    labels = np.random.default_rng(0).integers(0, 3, (150, 100)).astype(np.uint8)
    return predicted(tmp_path_factory.mktemp("sound") / "a.zarr", labels, CLASSES, **BLOCKY).folder


@pytest.fixture
def result(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "a.zarr")


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def chunks_of(folder: Path) -> list[str]:
    return [name for name in files_of(folder) if not name.endswith("zarr.json")]


def seen(folder: Path) -> Any:
    """Everything that a result gives: areas as stored and as measured, labels and maps of all levels."""
    found = Prediction.open(folder)
    pyramids = (found.labels, found.scores, found.presence, found.uncertainty, *found.prototypes)
    pixels = [np.asarray(level).tobytes() for pyramid in pyramids for level in pyramid.levels]
    return found.area_mm2(), found.tissue_mm2, found.card, run(measure(found, MeasureSettings())), pixels


def test_a_sound_result_opens_and_says_so(result):
    assert Prediction.open(result).finished
    assert len(chunks_of(result)) > 20


def test_every_chunk_that_is_lost_is_noticed_when_the_result_opens(result):
    for name in chunks_of(result):
        content = (result / name).read_bytes()
        (result / name).unlink()
        with pytest.raises(DamagedResultError, match=r"the result is damaged: .*(lost)"):
            Prediction.open(result)
        (result / name).mkdir()  # zarr reads a folder as an absent chunk
        with pytest.raises(DamagedResultError, match="the result is damaged"):
            Prediction.open(result)
        (result / name).rmdir()
        (result / name).write_bytes(content)
    assert Prediction.open(result).finished


def test_every_chunk_that_is_changed_is_noticed_when_it_is_read(sound, result):
    expected = seen(sound)
    for name in chunks_of(result):
        content = (result / name).read_bytes()
        for bad in (b"", content[:-1], content[:7], content + b"\0", bytes([content[0] ^ 1]) + content[1:]):
            (result / name).write_bytes(bad)
            with pytest.raises(DamagedResultError, match="the result is damaged"):
                seen(result)
        (result / name).write_bytes(content)
    assert seen(result) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_gives_the_same_numbers_or_one_line(sound, tmp_path_factory, data):
    folder = shutil.copytree(sound, tmp_path_factory.mktemp("x") / "a.zarr")
    for _ in range(data.draw(st.integers(1, 3))):
        path = folder / data.draw(st.sampled_from(files_of(sound)))
        damage(path, data)
    try:
        found = seen(folder)
    except ExportError as error:
        assert len(str(error).splitlines()) == 1
        assert str(folder) in str(error)
    else:
        assert found == seen(sound)
    shutil.rmtree(folder.parent)


def damage(path: Path, data) -> None:
    """Delete, cut, or change a file somewhere."""
    content = bytearray(path.read_bytes()) if path.is_file() else bytearray(b"x")
    at = data.draw(st.integers(0, max(len(content) - 1, 0)))
    match data.draw(st.sampled_from(["delete", "cut", "flip", "insert", "zeros"])):
        case "delete":
            path.unlink(missing_ok=True)
            return
        case "cut":
            content = content[:at]
        case "flip" if content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        case _:
            content[at : at + 40] = bytes(len(content[at : at + 40]))
    path.write_bytes(bytes(content))


VALUES = [None, True, 0, -1, 1.5, 10**9, 10**30, 1e308, "", "x", [], ["x"], [0, 0], [10**9] * 2, {}, {"name": "evil"}]
NESTED = "[" * 100_000 + "]" * 100_000


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the places of all values in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for name, part in inner for place in places(part, (*at, name)))]


def put(about: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Replace what stands at a place; a mark of our own that was changed gets the checksum that fits."""
    if not place:
        return value
    *parents, last = place
    target = about
    for name in parents:
        target = target[name]
    target[last] = value
    return about


def sealed(about: Any) -> Any:
    mine = about["attributes"][KEY] if isinstance(about, dict) and isinstance(about.get("attributes"), dict) else None
    if isinstance(mine, dict):
        mine["checksum"] = _checksum({name: value for name, value in mine.items() if name != "checksum"})
    return about


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_metadata_that_say_something_else_give_the_same_labels_or_one_line(sound, tmp_path_factory, data):
    """Also where whoever changed them made the checksum fit, which then is no longer ours to notice."""
    folder = shutil.copytree(sound, tmp_path_factory.mktemp("x") / "a.zarr")
    path = folder / data.draw(st.sampled_from([name for name in files_of(sound) if name.endswith("zarr.json")]))
    about = json.loads(path.read_text())
    place, value = data.draw(st.sampled_from(places(about))), data.draw(st.sampled_from(VALUES))
    changed = put(about, place, value)
    fits = data.draw(st.booleans()) and KEY in place
    path.write_text(json.dumps(sealed(changed) if fits else changed))
    try:
        found = seen(folder)
    except ExportError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert fits or found == seen(sound)
    assert is_prediction(folder) in (True, False)
    shutil.rmtree(folder.parent)


BROKEN: dict[str, Callable[[Any], Any]] = {
    "scope": lambda a: a["attributes"][KEY]["card"].update(scope=["x"]),
    "scope of no area": lambda a: a["attributes"][KEY]["card"].update(scope=["POLYGON EMPTY"]),
    "shape": lambda a: a["attributes"][KEY]["card"].update(shape=[10**9, 10**9]),
    "stride of 0": lambda a: a["attributes"][KEY]["card"].update(stride=0),
    "block of 0": lambda a: a["attributes"][KEY]["card"].update(block=0),
    "mpp of 0": lambda a: a["attributes"][KEY]["card"].update(mpp=0),
    "classes": lambda a: a["attributes"][KEY]["card"].update(classes=[]),
    "a class twice": lambda a: a["attributes"][KEY]["card"]["classes"][1].update(name="dark"),
    "tissue_mpp": lambda a: a["attributes"][KEY].update(tissue_mpp=0),
    "tissue_shape": lambda a: a["attributes"][KEY].update(tissue_shape=[8, 9]),
    "areas": lambda a: a["attributes"][KEY].update(areas_mm2={"other": 1.0}),
    "unreadable": lambda a: a["attributes"][KEY].update(unreadable=[[1, 2]]),
    "map_scale": lambda a: a["attributes"][KEY].update(map_scale="x"),
    "card": lambda a: a["attributes"][KEY].pop("card"),
    "format": lambda a: a["attributes"][KEY].update(format="3"),
    "our mark": lambda a: a["attributes"].update({KEY: 7}),
    "attributes": lambda a: a.update(attributes=[{KEY: 1}]),
}  # fmt: skip
ARRAYS: dict[str, Callable[[Any], Any]] = {
    "chunks of 0": lambda a: a["chunk_grid"]["configuration"].update(chunk_shape=[0, 0]),
    "chunks": lambda a: a["chunk_grid"]["configuration"].update(chunk_shape=[64, 32]),
    "codec": lambda a: a.update(codecs=[{"name": "evil"}]),
    "codecs": lambda a: a.update(codecs=7),
    "fill": lambda a: a.update(fill_value=-1),
    "type": lambda a: a.update(data_type="float64"),
    "shape": lambda a: a.update(shape=[10**9, 10**9]),
    "node": lambda a: a.update(node_type="group"),
    "zarr": lambda a: a.update(zarr_format=2),
}
RAW = {
    "utf-8": b'\xff"napari_lpd"',
    "empty": b"",
    "deep": NESTED.encode(),
    "nan": b'{"napari_lpd": NaN}',
    "text": b"hello",
}


def said(folder: Path, tmp_path: Path, capsys) -> list[str]:
    """What measure, export, opening and napari's reader say of a damaged result, one line each."""
    out = ["--out", str(tmp_path / "m.csv"), "--overwrite"]
    assert main(["measure", str(folder), *out]) == 2
    assert main(["export", str(folder), "--to", str(tmp_path / "m.ome.tif"), "--overwrite"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    with pytest.raises(ExportError) as caught:
        Prediction.open(folder)
    lines.append(str(caught.value))
    if is_prediction(folder):
        reader = get_reader(str(folder))
        assert reader is not None
        with pytest.raises(ExportError) as caught:
            reader(str(folder))
        lines.append(str(caught.value))
    assert not (tmp_path / "m.csv").exists()
    assert not (tmp_path / "m.ome.tif").exists()
    return lines


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("fits", [True, False])
def test_a_card_that_cannot_be_is_one_line(result, tmp_path, capsys, name, fits):
    about = json.loads((result / "zarr.json").read_text())
    BROKEN[name](about)
    (result / "zarr.json").write_text(json.dumps(sealed(about) if fits else about))
    assert all("the result is damaged: " in line and len(line) < 600 for line in said(result, tmp_path, capsys))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("node", ["0", "labels/tissues/0", "prototypes/1/0", "uncertainty/0", "labels/tissue_mask/0"])
def test_an_array_that_is_not_ours_is_one_line(result, tmp_path, capsys, name, node):
    about = json.loads((result / node / "zarr.json").read_text())
    ARRAYS[name](about)
    (result / node / "zarr.json").write_text(json.dumps(about))
    assert all("the result is damaged: " in line for line in said(result, tmp_path, capsys))


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("node", [".", "labels/tissues", "labels/tissues/0", "prototypes/0"])
def test_metadata_that_are_no_json_are_one_line(result, tmp_path, capsys, name, node):
    (result / node / "zarr.json").write_bytes(RAW[name])
    lines = said(result, tmp_path, capsys)
    assert all(("the result is damaged: " in line) or ("no prediction there" in line) for line in lines)


def card_and_tissue(folder: Path):
    return Prediction.open_unchecked(folder).card, lambda: (TISSUE, [[1.0] * 2] * 3)


@pytest.mark.parametrize("name", [*RAW, "our mark", "shape"])
def test_a_damaged_result_is_replaced_on_request_only(sound, result, name):
    card, prepare = card_and_tissue(sound)
    if name in RAW:
        (result / "zarr.json").write_bytes(RAW[name] + b'"napari_lpd"')
    else:
        about = json.loads((result / "zarr.json").read_text())
        BROKEN[name](about)
        (result / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(DamagedResultError, match="--overwrite"):
        start_prediction(result, card, prepare)
    assert start_prediction(result, card, prepare, replace=True).finished_blocks() == set()


def test_corrections_in_a_result_that_cannot_be_opened_are_kept_when_it_is_replaced(sound, result):
    Corrections(Prediction.open(result, write=True)).apply_crop(0, 0, np.ones((40, 40), np.uint8))
    (result / "zarr.json").write_bytes(b'"napari_lpd"')
    start_prediction(result, *card_and_tissue(sound), replace=True)
    assert (result.with_name("a.damaged-1.zarr") / "labels" / "corrections" / "0" / "c" / "0" / "0").is_file()


@pytest.mark.parametrize("form", [2, 3, 4, 10**12])
def test_a_format_that_is_not_read_is_said(result, form):
    about = json.loads((result / "zarr.json").read_text())
    about["attributes"][KEY]["format"] = form
    (result / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(ExportError, match=f"format {form}, this version reads 5; predict again"):
        Prediction.open(result)


@pytest.mark.parametrize("how", ["lost", "changed"])
def test_just_the_blocks_of_what_is_damaged_are_made_again(sound, result, how):
    card, prepare = card_and_tissue(sound)
    good = Prediction.open(sound).finished_blocks()
    for name in ("labels/tissues/0/c/1/1", "0/c/0/0/1", "prototypes/0/0/c/0/2/1", "uncertainty/0/c/2/0"):
        content = (result / name).read_bytes()
        (result / name).unlink()
        if how == "changed":
            (result / name).write_bytes(content[:-1])
        again = start_prediction(result, card, prepare)
        row, column = (int(part) for part in name.split("/")[-2:])
        assert again.finished_blocks() == good - {(row, column)}
        assert not again.finished
        shutil.rmtree(result)
        shutil.copytree(sound, result)


def test_attributes_come_back_as_they_were_written(sound):
    about = json.loads((sound / "zarr.json").read_text())["attributes"][KEY]
    assert ResultAttributes.model_validate(about).stored() == about


@pytest.fixture(scope="module")
def corrected(sound, tmp_path_factory) -> Path:
    """The sound result with corrections in four blocks, of which one was taken back."""
    folder = shutil.copytree(sound, tmp_path_factory.mktemp("corrected") / "a.zarr")
    corrections = Corrections(Prediction.open(folder))
    before = corrections.read_crop(128, 64, (20, 20))
    corrections.apply_crop(50, 50, 3 - np.maximum(corrections.read_crop(50, 50, (30, 30)), 1))
    corrections.apply_crop(128, 64, np.full((20, 20), 2))
    corrections.apply_crop(128, 64, before)
    assert Corrections(Prediction.open(folder)).blocks() == {(0, 0), (0, 1), (1, 0), (1, 1)}
    return folder


READERS = {
    "measure": lambda folder, out: ["measure", str(folder), "--overwrite", "--out", str(out / "a.csv")],
    "export": lambda folder, out: ["export", str(folder), "--to", str(out / "a.ome.tif")],
    "outlines": lambda folder, out: ["export", str(folder), "--to", str(out / "a.geojson")],
}


@pytest.mark.parametrize("how", ["lost", "changed"])
def test_every_chunk_of_the_corrections_that_is_lost_or_changed_is_noticed(corrected, tmp_path, capsys, how):
    folder = shutil.copytree(corrected, tmp_path / "a.zarr")
    chunks = [name for name in chunks_of(folder) if name.startswith("labels/corrections/")]
    assert len(chunks) >= 4
    for name in chunks:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        if how == "changed":
            (folder / name).write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        with pytest.raises(DamagedResultError, match="remove its folder labels/corrections to go on without them"):
            [np.asarray(level) for level in Corrections(Prediction.open(folder)).levels]
        (folder / name).write_bytes(content)
    (folder / chunks[0]).unlink()
    with pytest.raises(
        DamagedResultError, match=r"1 of 4 chunks of labels/corrections/0 are lost, the first at y 0, x 0"
    ):
        get_reader(str(folder))(str(folder))
    for arguments in READERS.values():
        assert main(arguments(folder, tmp_path)) != 0
        assert "chunks of labels/corrections/0 are lost" in capsys.readouterr().err.splitlines()[-1]
    shutil.rmtree(folder / "labels" / "corrections")  # as the line says
    assert main(READERS["measure"](folder, tmp_path)) == 0


@pytest.mark.parametrize("value", [0, "x", [[], []], [[[0]]], [[["x", 0]]], {"a": 1}])
def test_a_damaged_list_of_corrections_is_one_line(corrected, tmp_path, value):
    folder = shutil.copytree(corrected, tmp_path / "a.zarr")
    path = folder / "labels" / "corrections" / "zarr.json"
    about = json.loads(path.read_text())
    about["attributes"]["napari_lpd_chunks"] = value
    path.write_text(json.dumps(about))
    with pytest.raises(DamagedResultError, match=r"damaged list of chunks: .*remove its folder labels/corrections"):
        Corrections(Prediction.open(folder)).blocks()


def test_corrections_of_older_versions_open_and_are_listed_with_the_next_one(corrected, tmp_path):
    folder = shutil.copytree(corrected, tmp_path / "a.zarr")
    path = folder / "labels" / "corrections" / "zarr.json"
    about = json.loads(path.read_text())
    listed = about["attributes"].pop("napari_lpd_chunks")
    path.write_text(json.dumps(about))
    corrections = Corrections(Prediction.open(folder))
    corrections.apply_crop(50, 50, np.full((2, 2), 0))
    assert json.loads(path.read_text())["attributes"]["napari_lpd_chunks"] == listed
