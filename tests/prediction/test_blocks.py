"""The blocks of a made prediction: which there are, on what they depend, and what stands in them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch
from made_predictions import predicted

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import CrfSettings, PredictSettings
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.models.card import Card
from napari_lpd.models.network import LoadedModel, new_network
from napari_lpd.prediction.blocks import BlockAssembler
from napari_lpd.results.create import start_prediction
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tissue import TissueMask

SHAPE = (152, 236)  # 3 x 4 blocks of 64 pixels; 19 x 30 map pixels of 8, of which the last is cut
CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("dark", "pink"))
PLAIN = PredictSettings(tile=64, overlap=0, block=64, background_power=2, presence=0.01)
CRF = PLAIN.model_copy(
    update={"refiner": "lattice", "crf": CrfSettings(gaussian_sigma=5, bilateral_sigma=3, iterations=2)}
)


@pytest.fixture(scope="module")
def model():
    """Two classes with two prototypes each; tiles of 64 pixels, so a gate's window of 9 map pixels."""
    settings = TrainSettings(tile=64, model=ModelSettings(prototypes_per_class=2, prototype_dim=8))
    card = Card(classes=CLASSES, settings=settings, tiles_per_class={}, tiles=0, steps=0,
                map_scale=[[1.0, 1.0]] * 3, presence=(0.5, 0.5))  # fmt: skip
    return LoadedModel(new_network(settings.model, 2).eval(), card, "m", "0", torch.device("cpu"))


def tissue_in(*boxes) -> np.ndarray:
    """A mask of 8 µm per pixel with tissue in boxes (y0, x0, y1, x1) of its pixels."""
    array = np.zeros((19, 30), bool)
    for y0, x0, y1, x1 in boxes:
        array[y0:y1, x0:x1] = True
    return array


@pytest.fixture
def begin(tmp_path, classes, model):
    """Begin a prediction, with nothing done, and hand out its blocks."""

    def begin(tissue, settings=PLAIN, image=None, **changes) -> BlockAssembler:
        made = predicted(tmp_path / "made.zarr", np.zeros(SHAPE, np.uint8), CLASSES, mpp=1.0, block=64)
        card = made.card.model_copy(update={"settings": settings, **changes})
        mask = TissueMask(tissue, 8.0)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        start_prediction(folder, card, lambda: (mask, [[1.0, 1.0]] * 3))
        pixels = np.full((*SHAPE, 3), 99, np.uint8) if image is None else image
        slide = Slide.from_levels([pixels], (1.0, 1.0), "made")
        return BlockAssembler(slide, model, Prediction.open(folder, write=True))

    return begin


def maps_of(blocks: BlockAssembler, block, dark, pink) -> torch.Tensor:
    """Scaled cosines of all stages in a block's box: of `dark`'s and `pink`'s prototypes, each (h, w) or a number."""
    y0, x0, y1, x1 = blocks.input_box(block)
    both = torch.stack([torch.as_tensor(values, dtype=torch.float32).expand(19, 30) for values in (dark, pink)])
    return both.repeat_interleave(2, 0).repeat(2, 1, 1)[:, y0:y1, x0:x1]


def assembled(blocks: BlockAssembler, block, dark, pink, damaged=(), known=True):
    maps = maps_of(blocks, block, dark, pink)
    return blocks.assemble(block, maps, torch.full(maps.shape[1:], known), frozenset(damaged))


def test_blocks_with_tissue_are_pending_in_storage_order(begin):
    assert begin(tissue_in((0, 0, 19, 30))).pending() == [(y, x) for y in range(3) for x in range(4)]
    assert begin(tissue_in((9, 29, 10, 30), (0, 7, 1, 9))).pending() == [(0, 0), (0, 1), (1, 3)]
    assert begin(tissue_in()).pending() == []


def test_blocks_that_are_done_are_not_pending(begin):
    blocks = begin(tissue_in((0, 0, 8, 16)))
    around = [(0, 2), (1, 0), (1, 1), (1, 2)]  # a map pixel around tissue is needed for its labels
    assert blocks.pending() == [(0, 0), (0, 1), *around]
    blocks.prediction.write_block((0, 0), assembled(blocks, (0, 0), 1.0, 0.0))
    assert BlockAssembler(blocks.slide, blocks.model, blocks.prediction).pending() == [(0, 1), *around]


