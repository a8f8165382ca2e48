from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch

from napari_lpd import samples
from napari_lpd.core.classes import read_classes
from napari_lpd.core.errors import DataError, ExportError, ModelError, SettingsError, SlideError
from napari_lpd.core.jobs import WARNING, run
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import CrfSettings, PredictSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.compute import choose_backend
from napari_lpd.models.network import output_stride
from napari_lpd.prediction.predict import blending_device, levels_of_maps, predict_slide, prediction_card, tile_shape
from napari_lpd.prediction.tiling import Stitcher, Tiling
from napari_lpd.slides.slide import DamagedError, Slide
from napari_lpd.slides.tissue import TissueMask
from napari_lpd.training.fit import fit

SMALL = PredictSettings(tile=128, overlap=32, block=64, tissue_only=False)


@pytest.fixture(scope="module")
def model():
    return load_model(samples.model_path())


@pytest.fixture
def predict(tmp_path):
    """Predict a slide into a folder of its own."""

    def predict(slide, model, settings=None, scope=(), tissue=None):
        folder = tmp_path / f"{len(list(tmp_path.glob('*.zarr')))}.zarr"
        return run(predict_slide(slide, model, settings or PredictSettings(), folder, scope, tissue))

    return predict


def pixels(prediction):
    return np.asarray(prediction.labels.levels[0])


def um(x0, y0, x1, y1, mpp=0.998):
    return shapely.box(x0 * mpp, y0 * mpp, x1 * mpp, y1 * mpp)


@pytest.mark.parametrize(
    "scope",
    [
        [um(300, 250, 620, 500)],
        [shapely.Polygon([(250, 100), (700, 350), (300, 700)])],
        [um(100, 100, 130, 140), um(500, 600, 800, 700)],
    ],
)
def test_a_region_is_labelled_exactly_like_the_whole_slide(skin, model, predict, scope):
    slide = Slide.from_levels([skin.read((600, 700), (800, 900), 0.998)], (0.998, 0.998), "crop")
    settings = PredictSettings(tile=256, overlap=96, block=256)
    whole, part = predict(slide, model, settings), predict(slide, model, settings, scope)
    inside = part.to_label((0, 0), part.card.shape)
    assert inside.any()
    assert np.array_equal(pixels(part)[inside], pixels(whole)[inside])
    assert not pixels(part)[~inside].any()
    for name in ("scores", "presence", "uncertainty"):
        mine, other = (np.asarray(getattr(p, name).levels[0]) for p in (part, whole))
        assert np.array_equal(mine[mine > 0], other[mine > 0])
    cells = np.asarray(part.uncertainty.levels[0]) > 0
    assert np.array_equal(
        np.asarray(part.prototypes[2].levels[0])[:, cells], np.asarray(whole.prototypes[2].levels[0])[:, cells]
    )


def test_a_region_is_refined_exactly_like_the_whole_slide(skin, model, predict):
    slide = Slide.from_levels([skin.read((600, 700), (400, 500), 0.998)], (0.998, 0.998), "crop")
    settings = PredictSettings(tile=256, overlap=96, block=256, refiner="lattice")
    whole, part = predict(slide, model, settings), predict(slide, model, settings, [um(200, 100, 330, 390)])
    inside = part.to_label((0, 0), part.card.shape)
    assert np.array_equal(pixels(part)[inside], pixels(whole)[inside])
    plain = predict(slide, model, settings.model_copy(update={"refiner": "none"}))
    assert 0.5 < (pixels(plain) == pixels(whole)).mean() < 1
    assert whole.card.settings.refiner == "lattice"


@pytest.mark.parametrize(("half_size", "least"), [(False, 0.998), (True, 0.998)])
def test_the_blocks_of_the_crf_do_not_show(skin, model, predict, half_size, least):
    slide = Slide.from_levels([skin.read((600, 700), (500, 500), 0.998)], (0.998, 0.998), "crop")
    settings = PredictSettings(tile=256, overlap=96, block=256, refiner="lattice", crf=CrfSettings(half_size=half_size))
    blocks, one = predict(slide, model, settings), predict(slide, model, settings.model_copy(update={"block": 512}))
    assert (pixels(blocks) == pixels(one)).mean() > least


