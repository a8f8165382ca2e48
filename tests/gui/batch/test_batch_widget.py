"""Several slides in the window: begun on the command line, gone on with by mouse, and back."""

from __future__ import annotations

import pytest
import tifffile
from hand import LEFT, button, click, press
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.jobs import Progress
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.batch.slide_table import AREAS, SLIDE, STATE, TIME
from napari_lpd.gui.batch.widget import KEPT, BatchWidget
from napari_lpd.gui.common.recent_models import keep
from napari_lpd.gui.layers.results import shown_prediction
from napari_lpd.gui.layers.slides import slide_layers, slide_path
from napari_lpd.prediction import batch
from napari_lpd.prediction.batch import read_summary, write_summary
from napari_lpd.prediction.plan import PLAN, TABLE, BatchPlan

QUICK = {"mpp": 1.0, "tile": 64, "overlap": 16, "threads": 1, "tissue_only": False, "normalise": "training"}
DONE = {"state": "ok", "mm²": {"fat": 1.5}, "unsure mm²": 0.25, "tissue mm²": 2.0, "seconds": 100.0}


def predict(*arguments: object) -> int:
    chosen = [part for name, value in QUICK.items() for part in ("--set", f"{name}={str(value).lower()}")]
    return main(["predict", *map(str, arguments), *([] if "--resume" in arguments else chosen)])


@pytest.fixture
def slides(tmp_path, tiny_image):
    """Two tiny slides, one that is none, and one that is not there."""
    (tmp_path / "slides").mkdir()
    paths = [tmp_path / "slides" / f"{name}.tif" for name in ("a", "b", "broken", "gone")]
    for path in paths[:2]:
        options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(path, tiny_image[:128, :192], resolution=(1e4, 1e4), **options)
    paths[2].write_bytes(paths[0].read_bytes()[:64])
    return paths


def column(widget, number):
    return [widget.table.item(row, number).text() for row in range(widget.table.rowCount())]


def files_of(out):
    """When results and masks were written."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in (PLAN, TABLE)]
    return {path: path.stat().st_mtime_ns for path in files}


def enter(field, text):
    field.setFocus()
    QTest.keyClicks(field, text)
    QTest.keyClick(field, Qt.Key.Key_Return)


def double_click(table, row):
    place = table.visualItemRect(table.item(row, SLIDE)).center()
    QTest.mouseClick(table.viewport(), LEFT, pos=place)
    QTest.mouseDClick(table.viewport(), LEFT, pos=place)


def test_window_and_command_line_go_on_with_each_other_s_batch(viewer, slides, tmp_path, monkeypatch, qtbot, capsys):
    out = tmp_path / "out"

    def killed(rows, path):
        write_summary(rows, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # the command line is stopped after its first slide
        patched.setattr(batch, "write_summary", killed)
        assert predict(*slides, "--out", out) == 130
    first = files_of(out)

    widget = BatchWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    enter(widget.out, str(out))
    assert column(widget, SLIDE) == [path.name for path in slides]
    assert column(widget, STATE) == ["ok", "waiting", "waiting", "waiting"]
    assert widget.form.value() == BatchPlan.read(out).settings == PredictSettings(**QUICK)
    click(widget.job.button)
    assert (out / PLAN).exists()
    assert not widget.out.isEnabled()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=120_000)
    assert column(widget, STATE)[:2] == ["ok", "ok"]
    assert column(widget, STATE)[2].startswith("⚠ damaged or truncated TIFF")
    assert column(widget, STATE)[2].endswith("copy or export it again")
    assert column(widget, STATE)[3] == "⚠ no such file; check its name and folder"
    assert widget.total.text() == "2 of 4 slides done · 2 failed"
    assert "2 of 4 slides failed" in widget.job.status.text()
    assert {path: written for path, written in files_of(out).items() if path in first} == first

    double_click(widget.table, 1)
    assert shown_prediction(viewer).folder == out / "b.zarr"
    assert slide_path(slide_layers(viewer)[0]) == slides[1]

    after, lines = files_of(out), read_summary(out / TABLE)
    assert predict("--resume", "--origin", "slide", "--out", out) == 2
    assert "leave out --origin" in capsys.readouterr().err
    assert predict("--resume", "--out", out) == 2
    assert read_summary(out / TABLE) == lines
    assert files_of(out) == after


def test_yesterday_s_table_is_there_with_areas_times_and_what_is_left(viewer, slides, tmp_path, monkeypatch):
    out = tmp_path / "out"
    plan = BatchPlan(slides=slides, model=samples.model_path(), mpp=0.5, image=2)
    plan.write(out)
    write_summary([{"slide": str(slides[0]), **DONE}, {"slide": str(slides[2]), "error": "x"}], out / TABLE)
    (out / "a.zarr").mkdir()
    (out / "b.zarr").mkdir()
    keep(KEPT, str(out))
    widget = BatchWidget(viewer)
    assert column(widget, STATE) == ["ok", "begun", "⚠ x", "waiting"]
    assert column(widget, AREAS) == ["fat 1.5 · unsure 0.25", "", "", ""]
    assert column(widget, TIME) == ["2 min", "", "", ""]
    assert widget.others.text() == "From the command line: image 2"
    assert widget.plan() == plan
    widget.table.show_running(1, Progress(1, 4, "b.tif: tiles"))
    assert column(widget, STATE)[1] == "▸ running 25 %"
    assert widget.table.seconds_left(1, Progress(1, 4)) == pytest.approx(2.75 * 100)
    widget.replace.setChecked(True)
    monkeypatch.setattr(widget, "_running_row", lambda: 0)
    widget._refresh()
    assert widget.total.text().startswith("0 of 4 slides done")  # the first is not replaced yet
    monkeypatch.undo()
    widget.replace.setChecked(False)
    widget._refresh()
    widget.table.selectRow(3)
    click(button(widget, "Remove"))
    assert widget.plan().slides == tuple(slides[:3])
    write_summary([{"slide": str(path), **DONE} for path in slides], out / TABLE)
    for name in ("broken", "gone"):
        (out / f"{name}.zarr").mkdir()
    assert not column(BatchWidget(viewer), SLIDE)  # all is done: the next batch begins


def test_predict_hands_over_model_and_settings_and_a_folder_its_slides(viewer, slides, tmp_path, monkeypatch, qtbot):
    (tmp_path / "slides" / "deeper").mkdir()
    slides[0].rename(tmp_path / "slides" / "deeper" / "a.tif")
    (tmp_path / "slides" / "deeper" / "back").symlink_to(tmp_path / "slides")
    (tmp_path / "slides" / "notes.txt").touch()
    _, widget = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    chosen = widget.form.value().model_copy(update={"tile": 256})
    widget.form.set_value(chosen)
    press(widget, "Several slides…")
    _, several = viewer.window.add_plugin_dock_widget("napari-lpd", "Several slides")
    assert several.form.value() == widget.settings() == chosen
    several.job.button.click()
    assert several.job.status.text() == "⚠ no slides yet: press Add slides… or Add a folder…"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "slides"))
    press(several, "Add a folder…")
    qtbot.waitUntil(lambda: several.table.rowCount() == 3)
    assert column(several, SLIDE) == ["b.tif", "broken.tif", "a.tif"]
    several.job.button.click()
    assert several.job.status.text() == "⚠ choose the folder for the results"
