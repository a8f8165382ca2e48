"""What can go wrong while the live mask learns: slides that are closed, renamed or bare, a window that is closed."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import Region, read_regions
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer


def test_a_slide_that_is_closed_while_it_fills_stops_the_mask_and_its_file_is_closed(
    live,
    drawn,
    viewer,
    tiny_layer,
    tiny_regions,
    tiny_image,
    classes,
    tmp_path,
    live_layers,
    settled,
    qtbot,
    shown_errors,
):
    qtbot.waitUntil(lambda: live.live._engine is not None and live.live._engine._slide is not None, timeout=60_000)
    slide = live.live._engine._slide
    assert live.live.runner.running
    tifffile.imwrite(tmp_path / "other.tiff", tiny_image[:, ::-1], photometric="rgb", tile=(64, 64),
                     resolution=(1e4, 1e4), resolutionunit="CENTIMETER")  # fmt: skip
    live.data.drawn.slides.open(tmp_path / "other.tiff")
    other = live.data.drawn.slides.layer()
    add_regions(new_regions_layer(viewer, other), [tiny_regions[0], tiny_regions[1]], classes)
    live.data.drawn.slides._box.choose(tiny_layer)
    viewer.layers.remove(tiny_layer)
    qtbot.waitUntil(lambda: slide.slide._closed, timeout=60_000)
    assert settled(live).startswith("2 tissues, 2 regions, updated in")  # on the other slide
    assert live.live._engine.layer is other
    assert [layer.name for layer in live_layers()] == ["live mask (other.tiff)"]
    viewer.layers.remove(other)
    assert settled(live).startswith("no slide is open: press Open…")
    assert live.live._engine is None and live_layers() == []
    assert shown_errors == []


def test_a_renamed_slide_keeps_its_mask(live, drawn, tiny_layer, live_layers, settled):
    settled(live)
    engine = live.live._engine
    tiny_layer.name = "case 7"
    settled(live)
    assert live.live._engine is engine and engine._live.version == 1
    assert [layer.name for layer in live_layers()] == ["live mask (case 7)"]


@pytest.fixture
def own_regions(viewer, tiny_regions):
    """Outlines of two tissues in a layer that the user has made himself."""
    outlines = [region.vertices for region in tiny_regions]
    features = {"tissues": [region.tissues[0] for region in tiny_regions]}
    return lambda: viewer.add_shapes(outlines, shape_type="polygon", features=features)


def test_a_slide_without_resolution_asks_for_it(train, viewer, tiny_image, own_regions, settled, live_layers):
    viewer.add_image(tiny_image, rgb=True, name="photo")
    own_regions()
    assert "enter its µm per pixel" in settled(train)
    assert settled(train).count("\n") == 0 and live_layers() == []


def test_regions_on_glass_alone_are_named(live, viewer, tiny_image, tiny_regions, classes, settled, live_layers):
    glass = np.full_like(tiny_image, 245)
    glass[:, -30:] = tiny_image[:, -30:]
    layer = viewer.add_image(glass, rgb=True, name="glass", scale=(1, 1), units=("micrometer", "micrometer"))
    live.data.drawn.slides._box.choose(layer)
    on_glass = [Region(region.vertices * 0.5, region.tissues) for region in tiny_regions]
    add_regions(new_regions_layer(viewer, layer), on_glass, classes)
    assert "regions lie on glass" in settled(live)
    assert live_layers() == []


def test_napari_closed_while_it_learns_loses_nothing(live, drawn, viewer, tiny_tiff, qtbot):
    qtbot.waitUntil(lambda: live.live._engine is not None and live.live._engine._slide is not None, timeout=60_000)
    slide = live.live._engine._slide
    live.undocked.emit()  # as when the window takes its docks away
    live.data.drawn.files.save()
    assert len(read_regions(regions_beside(tiny_tiff))) == 2
    qtbot.waitUntil(lambda: slide.slide._closed, timeout=60_000)
    assert live.live._engine is None