def test_a_prediction_knows_its_place_and_its_classes(skin, model, predict):
    prediction = predict(skin, model, scope=[um(600, 700, 900, 1000)])
    card = prediction.card
    assert card.shape == skin.shape_at(card.mpp) == prediction.labels.levels[0].shape
    assert prediction.scope_box() == (700, 600, 1000, 900)
    assert [tissue.name for tissue in card.classes] == ["epidermis", "naevus nests", "collagen", "fat"]
    assert len(prediction.prototypes) == 4
    assert np.asarray(prediction.prototypes[0].levels[0]).shape == (3, 640, 640)
    assert set(np.unique(pixels(prediction))) <= {0, 1, 2, 3, 4, UNSURE}
    assert card.settings == PredictSettings(backend=choose_backend("auto", model.device), precision="float32")
    assert prediction.finished


def test_glass_stays_unlabelled(skin, model, predict):
    found = pixels(predict(skin, model, scope=[um(1900, 700, 3100, 1000)]))
    assert found[700:1000, 1900:2100].any()
    assert not found[700:1000, 2810:3100].any()
    with pytest.raises(DataError, match="no tissue was found in the area to predict"):
        predict(skin, model, scope=[um(2810, 700, 3100, 1000)])


def test_epidermis_nests_and_collagen_are_told_apart(skin, model, predict):
    places = {1: (4135, 262, 4230, 330), 2: (160, 780, 340, 880), 3: (4970, 1245, 5080, 1395)}
    for label, (x0, y0, x1, y1) in places.items():
        prediction = predict(skin, model, scope=[um(x0, y0, x1, y1)])
        found = (pixels(prediction)[y0:y1, x0:x1] == label).mean()
        assert found > 0.7, prediction.card.classes[label - 1].name


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_that_are_scored_side_by_side_change_nothing(tiny_slide, tiny_model, predict, batch):
    before = torch.get_num_threads()
    one, two = (
        predict(tiny_slide, tiny_model, SMALL.model_copy(update={"threads": threads, "batch": batch}))
        for threads in (1, 2)
    )
    torch.set_num_threads(before)
    assert np.array_equal(pixels(one), pixels(two))
    for mine, other in zip(
        [one.scores, one.uncertainty, *one.prototypes], [two.scores, two.uncertainty, *two.prototypes], strict=True
    ):
        assert np.array_equal(np.asarray(mine.levels[0]), np.asarray(other.levels[0]))


def test_tiles_lie_at_multiples_of_the_networks_stride():
    for tile, overlap in ((776, 192), (768, 208), (64, 56), (224, 0)):
        shape = tile_shape(PredictSettings(tile=tile, overlap=overlap), 8, 16)
        assert shape.step % 16 == 0
        assert abs(shape.overlap - overlap) <= 16


def test_a_lack_of_memory_while_maps_are_blended_says_how_to_go_on(tiny_slide, tiny_model, tmp_path, monkeypatch):
    add, calls = Stitcher.add, []

    def add_or_fail(self, origin, maps):
        calls.append(origin)
        if len(calls) == 5:
            raise torch.OutOfMemoryError
        add(self, origin, maps)

    monkeypatch.setattr(Stitcher, "add", add_or_fail)
    job = predict_slide(tiny_slide, tiny_model, SMALL, tmp_path / "a.zarr")
    with pytest.raises(ModelError, match="what is done is kept: continue with batch=1, or device=cpu"):
        run(job)
    assert run(predict_slide(tiny_slide, tiny_model, SMALL, tmp_path / "a.zarr")).finished


