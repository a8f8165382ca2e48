"""Learning from shares: fast and full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.regions import Region
from napari_lpd.data.tileset import Shares, TileSet
from napari_lpd.models.joint.store import FeatureStore
from napari_lpd.models.joint.tiles import FeatureTiles, FrozenEncoder
from napari_lpd.models.network import LPD, encoder_of
from napari_lpd.training.fit import fit
from napari_lpd.training.losses.shares import SharedTiles, divergence, shares_in

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "epochs=2", "batch=8", "threads=1", "model.prototypes_per_class=2",
         "model.prototype_dim=32", "model.neck_width=32", "model.necks=2", "places=9", "lr=0.01",
         "share_weight=5"]  # fmt: skip


def test_shares_are_the_mean_probabilities_of_what_is_tissue():
    maps, tissue = torch.tensor([[[[2.0, 0.0]], [[-1.0, 0.5]]]]), torch.tensor([[[1.0, 0.5]]])
    found = shares_in(maps, tissue)[0].numpy()
    places = [np.exp([0, 2.0, -1.0]), np.exp([0, 0.0, 0.5])]
    by_hand = (places[0] / places[0].sum() + 0.5 * places[1] / places[1].sum()) / 1.5
    assert found == pytest.approx(by_hand, rel=1e-4)


def test_what_is_within_the_tolerance_costs_nothing_and_the_rest_its_divergence_from_there():
    wanted = torch.tensor([0.0, 0.6, 0.4])
    assert divergence(torch.tensor([0.05, 0.51, 0.44]), wanted, 0.1).item() == pytest.approx(0, abs=1e-5)
    found, nearest = np.array([0.1, 0.2, 0.7]), np.array([0.025, 0.5, 0.475])  # a quarter of the way from wanted
    by_hand = (nearest * np.log(nearest / found)).sum()
    assert divergence(torch.tensor(found), wanted.double(), 0.1).item() == pytest.approx(by_hand, rel=1e-4)


def shared(classes, *of):
    tiles = TileSet(
        classes, np.ones((len(of), 2), np.float32), lambda _: None, "made", sources=[""] * len(of), files=[]
    )
    tiles.shares = {i: Shares(name, np.float32([0, 0.5, 0.5])) for i, name in enumerate(of) if name}
    return SharedTiles(tiles)


def test_the_shares_of_a_region_are_those_of_its_tiles_together(classes):
    dark, pink = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    of_tiles, of_region = shared(classes, "a", "", "b"), shared(classes, "a", "", "a")
    found = torch.stack([dark, pink, pink])[None].requires_grad_()
    assert of_tiles(found, [0, 1, 2], 0.1).item() > 0.2
    assert of_region(found, [0, 1, 2], 0.1).item() == pytest.approx(0, abs=1e-5)
    assert of_region(pink[None, None], [1], 0.1).item() == 0  # nothing is said of this one
    again = torch.stack([dark])[None].requires_grad_()  # the other tile of the region became dark since
    of_region.last[:, 1] = dark
    of_region(again, [0], 0.1).backward()
    assert again.grad[0, 0, 1] > -1 > again.grad[0, 0, 2]  # more pink is wanted


def test_a_tile_without_tissue_says_nothing_of_its_region(classes):
    known = shared(classes, "a", "a", "b")
    found = torch.tensor([[[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]], requires_grad=True)
    loss = known(found, [0, 1, 2], 0.1)
    assert loss.item() == pytest.approx(shared(classes, "a")(found[:, :1], [0], 0.1).item())
    loss.backward()
    assert found.grad[0, 0].abs().max() > 0
    assert found.grad[0, 1:].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert known.last.isnan().all(2).tolist() == [[False, True, True]]
    assert known(found[:, 1:], [1, 2], 0.1).item() == 0


def test_places_know_how_much_of_them_is_tissue(tiny_image, classes):
    settings = read_settings(TrainSettings, None, SMALL, "fast")
    image = tiny_image[:64, :64].copy()
    image[:24] = 255
    network = LPD(settings.model, 2, encoder_of(settings.model, "embedded")).eval()
    tiles = TileSet(classes, np.ones((1, 2), np.float32), lambda _: image, "made", sources=[""], files=[])
    seen = FeatureTiles(tiles, FrozenEncoder(network, torch.device("cpu"), None), FeatureStore("", 2**30))
    assert seen.tissue_in(0).tolist() == [[0] * 4, [0.5] * 4, [1] * 4, [1] * 4]


@pytest.mark.parametrize("preset", ["fast", "default"])
def test_every_training_learns_from_shares(tiny_slide, tiny_regions, classes, tmp_path, preset):
    more = ["contrast_weight=0"] if preset == "default" else []
    settings = read_settings(TrainSettings, None, [*SMALL, "max_steps=8", *more], preset)
    outline = np.array([[0, 96], [0, 288], [256, 288], [256, 96]], float)
    mixed = Region(outline, ("dark", "pink"), shares=(0.5, 0.5))
    tiles = cut_tiles(tiny_slide, [*tiny_regions, mixed], classes, settings, "made")
    said = []
    run(fit(tiles, settings, tmp_path / "run"), said.append)
    steps = [progress.metrics["shares"] for progress in said if progress.metrics and "shares" in progress.metrics]
    assert len(steps) >= 6
    assert np.mean(steps[-2:]) < np.mean(steps[:2])
