"""What runs on a graphics card, run on a pretended one: all operands are there, and where the CPU waits is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from made_predictions import predicted
from made_training import CLASSES, JOINT, UNSHAPED, settings_of
from pretended import CARD, on_card, pretended_card
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.prediction import CrfSettings, PredictSettings
from napari_lpd.evaluation.masks import fused_maps
from napari_lpd.models import cam
from napari_lpd.models.card import Card
from napari_lpd.models.compute import prepared
from napari_lpd.models.crf import lattice_torch
from napari_lpd.models.network import STAGES_USED, LoadedModel, new_network, output_channels, used_stages
from napari_lpd.prediction import tile_scorer
from napari_lpd.prediction.blocks import BlockAssembler
from napari_lpd.prediction.tiling import Stitcher, TileShape
from napari_lpd.results.create import start_prediction
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tissue import TissueMask
from napari_lpd.training.losses.published import (
    official_head_diversity,
    official_pseudo_mask,
)

CPU = torch.device("cpu")


def refused_beside_the_cpu(compute, *given) -> None:
    """Leave one of the tensors after the other on the CPU: none may be overlooked."""
    for left in range(len(given)):
        mixed = [part if i == left else on_card(part) for i, part in enumerate(given)]
        with pytest.raises(FakeTensorDeviceMismatchError):
            compute(*mixed)


def test_where_the_cpu_waits_for_a_card_is_noted():
    with pretended_card() as card:
        values = on_card(torch.rand(4))
        for wait, what in {
            lambda: values[0].item(): ["read"],
            lambda: bool((values > 0).any()): ["read"],
            values.cpu: ["read"],
            values.tolist: ["read"],
            lambda: torch.zeros(4).copy_(values): ["read"],
            lambda: values.to("cpu", non_blocking=True): [],
            lambda: torch.rand(4).to(CARD): ["sent"],
            lambda: torch.rand(4).to(CARD, non_blocking=True): [],
            lambda: torch.tensor([1.0], device=CARD): ["sent"],
            lambda: values.copy_(torch.rand(4)): ["sent"],
            lambda: values[[0, 1]]: ["sent"],
            lambda: values[on_card(torch.tensor([0, 1]))]: [],
            lambda: values[torch.tensor([True, False, True, True])]: ["sent", "count"],
            lambda: values[values > 0]: ["count"],
            lambda: values.__setitem__(values > 0, 1): [],
            lambda: values.__setitem__(values > 0, values): ["count"],
            lambda: (values > 0).nonzero(): ["count"],
            lambda: values.unique(return_inverse=True): ["count"],
            lambda: torch.cuda.current_stream(CARD).synchronize(): ["work"],
            lambda: torch.zeros(4, device=CARD) + 1: [],
        }.items():
            card.waits.clear()
            wait()
            assert [kind for _, kind in card.waits] == what
        with pytest.raises(FakeTensorDeviceMismatchError):
            values + torch.rand(4)
        assert (torch.arange(3) + 1).tolist() == [1, 2, 3]  # the CPU's own tensors keep their values


MODELS = {"learned": {}, "vit": {"encoder": "test_vit"}, "joint": JOINT}


@pytest.mark.parametrize("name", MODELS)
def test_a_networks_maps_are_made_on_the_card(name):
    network = new_network(settings_of(MODELS[name], **UNSHAPED).model, 3).eval()
    with pretended_card() as card:
        on_card(network)
        images = on_card(torch.rand(2, 3, 64, 64))
        maps = network(images, STAGES_USED)
        presence = network.presence(maps.outputs)
        assert {part.device for part in (*maps.outputs, maps.features, maps.prototypes, presence)} == {CARD}
        assert {part.dtype for part in (*maps.outputs, presence)} == {torch.float32}
        assert presence.shape == (2, 3)
        assert card.waits == []
        with pytest.raises(FakeTensorDeviceMismatchError):
            network(torch.rand(2, 3, 64, 64), STAGES_USED)


def test_the_published_diversity_waits_for_every_class_of_every_image():
    features, prototypes, maps = torch.rand(4, 8, 9, 9), torch.rand(6, 8), torch.rand(4, 3, 9, 9)
    mask = official_pseudo_mask(maps)
    with pretended_card() as card:
        assert official_head_diversity(*on_card((features, prototypes, mask)), 2).device == CARD
        assert len(card.waits) >= 12
        refused_beside_the_cpu(lambda *given: official_head_diversity(*given, on_card(mask), 2), features, prototypes)


def test_the_rules_of_the_class_maps():
    network = new_network(settings_of({"stage_fusion": (0.2, 0.3, 0.5)}).model, 3).eval()
    card_of_model = Card(classes=CLASSES, settings=settings_of(), tiles_per_class={}, tiles=0, steps=0,
                         map_scale=[[1.0] * 3] * 3, presence=(0.5,) * 3)  # fmt: skip
    model = LoadedModel(network, card_of_model, "m", "0", CARD)
    stages = {i: torch.rand(6, 9, 9) for i in range(3)}
    gating, counted = [torch.rand(6, 9, 9), torch.rand(6, 9, 9)], torch.ones(9, 9, dtype=torch.bool)
    presence = torch.rand(3, 9, 9)
    with pretended_card() as card:
        on_card(network)
        found = cam.class_presence(network, on_card(gating), 5, on_card(counted))
        assert found.device == CARD
        scores = cam.with_background(cam.gate(on_card(presence), on_card(presence > 0.5)), 2.0)
        for part in (cam.stretch_tile_maps(on_card(stages[0]), 2), cam.uncertainty(scores), cam.upsampled(scores, 4)):
            assert part.device == CARD
        assert card.waits == []
        cam.evidence(on_card(stages), on_card(presence), [[1.0] * 3] * 3, model, PredictSettings())
        assert Counter(card.waits) == {("scale_maps", "sent"): 3, ("evidence", "read"): 2}
        refused_beside_the_cpu(cam.gate, presence, presence > 0.5)
        refused_beside_the_cpu(
            lambda maps, where: cam.class_presence(network, [maps] * 2, 5, where), gating[0], counted
        )
        with pytest.raises(FakeTensorDeviceMismatchError):
            mixed = {**on_card(stages), 1: stages[1]}
            cam.evidence(mixed, on_card(presence), [[1.0] * 3] * 3, model, PredictSettings())


def test_the_lattice_of_the_crf():
    image, unary = np.zeros((12, 16, 3), np.uint8), np.ones((3, 12, 16), np.float32)
    with pretended_card() as card:
        assert lattice_torch.mean_field(image, unary, CrfSettings(), str(CARD)).shape == unary.shape
        kinds = Counter(card.waits)
        assert kinds[("build_lattice", "count")] == 2  # vertices, once per kernel
        assert kinds[("mean_field", "read")] == 1
        assert sum(kinds.values()) == 11
        lattice = lattice_torch.build_lattice(on_card(torch.rand(8, 2)))
        assert {part.device for part in lattice} == {CARD}
        refused_beside_the_cpu(lattice.filtered, torch.rand(8, 3))
        refused_beside_the_cpu(lattice.scaled, torch.rand(8, 1))


@pytest.mark.parametrize(("name", "precision"), [("joint", torch.float16)])
def test_tiles_are_scored_with_one_wait_per_call(name, precision, monkeypatch):
    network = new_network(settings_of(MODELS[name], **UNSHAPED).model, 3).eval()
    ready = prepared(network, tuple(STAGES_USED[i] for i in used_stages(network)), CPU, "torch", precision)
    monkeypatch.setattr(tile_scorer, "forward_pass", lambda *_: ready)
    normalise = "slide" if name == "joint" else "benchmark"
    settings = PredictSettings(batch=2, flips=name == "vit").model_copy(update={"normalise": normalise})
    scorer = tile_scorer.TileScorer(LoadedModel(network, None, "m", "0", CARD), settings)
    with pretended_card() as card:
        on_card(ready.network)
        maps = scorer(np.zeros((3, 64, 64, 3), np.uint8))
        assert (maps.device, maps.shape[:2]) == (CARD, (3, sum(output_channels(network))))
        assert card.waits == [("__call__", "work")]
        refused_beside_the_cpu(ready, torch.rand(2, 3, 64, 64))


def test_maps_are_blended_without_waiting():
    with pretended_card() as card:
        stitcher = Stitcher(TileShape(64, 32), 6, 8, 64, [(0, 0, 8, 12)], CARD)
        card.waits.clear()
        for x in (0, 32):
            stitcher.add((0, x), on_card(torch.rand(6, 8, 8)))
        maps, known = stitcher.read((0, 0, 8, 12))
        assert (maps.device, known.device, maps.shape) == (CARD, CARD, (6, 8, 12))
        assert card.waits == []
        refused_beside_the_cpu(lambda maps: stitcher.add((0, 0), maps), torch.rand(6, 8, 8))


def test_a_block_is_put_together_from_maps_on_the_card(tmp_path):
    settings = settings_of(JOINT)
    network = new_network(settings.model, 3).eval()
    about = Card(classes=CLASSES, settings=settings, tiles_per_class={}, tiles=0, steps=0,
                 map_scale=[[1.0] * 3] * 3, presence=(0.5,) * 3)  # fmt: skip
    made = predicted(tmp_path / "made.zarr", np.zeros((64, 64), np.uint8), CLASSES, mpp=1.0, block=64)
    plain = PredictSettings(tile=64, overlap=0, block=64)
    stride = made.card.stride
    tissue = TissueMask(np.ones((64 // stride,) * 2, bool), float(stride))
    start_prediction(tmp_path / "begun.zarr", made.card.model_copy(update={"settings": plain}),
                     lambda: (tissue, [[1.0] * 3] * 3))  # fmt: skip
    slide = Slide.from_levels([np.full((64, 64, 3), 99, np.uint8)], (1.0, 1.0), "made")
    blocks = BlockAssembler(
        slide, LoadedModel(network, about, "m", "0", CARD), Prediction.open(tmp_path / "begun.zarr", write=True)
    )
    y0, x0, y1, x1 = blocks.input_box((0, 0))
    maps, known = (
        torch.rand(sum(output_channels(network)), y1 - y0, x1 - x0),
        torch.ones(y1 - y0, x1 - x0, dtype=torch.bool),
    )
    with pretended_card() as card, torch.inference_mode():
        on_card(network)
        assert blocks.assemble((0, 0), *on_card((maps, known)), frozenset()).labels.shape == (64, 64)
        assert Counter(kind for _, kind in card.waits) == {"read": 5, "sent": 2}
        refused_beside_the_cpu(lambda known: blocks.assemble((0, 0), on_card(maps), known, frozenset()), known)


def test_an_image_is_evaluated_on_the_card():
    settings = settings_of({"stage_fusion": (0.2, 0.3, 0.5)})
    about = Card(classes=CLASSES, settings=settings, tiles_per_class={}, tiles=0, steps=0,
                 map_scale=[[1.0] * 3] * 3, presence=(0.5,) * 3)  # fmt: skip
    network = new_network(settings.model, 3).eval()
    with pretended_card() as card, torch.inference_mode():
        fused, presence = fused_maps(
            LoadedModel(on_card(network), about, "m", "0", CARD), torch.rand(3, 64, 64), EvaluateSettings()
        )
        assert (fused.device, fused.shape, presence.shape) == (CPU, (3, 64, 64), (3,))
        assert Counter(kind for _, kind in card.waits) == {"read": 4, "sent": 1}  # three stages, presence; the image
