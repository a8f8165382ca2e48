from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from napari_lpd.cli.main import main
from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.data.images import masked_images
from napari_lpd.evaluation.evaluate import check_masks, evaluate, load_results, measure_images, save_results
from napari_lpd.evaluation.masks import class_probability, fused_maps, predicted_labels
from napari_lpd.models.card import read_card
from napari_lpd.training.validation import mask_validation


def test_an_absent_class_has_no_probability_and_is_zero_only_in_the_published_form():
    fused = torch.tensor([[[0.9]], [[0.5]], [[0.1]]])
    present = torch.tensor([False, True, True])
    ours = class_probability(fused, present, EvaluateSettings())
    assert ours[0].item() == 0
    assert ours.argmax().item() == 1
    published = class_probability(fused, present, EvaluateSettings(normalise="image", background="predict"))
    assert published[0].item() == pytest.approx(torch.tensor([0, 0.5, 0.1, 0.5**10]).softmax(0)[0].item())


def test_with_no_class_present_there_is_only_background():
    probability = class_probability(torch.rand(2, 3, 3), torch.zeros(2, dtype=torch.bool), EvaluateSettings())
    assert (probability.argmax(0) == 2).all()


def test_every_gate_and_refiner_is_measured_on_every_image(tiny_model, tile_folder):
    images = masked_images(tile_folder / "valid")
    settings = EvaluateSettings(threads=1)
    cells = run(measure_images(tiny_model, images, settings))
    assert set(cells) == {(gate, refiner) for gate in settings.gates for refiner in settings.refiners}
    for (gate, _), results in cells.items():
        assert [r.name for r in results] == [item.image.name for item in images]
        for result in results:
            counted = result.confusion[:-1].sum()
            assert counted == 64 * 64 - 64  # the white corner is left out
            painted = result.confusion.sum(0) > 0
            if gate == "truth":
                assert not (painted[:2] & ~result.present).any()


@pytest.mark.parametrize(
    ("background", "pixels"), [("exclude", 64 * 64 - 64), ("count", 64 * 64), ("predict", 64 * 64)]
)
def test_background_is_left_out_or_counted(tiny_model, tile_folder, background, pixels):
    settings = EvaluateSettings(gates=("truth",), refiners=("none",), background=background, threads=1)
    ((result, *_),) = run(measure_images(tiny_model, masked_images(tile_folder / "valid"), settings)).values()
    assert result.confusion.sum() == pixels
    assert background == "predict" or not result.confusion[:, 2].any()


def test_mirrored_views_of_a_mirrored_image_give_the_mirrored_maps(tiny_model, tiny_image):
    image = torch.from_numpy(tiny_image[:64, 160:224].copy()).permute(2, 0, 1).float() / 255
    settings = EvaluateSettings(views="flips")
    fused, _ = fused_maps(tiny_model, image, settings)
    mirrored, _ = fused_maps(tiny_model, image.flip(2), settings)
    assert torch.allclose(mirrored.flip(2), fused, atol=1e-4)


def test_a_report_says_what_was_chosen_where(tiny_model, tile_folder, tmp_path):
    images = masked_images(tile_folder / "valid")
    settings = EvaluateSettings(threads=1, bootstrap=50)
    result = run(evaluate(tiny_model, images, settings, tmp_path / "own", notes=["A note."]))
    text = (tmp_path / "own" / "report.md").read_text()
    assert "thresholds: dark 0.50, pink 0.50." in text
    assert "- A note." in text
    assert result["mIoU, predicted classes, no CRF"].endswith(" %")
    assert "Classes: dark in " in text
    run(evaluate(tiny_model, images[4:], settings, tmp_path / "tuned", images[:4]))
    text = (tmp_path / "tuned" / "report.md").read_text()
    assert "chosen on 4 other images" in text
    with pytest.raises(DataError, match="among the images to choose on and among those to measure on"):
        run(evaluate(tiny_model, images, settings, tmp_path / "leak", images[:1]))
    assert not (tmp_path / "leak").exists()
    assert "uses labels that a user's slide does not have" in text
    assert "Research use only" in text


def test_stored_results_come_back(tiny_model, tile_folder, tmp_path):
    settings = EvaluateSettings(gates=("none",), refiners=("none", "lattice"), threads=1)
    cells = run(measure_images(tiny_model, masked_images(tile_folder / "valid"), settings))
    save_results(tmp_path / "results.npz", cells)
    again = load_results(tmp_path / "results.npz")
    assert again.keys() == cells.keys()
    for cell, results in cells.items():
        for ours, theirs in zip(results, again[cell], strict=True):
            assert (ours.name, ours.source) == (theirs.name, theirs.source)
            assert np.array_equal(ours.confusion, theirs.confusion)
            assert np.array_equal(ours.boundary, theirs.boundary)


def test_a_mask_of_another_size_is_named(tiny_model, tile_folder):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tile_folder / "valid" / "mask" / "v+0.png")
    with pytest.raises(DataError, match=r"v\+0.png: \(9, 9\) pixels, but its image has \(64, 64\)"):
        run(measure_images(tiny_model, masked_images(tile_folder / "valid"), EvaluateSettings(threads=1)))


