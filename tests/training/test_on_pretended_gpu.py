"""Trainings on a pretended graphics card, from losses to updates, and where the CPU waits for it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from made_training import JOINT, LINEAR, UNSHAPED, made_tiles, settings_of
from PIL import Image
from pretended import CARD, backward, on_card, pretended_card
from torch import nn

from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.models.network import STAGES_USED, new_network
from napari_lpd.training import trainer
from napari_lpd.training.live import LiveModel, LiveSlide
from napari_lpd.training.papers import segmenter
from napari_lpd.training.trainer import Origin, Trainer

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument")
VIT = {"encoder": "test_vit"}
REGIONS = {("_regions", "read"): 1}
SCALED = REGIONS | {("_take_step", "read"): 1}  # whether a gradient overflowed
OWN_MAPS = {("label_tiles", "sent"): 2, ("_learns_from_own_maps", "read"): 1}


class Astray(torch.autograd.Function):
    """Gives its gradient on the CPU."""

    @staticmethod
    def forward(context, values):
        return values * 2

    @staticmethod
    def backward(context, gradient):
        return torch.ones(gradient.shape)


def test_gradients_found_node_by_node_are_torch_s_own():
    network = new_network(settings_of({"stage_fusion": (0.2, 0.3, 0.5)}).model, 3).eval()
    found = []
    for way in (torch.Tensor.backward, backward):
        network.zero_grad()
        way(sum(maps.square().mean() for maps in network(torch.ones(1, 3, 32, 32), STAGES_USED).outputs))
        found.append({name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None})
    assert len(found[0]) > 50
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)
    with pretended_card(), pytest.raises(AssertionError, match="AstrayBackward gives a gradient on cpu"):
        weight = nn.Parameter(on_card(torch.ones(3)))
        Astray.apply(weight * 2).sum().backward()


@pytest.mark.parametrize(
    ("model", "more", "precision", "waits"),
    [
        (VIT, {"diversity": "projected", "blur_jitter": 1.0}, "float16", SCALED),
        (VIT | {"bank": "clustered"}, {"contrast": "pooled"}, "float32", REGIONS),
        (LINEAR, UNSHAPED, "auto", {}),
    ],
)
def test_a_step_learns_on_the_card_and_waits_for_its_regions(model, more, precision, waits, tmp_path, monkeypatch):
    settings = settings_of(model, device="cuda:0", precision=precision, batch=2, warm_up=0.0, **more)
    with pretended_card() as card:
        training = Trainer(made_tiles(), None, settings, tmp_path, Origin("made", {}, None))
        for _ in training.compute_features():
            pass
        training.begin(1)
        monkeypatch.setattr(training.state, "save", lambda: None)  # there are no values
        monkeypatch.setattr(trainer, "save_checkpoint", lambda *_: None)
        steps = training.epochs(1, 1, None)
        card.waits.clear()
        next(steps)
        assert Counter(card.waits) == waits
        card.waits.clear()
        gradients = [weight.grad for weight in training.network.parameters() if weight.grad is not None]
        assert len(gradients) > 10
        assert {gradient.device for gradient in gradients} == {CARD}
        assert len(training.optimiser.state) == len(gradients)
        if model == LINEAR:
            assert [progress.message for progress in steps] == ["epoch 1 of 1: validation"]
            assert card.waits[0] == ("read", "work")  # the losses of the step


def test_the_second_stage_waits_for_its_loss_alone(tile_folder, classes, tmp_path, monkeypatch):
    settings = settings_of(device="cuda:0", batch=2, epochs=1, max_steps=1)
    tiles = labelled_tiles(tile_folder, classes)
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in tiles.files:
        Image.new("L", (64, 64)).save(masks / f"{path.stem}.png")
    monkeypatch.setattr(segmenter, "save_checkpoint", lambda *_: None)
    with pretended_card() as card:
        steps = segmenter.fit_segmenter(tiles, masks, settings, tmp_path / "made")
        next(steps)
        assert card.waits == [("fit_segmenter", "read")]
        assert list(steps) == []


def test_the_live_mask_learns_and_labels_on_the_card(tiny_slide, tiny_regions, classes):
    settings = settings_of(JOINT, device="cuda:0", tile_step=128, mpp=2.0, self_training=0.5)
    with pretended_card() as card:
        live = LiveModel(settings)
        job = live.learn(LiveSlide(tiny_slide), tiny_regions, classes, steps=2)
        for progress in job:
            if progress.message == "learning" and progress.done == 1:
                card.waits.clear()
                next(job)
                assert Counter(card.waits) == REGIONS | OWN_MAPS
        labels = live.label(LiveSlide(tiny_slide), (0, 0)).labels
        assert labels.shape == (512, 512)