def test_maps_are_blended_on_a_gpu_with_room_for_them(tiny_slide, tiny_model, monkeypatch):
    card = prediction_card(tiny_slide, tiny_model, SMALL)
    blocks = -(-tiny_slide.shape_at(card.mpp)[1] // 64)
    held = 3 * blocks * 37 * 8 * 8 * 4
    for total, expected in ((4 * held, "cuda"), (4 * held - 4, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, total=total: (0, total))
        assert blending_device(torch.device("cuda"), 36, card).type == expected
    assert blending_device(torch.device("cpu"), 36, card).type == "cpu"


def test_a_given_tissue_mask_takes_the_place_of_the_found_one(tiny_slide, tiny_model, predict):
    half = TissueMask(np.repeat([[True, False]], 2, 0), 192.0)
    prediction = predict(tiny_slide, tiny_model, SMALL, tissue=half)
    assert pixels(prediction)[:, :192].all()
    assert not pixels(prediction)[:, 192:].any()
    assert prediction.card.tissue.startswith("given (")


@pytest.mark.parametrize("box", [(20.0, 10.0, 20.0, 10.0), (99999.0, 0.0, 99999.9, 10.0)])
def test_an_empty_region_or_one_outside_is_refused(tiny_slide, tiny_model, predict, box):
    with pytest.raises(SettingsError, match="a region is empty or outside the slide: .*another slide"):
        predict(tiny_slide, tiny_model, SMALL, [shapely.box(*box)])


def test_a_slide_without_resolution_is_refused(model, predict):
    slide = Slide.from_levels([np.zeros((300, 300, 3), np.uint8)], None, "bare")
    with pytest.raises(SlideError, match=r"bare.*pass mpp"):
        predict(slide, model)


def test_a_slide_of_another_resolution_is_resampled(tiny_model, predict):
    image = np.random.default_rng(0).integers(60, 200, (800, 700, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.25, 0.5), "fine")
    prediction = predict(slide, tiny_model, SMALL.model_copy(update={"mpp": 1.0}))
    assert prediction.card.shape == (200, 350)
    assert prediction.card.mpp == 1.0


def test_another_prediction_in_the_place_is_not_touched(tiny_slide, tiny_model, tmp_path):
    folder = tmp_path / "a.zarr"
    run(predict_slide(tiny_slide, tiny_model, SMALL, folder))
    other = SMALL.model_copy(update={"background_power": 5.0})
    with pytest.raises(ExportError, match=r"holds a prediction with background_power=10.0; .* replace it"):
        run(predict_slide(tiny_slide, tiny_model, other, folder))
    replaced = run(predict_slide(tiny_slide, tiny_model, other, folder, replace=True))
    assert replaced.card.settings.background_power == 5.0


def test_foreign_colours_are_warned_of_while_a_slide_is_predicted(skin, model, tmp_path):
    image = skin.read((600, 700), (500, 500), 0.998)
    said = {}
    for name, colours in (("own", image), ("foreign", image[..., ::-1])):
        slide = Slide.from_levels([np.ascontiguousarray(colours)], (0.998, 0.998), name)
        job = predict_slide(slide, model, PredictSettings(tissue_only=False), tmp_path / f"{name}.zarr")
        said[name] = [progress.message for progress in job if progress.message.startswith(WARNING)]
    assert said["own"] == []
    assert [message.partition(":")[2][:24] for message in said["foreign"]] == [" the slide is stained di"]


def test_levels_of_a_slide_are_measured_on_its_own_tiles(skin, model):
    slide = Slide.from_levels([skin.read((600, 700), (600, 600), 0.998)], (0.998, 0.998), "crop")
    everything = TissueMask(np.ones((40, 40), bool), 16.0)
    settings = PredictSettings(tile=256, overlap=64, normalise="slide")
    card = prediction_card(slide, model, settings)
    levels = levels_of_maps(slide, model, card, everything)
    assert levels == levels_of_maps(slide, model, card, everything)
    assert np.shape(levels) == (3, 4)
    assert 0.3 < levels[2][0] / model.card.map_scale[2][0] < 1.5
    assert levels != [list(scale) for scale in model.card.map_scale]


@pytest.fixture
def damaged(tiny_image):
    """The tiny slide, of which y 128..256, x 0..128 cannot be read."""
    slide = Slide.from_levels([tiny_image], (1.0, 1.0), "tiny")
    intact = slide._read_level

    def read(level, y, x, h, w):
        if y < 200 and y + h > 130 and x < 120 and x + w > 64:
            raise DamagedError("tiny: damaged")
        return intact(level, y, x, h, w)

    slide._read_level = read
    return slide


def test_places_that_cannot_be_read_are_marked_and_the_rest_is_done(tiny_slide, damaged, tiny_model, predict):
    whole, prediction = (predict(slide, tiny_model, SMALL) for slide in (tiny_slide, damaged))
    unreadable = pixels(prediction) == 255
    assert unreadable[130:200, 64:120].all()
    assert unreadable.mean() < 0.3
    assert (pixels(prediction) == pixels(whole))[:, 256:].mean() > 0.98
    assert prediction.unreadable


def test_unreadable_places_are_those_of_the_tissue_whatever_is_predicted(damaged, tiny_model, predict):
    tissue = TissueMask(np.ones((16, 24), bool), 16.0)
    tissue.array[:, 6:12] = False
    whole = predict(damaged, tiny_model, SMALL, tissue=tissue)
    unreadable = pixels(whole) == 255
    assert unreadable[128:, :96].all()
    assert unreadable.sum() == 128 * 96
    assert whole.tissue_mm2 == pytest.approx((256 * 288 - 128 * 96) * 1e-6)
    for x in (0, 64, 192):
        part = predict(damaged, tiny_model, SMALL, [shapely.box(x, 0, x + 64, 256)], tissue)
        assert np.array_equal(pixels(part)[:, x : x + 64], pixels(whole)[:, x : x + 64])


def test_a_damaged_slide_is_predicted_but_for_the_damage(shared_slides, tmp_path, model):
    from napari_lpd.slides.formats import open_slide

    path = shared_slides / "odd" / "bitrot_CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        prediction = run(predict_slide(slide, model, PredictSettings(), tmp_path / "a.zarr"))
    assert prediction.unreadable
    share = (pixels(prediction) == 255).mean()
    assert 0 < share < 0.5
    assert sum(prediction.area_mm2().values()) > 0.05


def half_a_step_apart(settings, network, size):
    """Masks of a slide of `size` map pixels: all of it, and without a margin, so that tiles lie half a step further."""
    stride, period = output_stride(network), network.encoder.period
    shape, every = tile_shape(settings, stride, period), np.ones((size, size), bool)

    def without(margin):
        return TissueMask(every & (np.arange(size) >= margin) & (np.arange(size) >= margin)[:, None], 0.998 * 8)

    def start(margin):
        return Tiling(shape, without(margin), 0.998, period).tiles[0][0]

    margins = range(0, size // 2, stride // 8)
    margin = min(margins, key=lambda m: abs((start(m) - start(0)) % shape.step - shape.step / 2))
    return without(0), without(margin), margin * 8


def shifted(slide, model, settings, predict, edge=3072):
    """Share of equal labels when the tiles lie half a step further, and the seam ratio.

    The seam ratio is the mean |Δ score| across the rims of tiles (where a tile begins and ends, and where what is kept
    of it does) over that at the same places where the shifted tiles have no rim: what the image itself changes there is
    on both sides of the division.
    """
    stride, period = output_stride(model.network), model.network.encoder.period
    every, fewer, margin = half_a_step_apart(settings, model.network, edge // 8)
    image = Slide.from_levels([slide.read((0, 0), (edge, edge), 0.998)], (0.998, 0.998), "whole")
    found = [predict(image, model, settings, tissue=tissue) for tissue in (every, fewer)]
    inner = slice(margin + 16, -16)  # where the tissue is cut off, the neighbourhood really is another
    equal = pixels(found[0])[inner, inner] == pixels(found[1])[inner, inner]

    shape = tile_shape(settings, stride, period)
    starts = {y for y, _ in Tiling(shape, every, 0.998, period).tiles}
    rims = {start + p for start in starts for p in (0, shape.border, shape.tile - shape.border, shape.tile)}
    first = margin // stride
    places = [rim // stride - 1 - first for rim in sorted(rims) if margin + 128 < rim < edge - 128]
    scores = [np.asarray(one.scores.levels[0]).astype(float)[:, first:, first:] for one in found]
    changes = [
        sum(np.abs(np.diff(s, axis=axis)).mean(0).mean(2 - axis)[places].sum() for axis in (1, 2)) for s in scores
    ]
    return float(equal.mean()), changes[0] / changes[1]


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch16_224"])
def test_no_seams_show_with_a_vit(skin, predict, tmp_path, name):
    size = ["embed_dim=32", "depth=4", "num_heads=2", "img_size=112"]
    vit = {"encoder": name, "encoder_weights": "random", "encoder_arguments": size, "head": "joint"}
    how = TrainSettings.build({"model": vit, "mpp": 0.998, "epochs": 2, "contrast_weight": 0, "threads": 1})
    classes = read_classes(samples.classes_path())[:2]
    corners = np.array([[0, 0], [0, 256], [256, 256], [256, 0]], float)
    regions = [Region(corners + 256 * place, (tissue.name,)) for place, tissue in enumerate(classes, start=1)]
    model = load_model(run(fit(tiles_from_regions(skin, regions, classes, how), how, tmp_path / "run")), "cpu")
    settings = PredictSettings(tissue_only=False, tile=384, overlap=112)
    agreement, ratio = shifted(skin, model, settings, predict, 1152)
    assert agreement >= 0.9  # every tile tells a random network's tokens their places in another way
    assert ratio <= 1.05


@pytest.mark.slow
def test_neither_seams_nor_the_place_of_the_grid_show(skin, model, predict):
    settings = PredictSettings(tissue_only=False)
    agreement, ratio = shifted(skin, model, settings, predict)
    assert agreement >= 0.97
    assert ratio <= 1.05


@pytest.mark.slow
def test_per_tile_normalisation_makes_the_seams_that_this_test_would_find(skin, model, predict):
    settings = PredictSettings(tissue_only=False, tile=224, overlap=0, normalise="benchmark")
    agreement, ratio = shifted(skin, model, settings, predict)
    assert agreement < 0.97
    assert ratio > 1.5