def test_from_the_command_line_a_folder_trains_and_is_measured_and_training_tiles_are_refused(
    tile_folder, tmp_path, capsys
):
    classes = tmp_path / "classes.json"
    classes.write_text(
        json.dumps({"classes": [{"name": "dark", "color": "#0000ff"}, {"name": "pink", "color": "#ff00aa"}]})
    )
    small = ["--set", "model.prototype_dim=32", "--set", "max_steps=2", "--set", "threads=1"]
    given = ["train", "--data", str(tile_folder), "--classes", str(classes), "--out", str(tmp_path / "m"), *small]
    assert main(given) == 2
    assert "pass --set mpp= (µm per pixel)" in capsys.readouterr().err
    assert main([*given, "--set", "mpp=0.5"]) == 0
    assert main([*given, "--set", "mpp=0.5"]) == 2
    assert "m: holds a model, which is not overwritten" in capsys.readouterr().err
    assert read_card(tmp_path / "m" / "model.safetensors").settings.tile == 64
    model = str(tmp_path / "m" / "model.safetensors")
    history = (tmp_path / "m" / "history.csv").read_text()
    assert "valid mIoU" in history
    report, named = str(tmp_path / "r"), ["--classes", str(classes)]
    assert main(["evaluate", "--model", model, "--data", str(tile_folder / "valid"), "--out", report, *named]) == 0
    assert "6 of the images chose the best epoch" in (tmp_path / "r" / "report.md").read_text()
    seen = sorted((tile_folder / "train").iterdir())[0]
    (tile_folder / "valid" / "img" / "seen.png").write_bytes(seen.read_bytes())
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tile_folder / "valid" / "mask" / "seen.png")
    capsys.readouterr()
    assert main(["evaluate", "--model", model, "--data", str(tile_folder / "valid"), "--out", report, *named]) == 2
    assert "seen.png: trained on, as 1 of 7 images were" in capsys.readouterr().err


def test_masks_without_a_class_cannot_choose_an_epoch(tiny_model, tile_folder):
    for path in (tile_folder / "valid" / "mask").iterdir():
        Image.fromarray(np.full((64, 64), 2, np.uint8)).save(path)
    with pytest.raises(DataError, match="mask: no pixel of any class in the masks"):
        check_masks(masked_images(tile_folder / "valid"), tiny_model.card.classes)


def test_a_class_that_no_mask_has_gives_no_figure_that_cannot_be_stored(tiny_model, tile_folder):
    for path in (tile_folder / "valid" / "mask").iterdir():
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    blind = tiny_model._replace(card=tiny_model.card.model_copy(update={"presence": (0.0, 1.1)}))
    figures = mask_validation(masked_images(tile_folder / "valid"), blind.card.classes).figures(blind).values
    assert set(figures) == {"score", "mIoU", "IoU dark", "presence F1"}


def test_an_absent_class_never_wins_in_the_published_normalisation_either():
    fused = torch.tensor([[[0.0, 0.0]], [[0.5, 0.0]]])
    settings = EvaluateSettings(normalise="image")
    probability = class_probability(fused, torch.tensor([False, True]), settings)
    assert predicted_labels(np.zeros((1, 2, 3), np.uint8), probability, "none", settings).tolist() == [[1, 1]]


def test_an_epoch_is_not_chosen_on_training_tiles(tile_folder, tmp_path, capsys):
    seen = sorted((tile_folder / "train").iterdir())[0]
    (tile_folder / "valid" / "img" / "seen.png").write_bytes(seen.read_bytes())
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tile_folder / "valid" / "mask" / "seen.png")
    (tmp_path / "classes.json").write_text('{"classes": ["dark", "pink"]}')
    given = ["train", "--data", str(tile_folder), "--classes", str(tmp_path / "classes.json"), "--set", "mpp=1"]
    assert main([*given, "--out", str(tmp_path / "m"), "--set", "threads=1"]) == 2
    assert "seen.png: among the training tiles, too" in capsys.readouterr().err


def test_a_class_without_validation_masks_leaves_a_model_that_can_be_used(tile_folder, tmp_path):
    for path in (tile_folder / "valid" / "mask").iterdir():
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    (tmp_path / "classes.json").write_text('{"classes": ["dark", "pink"]}')
    given = ["train", "--data", str(tile_folder), "--classes", str(tmp_path / "classes.json"), "--set", "mpp=1"]
    small = ["--set", "model.prototype_dim=32", "--set", "max_steps=1", "--set", "threads=1"]
    assert main([*given, "--out", str(tmp_path / "m"), *small]) == 0
    model = str(tmp_path / "m" / "model.safetensors")
    named = ["--classes", str(tmp_path / "classes.json"), "--out", str(tmp_path / "r")]
    assert main(["evaluate", "--model", model, "--data", str(tile_folder / "valid"), *named]) == 0


def test_what_cannot_be_measured_is_found_before_the_first_image(tiny_model, tile_folder):
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(sorted((tile_folder / "valid" / "mask").iterdir())[-1])
    seen = []
    with pytest.raises(DataError, match="mask value 9"):
        run(measure_images(tiny_model, masked_images(tile_folder / "valid"), EvaluateSettings(threads=1)), seen.append)
    assert not seen