def test_only_blocks_in_the_scope_are_pending(begin):
    scope = (shapely.box(70, 10, 130, 60).wkt,)  # x 70 to 130, y 10 to 60
    assert begin(tissue_in((0, 0, 19, 30)), scope=scope).pending() == [(y, x) for y in (0, 1) for x in (0, 1, 2)]
    reached = [(0, 0), (0, 1), (1, 0), (1, 1)]  # a map pixel around tissue is needed for its labels
    assert begin(tissue_in((0, 0, 7, 9)), scope=scope).pending() == [(0, 0), (0, 1)]
    assert begin(tissue_in((0, 0, 8, 9)), scope=scope).pending() == reached
    assert begin(tissue_in((0, 0, 19, 8)), scope=scope).pending() == []


@pytest.mark.parametrize(
    ("tissue", "block", "expected"),
    [
        (
            (10, 12, 11, 14),
            (1, 1),
            (4, 6, 17, 20),
        ),  # 1 around its tissue, 4 for the window, 1 for upsampling
        ((0, 0, 2, 2), (0, 0), (0, 0, 8, 8)),  # within the slide
        ((17, 28, 19, 30), (2, 3), (11, 22, 19, 30)),
        ((0, 0, 19, 30), (1, 1), (3, 3, 21 - 2, 21)),
    ],
)
def test_a_block_depends_on_its_tissue_and_what_is_around(begin, tissue, block, expected):
    assert begin(tissue_in(tissue)).input_box(block) == expected


def test_with_a_crf_a_block_depends_on_what_is_within_three_deviations_too(begin):
    assert begin(tissue_in((10, 12, 11, 14)), CRF).input_box((1, 1)) == (2, 4, 19, 22)  # 15 pixels: 2 map pixels more
    assert begin(tissue_in((10, 12, 11, 14)), CRF).crf_halo == 16  # even


def test_a_crf_sees_all_tissue_of_a_block_whatever_the_scope(begin):
    scope = (shapely.box(64, 64, 80, 80).wkt,)
    tissue = tissue_in((8, 8, 16, 16))
    assert begin(tissue, scope=scope).input_box((1, 1)) == (3, 3, 16, 16)
    assert begin(tissue, CRF, scope=scope).input_box((1, 1)) == (1, 1, 19, 23)


def test_labels_are_the_higher_class_and_0_where_nothing_is_tissue(begin):
    dark, pink = torch.zeros(19, 30), torch.zeros(19, 30)
    dark[:, :4], pink[:, 4:] = 1.0, 1.0
    blocks = begin(tissue_in((1, 1, 6, 7)))
    labels = assembled(blocks, (0, 0), dark, pink).labels
    expected = np.zeros((64, 64), np.uint8)
    expected[8:48, 8:32], expected[8:48, 32:56] = 1, 2
    assert np.array_equal(labels, expected)


def test_a_block_at_the_rim_is_cut_there(begin):
    blocks = begin(tissue_in((16, 24, 19, 30)))
    result = assembled(blocks, (2, 3), 0.0, 1.0)
    assert result.labels.shape == (152 - 128, 236 - 192)
    assert (result.labels == 2).all()
    assert result.scores.shape == (2, 3, 6)
    assert result.prototypes.shape == (2, 2, 3, 6)
    assert result.uncertainty.shape == (3, 6)


def test_where_no_class_is_strong_the_place_is_unsure(begin):
    labels = assembled(begin(tissue_in((0, 0, 8, 8))), (0, 0), 0.3, 0.2).labels  # 0.3 of 0.3 + 0.2 + (1 - 0.3)²
    assert (labels == UNSURE).all()
    labels = assembled(begin(tissue_in((0, 0, 8, 8))), (0, 0), 0.4, 0.2).labels  # 0.4 of 0.4 + 0.2 + (1 - 0.4)²
    assert (labels == 1).all()


def test_maps_are_stored_as_bytes_where_tissue_was_predicted(begin):
    blocks = begin(tissue_in((2, 3, 4, 6)))
    result = assembled(blocks, (0, 0), 0.6, 0.2)
    there = np.zeros((8, 8), bool)
    there[2:4, 3:6] = True
    scale = blocks.model.network.scales[3].item()
    shares = np.array([0.16, 0.6, 0.2]) / 0.96
    entropy = -(shares * np.log(shares)).sum() / np.log(3)
    around = np.zeros((8, 8), bool)
    around[1:5, 2:7] = True
    assert np.array_equal(result.scores[0], around * (1 + round(254 * 0.6)))
    assert np.array_equal(result.scores[1], around * (1 + round(254 * 0.2)))
    assert np.array_equal(result.presence > 127, [around, around])
    for own, value in zip(result.prototypes, (0.6, 0.2), strict=True):
        assert np.array_equal(own[0], there * round(1 + 254 * (value / scale + 1) / 2))
        assert np.array_equal(own[0], own[1])
    assert np.array_equal(result.uncertainty, there * round(1 + 254 * entropy))


