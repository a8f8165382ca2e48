from __future__ import annotations

import json

import pytest
from PIL import Image

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.training.papers.reproduce import TABLES, Protocol, reproduce, row_settings

SMALL = ("model.prototype_dim=32", "max_steps=1", "threads=1", "tile=64", "batch=4", "valid_share=0")


@pytest.fixture
def protocol(tile_folder, classes) -> Protocol:
    measured = EvaluateSettings(threads=1, bootstrap=20, refiners=("none",))
    return Protocol(tile_folder, classes, "", None, SMALL, 1, measured)


def test_a_table_goes_on_where_it_stopped(protocol, tmp_path):
    out = tmp_path / "table"
    table = run(reproduce("table1", protocol, out, ["LPD", "CAM"]))
    text = table.read_text()
    assert "| LPD | 1 |" in text
    assert "| CAM | 1 |" in text
    assert "## The gate by itself" in text
    assert "PBIP" not in text
    before = (out / "LPD" / "seed0" / "model.safetensors").stat().st_mtime_ns
    seen = []
    run(reproduce("table1", protocol, out), seen.append)
    assert (out / "LPD" / "seed0" / "model.safetensors").stat().st_mtime_ns == before
    assert {progress.message.split(",")[0] for progress in seen} == {"PBIP", "random"}
    rows = json.loads((out / "table.json").read_text())
    assert {(row["gate"], row["row"]) for row in rows} >= {("truth", "PBIP"), ("predicted", "random")}
    assert next(row for row in rows if row["row"] == "LPD")["difference"] is None
    assert "effective number" in (out / "table.md").read_text()
    with pytest.raises(SettingsError, match="was made with measured"):
        other = protocol.measured.model_copy(update={"background": "count"})
        run(reproduce("table1", protocol._replace(measured=other), out))
    with pytest.raises(SettingsError, match=r"LPD.seed0.model.safetensors was trained with lr=0.0003, not 0.1; choose"):
        run(reproduce("table1", protocol._replace(overrides=(*SMALL, "lr=0.1")), out))


def test_with_a_test_set_the_validation_set_is_for_choosing(protocol, tmp_path):
    valid = protocol.data / "valid"
    for kind in ("img", "mask"):
        (protocol.data / "test" / kind).mkdir(parents=True)
        for path in sorted((valid / kind).iterdir())[:4]:
            with Image.open(path) as image:  # other images
                image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(protocol.data / "test" / kind / path.name)
    out = tmp_path / "table"
    run(reproduce("table1", protocol, out, ["LPD"]))
    assert "chosen on 6 other images" in (out / "LPD" / "seed0" / "report.md").read_text()
    assert "valid mIoU" in (out / "LPD" / "seed0" / "history.csv").read_text()


def test_the_folders_may_be_called_as_in_luad_histoseg(protocol, tmp_path):
    (protocol.data / "train").rename(protocol.data / "training")
    (protocol.data / "valid").rename(protocol.data / "val")
    assert "| CAM | 1 |" in run(reproduce("table1", protocol, tmp_path / "table", ["CAM"])).read_text()


def test_every_row_has_its_own_settings(protocol):
    for rows in TABLES.values():
        settings = [row_settings(row, protocol, 3) for row in rows]
        assert len({s.model_dump_json() for s in settings}) == len(rows)
        assert all(s.seed == 3 and s.max_steps == 1 for s in settings)
        assert len({row.folder for row in rows}) == len(rows)


def test_a_row_that_is_not_there_is_named(protocol, tmp_path):
    with pytest.raises(SettingsError, match="table1 has no row 'LPG'; rows: LPD, PBIP"):
        run(reproduce("table1", protocol, tmp_path, ["LPG"]))
    with pytest.raises(SettingsError, match="seeds=0: wanted one or more"):
        run(reproduce("table1", protocol._replace(seeds=0), tmp_path))
    bad = protocol._replace(overrides=(*SMALL, "contrast_weight=0.3"))
    with pytest.raises(SettingsError, match="^row CAM: model.bank=linear has no prototypes"):
        run(reproduce("table1", bad, tmp_path / "bad"))
    assert not list((tmp_path / "bad").glob("LPD"))  # found before the first row


def test_a_settings_file_does_not_undo_a_row(protocol, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"model": {"bank": "learned"}, "epochs": 3}')
    assert row_settings(TABLES["table1"][0], protocol._replace(settings=path), 0).epochs == 3
    with pytest.raises(SettingsError, match="its bank contradicts preset pbip"):
        row_settings(TABLES["table1"][1], protocol._replace(settings=path), 0)
