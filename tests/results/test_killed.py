"""Results, corrections and exports after a kill at each of their file operations: whole, or not there at all."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from killing import needs_fork, states_left
from made_predictions import predicted

from napari_lpd.core import files
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.results import ExportSettings
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.create import copy_prediction
from napari_lpd.results.export.export import export
from napari_lpd.results.prediction import Prediction

pytestmark = needs_fork
LABELS = np.zeros((700, 300), np.uint8)
LABELS[:400] = 1
CROP = np.full((120, 100), 2, np.uint8)


@pytest.fixture
def made(classes, tmp_path):
    predicted(tmp_path / "made" / "a.zarr", LABELS, classes)
    return tmp_path / "made"


def levels(folder) -> list[np.ndarray]:
    return [np.asarray(level) for level in Corrections(Prediction.open(folder / "a.zarr")).levels]


def same(one, two) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def leftovers(folder) -> list[str]:
    names = ("*.partial", "*.lock", "*.old", "*.npz", "*+")
    return [path.name for name in names for path in folder.rglob(name)]


@pytest.mark.parametrize("first", [True, False])
def test_a_correction_that_is_killed_anywhere_is_on_all_levels_or_on_none(made, tmp_path, first):
    if not first:
        Corrections(Prediction.open(made / "a.zarr")).apply_crop(200, 40, np.full((60, 60), 2, np.uint8))
    before = levels(made)

    def correct(folder):
        assert Corrections(Prediction.open(folder / "a.zarr")).apply_crop(450, 60, CROP) == CROP.size

    states = states_left(correct, made, tmp_path / "states")
    wanted, found = levels(made), []
    assert not same(before, wanted)
    for folder in states:
        found.append(same(levels(folder), wanted))
        assert found[-1] or same(levels(folder), before)
        Corrections(Prediction.open(folder / "a.zarr")).apply_crop(450, 60, CROP)
        assert same(levels(folder), wanted)
        labels = zarr.open_group(folder / "a.zarr" / "labels", mode="r")
        assert labels.attrs["ome"]["labels"] == ["tissues", "tissue_mask", "corrections"]
        assert not leftovers(folder / "a.zarr" / "labels" / "corrections")
        assert not list((folder / "a.zarr" / "labels").glob("*.npz"))
    assert found == sorted(found)  # none before some operation, all from there on
    assert set(found) == {False, True}


@pytest.mark.slow
def test_a_prediction_that_is_killed_while_it_replaces_another_loses_no_correction(made, tmp_path, classes):
    Corrections(Prediction.open(made / "a.zarr")).apply_crop(450, 60, CROP)
    wanted = levels(made)

    def replace(folder):
        predicted(folder / "a.zarr", LABELS, classes, model_hash="1")

    for folder in states_left(replace, made, tmp_path / "states"):
        replace(folder)
        assert same(levels(folder), wanted)
        assert Prediction.open(folder / "a.zarr").card.model_hash == "1"
        assert sorted(path.name for path in folder.iterdir()) == ["a.zarr"]
        assert not leftovers(folder)


def content(folder, but=()) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


FILES = [("a.ome.tif", "labels"), ("a.geojson", "labels"), ("a.csv", "labels"), ("b.zarr", "labels")]
FILES += [("p.ome.tif", "prototypes"), ("c.geojson", "corrections")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what"), FILES)
@pytest.mark.parametrize("older", [False, True])
def test_an_export_that_is_killed_anywhere_is_whole_or_not_there(made, tmp_path, name, what, older):
    prediction, out = Prediction.open(made / "a.zarr"), tmp_path / "out"
    Corrections(prediction).apply_crop(450, 60, CROP)

    def write(folder):
        run(export(prediction, folder / name, ExportSettings(what=what, overwrite=True)))

    out.mkdir()
    if older:
        write(out)
    for folder in states_left(write, out, tmp_path / "states"):
        if (path := folder / name).exists() and path.suffix == ".zarr":
            assert content(path, but=(".partial", ".lock")) == content(made / "a.zarr")
        elif path.exists():
            assert path.read_bytes()[-1:]
        else:
            assert not older or path.suffix == ".zarr"
        files._clean.cache_clear()  # as in the next process
        write(folder)
        assert [path.name for path in folder.iterdir()] == [name]
        assert not leftovers(folder)


def test_a_copy_does_not_take_locks_and_half_written_files_along(made):
    for name in (".napari-lpd.lock", "labels/x.partial"):
        (made / "a.zarr" / name).write_text("")
    copy = copy_prediction(Prediction.open(made / "a.zarr"), made / "b.zarr")
    assert not leftovers(copy)