def test_a_score_of_0_and_the_least_cosine_are_told_from_what_was_not_computed(begin):
    blocks = begin(tissue_in((0, 0, 8, 8)))
    scale = blocks.model.network.scales[3].item()
    result = assembled(blocks, (0, 0), -scale, scale)
    assert (result.scores[0] == 1).all()
    assert (result.prototypes[0] == 1).all()
    assert (result.prototypes[1] == 255).all()


def test_unreadable_places_are_labelled_so_where_there_is_tissue(begin):
    blocks = begin(tissue_in((8, 8, 12, 16)))  # y 64 to 96, x 64 to 128
    labels = assembled(blocks, (1, 1), 1.0, 0.0, damaged=[(90, 60, 200, 70), (0, 0, 50, 50), (70, 100, 72, 104)]).labels
    expected = np.zeros((64, 64), np.uint8)
    expected[:32] = 1
    expected[26:32, :6] = 255
    expected[6:8, 36:40] = 255
    assert np.array_equal(labels, expected)


def test_classes_are_gated_by_their_score_in_a_window_of_a_training_tile(begin):
    """Dark's stage 3 says where it is: in reach of column 6, by 4 map pixels; its stage 4 has the same everywhere."""
    threshold = torch.sigmoid(torch.tensor((-8.0 + 0.5) / 2)).item()  # -9 without column 6, -7 with it
    blocks = begin(tissue_in((0, 0, 19, 30)), PLAIN.model_copy(update={"presence": threshold}))
    maps = maps_of(blocks, (0, 0), 0.5, 0.0)
    maps[:2] = -9.0
    maps[:2, :, 6] = 9.0
    found = blocks.assemble((0, 0), maps, torch.ones(maps.shape[1:], dtype=torch.bool), frozenset()).presence
    assert np.array_equal(found[0] > 127, np.tile(np.arange(8) >= 2, (8, 1)))


def test_what_is_no_tissue_or_was_not_read_does_not_count_for_the_gate(begin):
    dark = torch.full((19, 30), -9.0)
    dark[:, :4] = 2.0
    settings = PLAIN.model_copy(update={"presence": 0.8})  # sigmoid(2) = 0.88
    assert assembled(begin(tissue_in((0, 0, 8, 4)), settings), (0, 0), dark, 0.0).presence[0, :, :4].min() > 127
    assert assembled(begin(tissue_in((0, 0, 8, 8)), settings), (0, 0), dark, 0.0).presence[0].max() < 128
    blocks = begin(tissue_in((0, 0, 8, 8)), settings)
    maps = maps_of(blocks, (0, 0), dark, 0.0)
    known = torch.zeros(maps.shape[1:], dtype=torch.bool)
    known[:, :4] = True
    assert blocks.assemble((0, 0), maps, known, frozenset()).presence[0, :, :4].min() > 127


@pytest.mark.slow
def test_the_crf_moves_a_border_to_the_images_edge_but_lets_no_absent_class_in(begin):
    image = np.full((*SHAPE, 3), 90, np.uint8)
    image[:, 36:] = 210  # the maps' border is at 32
    dark, pink = torch.full((19, 30), 0.1), torch.full((19, 30), 0.1)
    dark[:, :4], pink[:, 4:] = 0.9, 0.6
    tissue = tissue_in((0, 0, 8, 8))
    plain = assembled(begin(tissue), (0, 0), dark, pink).labels
    refined = assembled(begin(tissue, CRF, image), (0, 0), dark, pink).labels
    assert (plain[32] == 1).sum() < (refined[32] == 1).sum()
    assert set(np.unique(refined)) == {1, 2}
    shut = CRF.model_copy(update={"presence": 0.53})  # pink, sigmoid(0.6) at most, is there; dark nowhere
    gated = assembled(begin(tissue, shut, image), (0, 0), torch.full((19, 30), 0.1), pink.fill_(0.6)).labels
    assert set(np.unique(gated)) == {2}
