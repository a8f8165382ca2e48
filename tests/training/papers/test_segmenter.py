from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.models.checkpoint import load_model
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.training.augmentation import Jitter, augment_with_masks
from napari_lpd.training.papers.segmenter import fit_segmenter, masked_loss, write_pseudo_masks


def test_pseudo_masks_hold_only_classes_that_the_tile_is_labelled_with(tiny_model, tile_folder, classes, tmp_path):
    tiles = labelled_tiles(tile_folder, classes)
    folder = run(write_pseudo_masks(tiny_model, tiles, tmp_path / "mask", "none"))
    for path, labels in zip(tiles.files, tiles.labels, strict=True):
        with Image.open(folder / f"{path.stem}.png") as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[:6] == [*classes[0].rgb, *classes[1].rgb]
            assert set(np.unique(np.asarray(mask))) <= {*np.flatnonzero(labels), 255}
    first = folder / f"{tiles.files[0].stem}.png"
    first.unlink()
    kept = sorted(folder.iterdir())[-1]
    before = kept.stat().st_mtime_ns
    run(write_pseudo_masks(tiny_model, tiles, folder, "none"))
    assert first.exists()
    assert kept.stat().st_mtime_ns == before


def test_a_segmenter_learns_the_masks_and_predicts_like_any_model(
    tiny_model, tile_folder, classes, tmp_path, tiny_slide
):
    tiles = labelled_tiles(tile_folder, classes)
    masks = run(write_pseudo_masks(tiny_model, tiles, tmp_path / "mask", "none"))
    settings = TrainSettings(mpp=1.0, tile=64, epochs=4, batch=4, threads=1, lr=1e-3, blur_jitter=0)
    seen = []
    path = run(fit_segmenter(tiles, masks, settings, tmp_path / "stage2"), seen.append)
    assert seen[-1].metrics["loss"] < seen[0].metrics["loss"]
    model = load_model(path)
    assert model.card.settings.model.bank == "supervised"
    how = PredictSettings(tile=128, overlap=32, tissue_only=False)
    labels = run(predict_slide(tiny_slide, model, how, tmp_path / "tiny.zarr")).labels.levels[0][:]
    assert (labels[:, :150] == 1).mean() > 0.8
    assert (labels[:, 240:] == 2).mean() > 0.8


def test_masks_turn_with_their_images():
    mask = torch.randint(3, (5, 16, 16))
    images = (mask.float() / 2)[:, None].repeat(1, 3, 1, 1)
    turned, masks = augment_with_masks(images, mask, torch.Generator().manual_seed(0), Jitter(stain=0.0))
    assert torch.equal((turned[:, 0] * 2).round().long(), masks)
    assert not torch.equal(masks, mask)


def test_uncounted_pixels_weigh_nothing():
    logits, mask = torch.randn(1, 2, 4, 4), torch.full((1, 4, 4), 255)
    assert masked_loss(logits, mask).item() == 0
    mask[0, 0, 0] = 1
    expected = -logits[0, :, 0, 0].log_softmax(0)[1]
    assert masked_loss(logits, mask).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cut_regions_have_no_files_to_mask(tiny_model, tiny_slide, tiny_regions, classes, tiny_settings, tmp_path):
    tiles = tiles_from_regions(tiny_slide, tiny_regions, classes, tiny_settings)
    with pytest.raises(DataError, match="tiles in files"):
        run(write_pseudo_masks(tiny_model, tiles, tmp_path / "mask"))
