"""Can I trust it? Masks against regions, in the window and on the command line."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from hand import LEFT, press
from qtpy.QtTest import QTest

from napari_lpd.cli.main import main
from napari_lpd.core.jobs import run
from napari_lpd.data.geojson import Frame
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.results.check_regions import verdicts_on
from napari_lpd.slides.formats import open_slide


def box(y, x, height, width):
    return np.array([[y, x], [y, x + width], [y + height, x + width], [y + height, x]], float)


REGIONS = [  # of a slide whose left half, to x 192, was found to be dark, and the right half pink; 2 µm per pixel
    Region(box(10, 10, 40, 60), ("dark",)),
    Region(box(100, 152, 40, 80), ("dark",)),  # half of it pink
    Region(box(60, 222, 40, 60), ("dark",)),  # all of it pink
    Region(box(10, 222, 40, 60), ("pink",)),
    Region(box(100, 250, 40, 100), ("pink",)),
    Region(box(180, 20, 40, 60), ("pink",)),  # all of it dark
]


def cells(table):
    return [[table.item(y, x).text() for x in range(table.columnCount())] for y in range(table.rowCount())]


def click_cell(table, row, column):
    QTest.mouseClick(table.viewport(), LEFT, pos=table.visualItemRect(table.item(row, column)).center())


def test_window_and_command_line_say_the_same_and_a_cell_leads_to_its_regions(
    viewer, tiny_layer, tiny_tiff, make_prediction, classes, use_widget, tmp_path, qtbot, capsys
):
    prediction = make_prediction(box=None)
    show_prediction(viewer, prediction, tiny_layer)
    add_regions(new_regions_layer(viewer, tiny_layer), REGIONS, classes)
    check = use_widget(ExploreWidget).trust
    press(check, "Check on regions")
    qtbot.waitUntil(lambda: check.panel.found is not None and not check.runner.running)
    pixels = [(600 + 400, 400 + 600, 0), (600, 600 + 1000, 0)]  # of 4 µm²
    shares = [(50, 50, 0), (27, 73, 0)]
    assert cells(check.panel.confusion) == [
        [f"{share} %\n{count:,}" for share, count in zip(*row, strict=True)] for row in zip(shares, pixels, strict=True)
    ]
    wrong = check.panel.wrong
    assert [wrong.item(i).text() for i in range(wrong.count())] == [
        "dark: 100 % of it is pink",
        "pink: 100 % of it is dark",
    ]

    viewer.canvas.size = (400, 500)
    seen = []
    for _ in range(3):
        click_cell(check.panel.confusion, 0, 1)
        seen.append(viewer.scene.camera.center[-2:])
    np.testing.assert_allclose(seen, [(79.5, 251.5), (119.5, 191.5), (79.5, 251.5)])  # most of it first, then round
    click_cell(check.panel.confusion, 0, 2)  # nothing is unsure
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], seen[-1])

    with open_slide(tiny_tiff) as slide:
        write_regions(tmp_path / "regions.geojson", REGIONS, classes, frame=Frame.of(slide))
    given = ["--results", str(prediction.folder), "--regions", str(tmp_path / "regions.geojson")]
    assert main(["evaluate", *given, "--out", str(tmp_path / "report"), "--set", "views=flips"]) == 2
    assert main(["evaluate", *given, "--out", str(tmp_path / "report")]) == 0
    with (tmp_path / "report" / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {(row["metric"], row["class"]): row for row in csv.DictReader(file)}
    shown = cells(check.panel.rates)
    for number, name in enumerate(("dark", "pink")):
        for column, metric in enumerate(("recall", "iou")):
            found = re.fullmatch(r"(\d+) % \[(\d+), (\d+)\]", shown[number][column])
            wanted = [100 * float(rows[metric, name][key]) for key in ("value", "low", "high")]
            assert [int(n) for n in found.groups()] == [int(f"{n:.0f}") for n in wanted]
    assert float(rows["recall", "dark"]["value"]) == pytest.approx(1000 / 2000)
    assert float(rows["iou", "pink"]["value"]) == pytest.approx(1600 / (2200 + 1000))
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Calibration of labels" in page
    assert "100 % of it is pink" in page
    assert "views changes nothing with --results" in capsys.readouterr().err

    steps = []
    pairs = [(prediction, [Region(box(9000, 0, 40, 60), ("dark",))]), (prediction, REGIONS)]
    assert len(run(verdicts_on(pairs), steps.append)) == len(REGIONS)
    none = "warning: tiny.tiff: no region with a tissue of dark, pink lies on what was segmented"
    assert [step.message for step in steps if "warning" in step.message] == [none]
