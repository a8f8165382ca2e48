from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from napari_lpd.cli.main import main
from napari_lpd.comparison.compare import compare
from napari_lpd.comparison.metrics import METRICS
from napari_lpd.comparison.report.figures import heat_colours, heatmap_figure, mask_colours
from napari_lpd.comparison.report.tables import card_table, verdicts_of
from napari_lpd.comparison.report.writer import write_comparison
from napari_lpd.comparison.result import check_comparable, difference_of, figure_of
from napari_lpd.comparison.tiles import spread, tiles_of_folder, tiles_of_slide
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError, ModelError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.evaluation import CompareSettings
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.models.card import Card
from napari_lpd.models.checkpoint import load_model, save_checkpoint
from napari_lpd.models.network import LoadedModel, new_network

QUICK = CompareSettings(bootstrap=40, nearest=2, stability_tiles=2, training_tiles=0, threads=1)


def saved(path, classes, seed=0, mpp=1.0, temperature=0.07, **model):
    """An untrained model with a bank of its own."""
    settings = ModelSettings(**{"prototypes_per_class": 2, "prototype_dim": 32} | model)
    terms = {"contrast_weight": 0.0, "diversity": "off"} if settings.bank == "linear" else {}
    torch.manual_seed(seed)
    card = Card(
        classes=classes,
        settings=TrainSettings(model=settings, tile=64, mpp=mpp, seed=seed, diversity_temperature=temperature, **terms),
        tiles_per_class={tissue.name: 1 for tissue in classes},
        tiles=2,
        steps=1,
        map_scale=((1.0,) * len(classes),) * 3,
        presence=(0.0,) * len(classes),
    )
    network = new_network(settings, len(classes), "embedded")
    return save_checkpoint(path / "model.safetensors", dict(network.state_dict()), card)


def loaded(path, classes, name, **options) -> LoadedModel:
    return load_model(saved(path / name, classes, **options), "cpu")._replace(name=name)


def cards(*models):
    return [(model.name, model.card) for model in models]


@pytest.fixture
def models(tmp_path, classes):
    return [loaded(tmp_path, classes, "A"), loaded(tmp_path, classes, "B", seed=1, bank="random")]


@pytest.fixture
def tiles(tile_folder, classes):
    return tiles_of_folder(tile_folder / "valid", classes)


def test_models_are_compared_with_controls_on_the_truth(models, tiles, tile_folder, classes):
    training = labelled_tiles(tile_folder / "train", classes)
    found = run(compare(models, tiles, QUICK, training))
    assert (found.reference, found.tiles, found.sources, found.resamplings) == ("truth", 6, 3, 40)
    assert [(bank.kind, bank.space) for bank in found.banks] == [
        ("model", "A"), ("model", "B"), ("random", "A"), ("clustered", "A"), ("random", "B"), ("clustered", "B")
    ]  # fmt: skip
    for bank in found.banks:
        assert ("iou" in bank.figures) == ("faithfulness" in bank.figures) == (bank.kind == "model")
        for name, figure in bank.figures.items():
            assert len(figure.per_class) == 2, name
            of_ranking = not next(metric for metric in METRICS if metric.name == name).by_source
            assert of_ranking == math.isnan(figure.low), name
        for card in (card for cards in bank.cards for card in cards):
            assert len(card.patches) == (2 if bank.kind == "model" else 0)
            assert all(patch.tile.endswith("].png") for patch in card.patches)  # of the training tiles
    assert {(d.first, d.second) for d in found.differences} == {
        ("A", "B"), *((bank.space, bank.name) for bank in found.banks if bank.kind != "model")
    }  # fmt: skip
    assert [example.class_index for example in found.examples] == [0, 1]
    assert found.examples[0].heatmaps[1].shape == (2, 4, 4)


def test_places_in_the_compared_tiles_are_found_beside_training_patches_on_request(models, tiles, tile_folder, classes):
    training = labelled_tiles(tile_folder / "train", classes)
    asked = QUICK.model_copy(update={"nearest_places": 3})
    (own, *_) = run(compare(models[:1], tiles, asked, training)).banks
    (bare, *_) = run(compare(models[:1], tiles, QUICK.model_copy(update={"nearest": 3}))).banks
    for card, alone in zip(own.cards[0], bare.cards[0], strict=True):
        assert {patch.file.parent.name for patch in card.patches} == {"train"}
        assert {patch.file.parent.name for patch in card.places} == {"img"}
        assert [patch.tile for patch in card.places] == [patch.tile for patch in alone.patches]
        assert alone.places == ()


def test_a_class_of_which_no_clusters_can_be_had_costs_that_control_alone(models, tiles, tile_folder, classes):
    training = labelled_tiles(tile_folder / "train", classes)
    mixed = np.flatnonzero(training.labels[:, 0] == 1)  # dark tiles, and those with both: no pink alone
    training = training.subset(mixed.tolist())
    found = run(compare(models[:1], tiles, QUICK, training))
    assert [bank.kind for bank in found.banks] == ["model", "random"]
    assert any(note.startswith("No clusters in A's space: ") and "pink" in note for note in found.notes)
    assert all(len(card.patches) == 2 for card in found.banks[0].cards[0])


def test_few_sources_give_intervals_but_no_verdicts(models, tiles):
    few = run(compare(models, tiles, QUICK))
    assert (few.fewest_sources, few.resamplings) == (3, 40)
    assert any(d.low > 0 or d.high < 0 for d in few.differences)
    assert not any(d.verdict for d in few.differences)
    (line,) = verdicts_of(few)
    assert line.startswith(
        "Nothing is concluded from 3 slides or patients, wanted 6: as few lean all the same way in 25 %"
    )
    many = run(compare(models, [tile._replace(source=f"{i} {tile.name}") for i in range(2) for tile in tiles], QUICK))
    assert any(d.verdict for d in many.differences) == any(d.low > 0 or d.high < 0 for d in many.differences)


def test_the_miou_is_that_of_evaluate(models, tiles, tile_folder):
    from napari_lpd.core.settings.evaluation import EvaluateSettings
    from napari_lpd.data.images import masked_images
    from napari_lpd.evaluation.evaluate import measure_images
    from napari_lpd.evaluation.metrics import bootstrap_intervals, metrics

    found = run(compare(models[:1], tiles, QUICK))
    settings = EvaluateSettings(gates=("predicted",), refiners=("none",), threads=1)
    (results,) = run(measure_images(models[0], masked_images(tile_folder / "valid"), settings)).values()
    scores = metrics(results, ["dark", "pink"], "exclude")
    assert found.banks[0].figures["iou"].value == pytest.approx(scores.mean_iou)
    assert found.banks[0].figures["iou"].per_class == pytest.approx(scores.iou)
    intervals = bootstrap_intervals(results, ["dark", "pink"], "exclude", 40, 0)
    assert found.banks[0].figures["iou"][1:3] == pytest.approx(intervals.headline["mean_iou"])


def test_the_same_bank_differs_from_itself_by_nothing(models, tiles):
    twin = models[0]._replace(name="twin")
    found = run(compare([models[0], twin], tiles, QUICK))
    pair = [d for d in found.differences if (d.first, d.second) == ("A", "twin")]
    assert pair
    assert all(d.value == 0 and not d.verdict for d in pair)
    assert all(d.low == d.high == 0 for d in pair if math.isfinite(d.low))


def test_without_masks_the_models_have_to_agree(models, tiles):
    bare = [tile._replace(read_mask=None) for tile in tiles]
    found = run(compare([models[0], models[0]._replace(name="twin")], bare, QUICK))
    assert found.reference == "agreement"
    assert "no masks" in found.notes[0]
    assert "iou" not in found.banks[0].figures  # it agrees with itself
    assert "faithfulness" in found.banks[0].figures


def test_models_that_agree_nowhere_are_refused(models, tiles):
    bare = [tile._replace(read_mask=None) for tile in tiles]
    never = models[0]._replace(name="never", card=models[0].card.model_copy(update={"presence": (1.1, 1.1)}))
    with pytest.raises(DataError, match="the models agree on a class nowhere"):
        run(compare([models[0], never], bare, QUICK))


def test_a_class_without_a_pixel_is_left_out_and_named(models, tiles):
    dark = [tile._replace(read_mask=lambda: np.zeros((64, 64), np.uint8)) for tile in tiles]
    found = run(compare(models, dark, QUICK))
    assert any("No place of pink" in note for note in found.notes)
    assert math.isnan(found.banks[0].figures["spatial_divergence"].per_class[1])
    assert math.isfinite(found.banks[0].figures["spatial_divergence"].value)
    assert math.isnan(found.banks[0].figures["coverage"].value)  # nothing lies outside dark
    empty = [tile._replace(read_mask=lambda: np.full((64, 64), 2, np.uint8)) for tile in tiles]
    with pytest.raises(DataError, match="no pixel of any class in the masks"):
        run(compare(models, empty, QUICK))


def test_a_class_from_two_sources_is_in_no_mean(models, tiles):
    dark = lambda: np.zeros((64, 64), np.uint8)  # noqa: E731
    few = [tile._replace(read_mask=dark) if tile.source == "v" else tile for tile in tiles]
    found = run(compare(models, few, QUICK))
    assert found.judged == ("dark",)
    assert any("From fewer than 3 sources, too few to tell: pink: in no mean" in note for note in found.notes)
    figure = found.banks[0].figures["coverage"]
    assert figure.value == figure.per_class[0] != figure.per_class[1]


def test_one_rare_class_keeps_the_others_from_no_verdict(models, tiles):
    """Twelve sources of dark, four of pink: what is concluded is of dark alone, and the notes say so."""
    dark, both = np.zeros((64, 64), np.uint8), np.repeat([[0], [1]], 32, axis=0).repeat(64, 1).astype(np.uint8)
    common = [
        tile._replace(source=f"{i} {tile.name}", read_mask=(lambda: both) if i < 4 else (lambda: dark))
        for i, tile in enumerate([*tiles, *tiles])
    ]
    found = run(compare(models, common, QUICK))
    assert (found.judged, found.fewest_sources) == (("dark",), 12)
    assert any("From fewer than 6 sources, too few to tell: pink: in no mean" in note for note in found.notes)
    decided = [d for d in found.differences if d.low > 0 or d.high < 0]
    assert decided
    assert all(d.verdict for d in decided)
    assert not verdicts_of(found)[0].startswith("Nothing is concluded")
    figure = found.banks[0].figures["coverage"]
    assert figure.value == figure.per_class[0]


def test_two_sources_give_no_intervals_and_no_verdicts(models, tiles, tmp_path):
    found = run(compare(models, [tile for tile in tiles if tile.source != "v"], QUICK))
    assert found.resamplings == 0
    assert not any(d.verdict for d in found.differences)
    assert any("No intervals and no verdicts: 2 source(s)" in note for note in found.notes)
    assert verdicts_of(found) == ["Without intervals nothing is concluded."]
    write_comparison(tmp_path / "report", found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mpp": 0.5}, "A and X were trained at 1 and 0.5 µm per pixel.*train one anew with mpp=1"),
        ({"prototypes_per_class": 3}, "A and X have 2 and 3 prototypes per class.*train one .* prototypes_per_class=2"),
        ({"prototypes_per_class": 1}, "X: 1 prototype per class; wanted two or more.*train it anew"),
        ({"prototypes_per_class": 1, "bank": "linear"}, "X: a model of bank=linear has no prototypes.*choose one"),
    ],
)
def test_models_that_say_nothing_of_each_other_are_refused(models, tmp_path, classes, options, message):
    with pytest.raises(ModelError, match=message):
        check_comparable(cards(models[0], loaded(tmp_path, classes, "X", **options)))


def test_other_classes_and_equal_names_are_refused(models, tmp_path, classes):
    other = (classes[0], TissueClass(name="blue", color="#0000ff"))
    with pytest.raises(ModelError, match="other classes: dark, pink, and dark, blue"):
        check_comparable(cards(models[0], loaded(tmp_path, other, "X")))
    with pytest.raises(ModelError, match="two models are called A"):
        check_comparable(cards(models[0], models[0]))


def test_temperatures_have_to_agree_or_be_set(models, tmp_path, classes, tiles):
    pair = [models[0], loaded(tmp_path, classes, "X", temperature=1.0)]
    with pytest.raises(SettingsError, match="set temperature for both"):
        run(compare(pair, tiles, QUICK))
    assert run(compare(pair, tiles[:2], QUICK.model_copy(update={"temperature": 0.5}))).temperature == 0.5


def test_some_masks_are_not_enough_and_no_tiles_are_none(models, tiles):
    with pytest.raises(DataError, match="some of the tiles to compare on have masks"):
        run(compare(models, [tiles[0], tiles[1]._replace(read_mask=None)], QUICK))
    with pytest.raises(DataError, match="no tiles"):
        run(compare(models, [], QUICK))


def test_a_mask_of_another_size_is_refused(models, tiles):
    small = tiles[0]._replace(read_mask=lambda: np.zeros((32, 64), np.uint8))
    with pytest.raises(DataError, match=r"v\+0.png: \(64, 64\) pixels, but its mask has \(32, 64\)"):
        run(compare(models, [small], QUICK))


def test_the_command_compares_on_a_slide(tmp_path, classes, tiny_tiff, capsys):
    a, twin = (str(saved(tmp_path / name, classes)) for name in ("A", "twin"))
    arguments = ["compare", a, twin, "--data", str(tiny_tiff), "--out", str(tmp_path / "report"), "--set", "threads=1"]
    assert main([*arguments, "--set", "slide_tiles=4", "--set", "stability_tiles=1"]) == 0
    assert "Without intervals nothing is concluded" in capsys.readouterr().out
    text = (tmp_path / "report" / "report.md").read_text()
    assert "There are no masks" in text
    assert "nearest patches are from the measured tiles" in text


def test_tissue_of_a_slide_is_compared_where_models_agree(models, tiny_slide):
    tiles = tiles_of_slide(tiny_slide, 1.0, 64, 5)
    assert len(tiles) == 5
    assert all(tile.read().shape == (64, 64, 3) for tile in tiles)
    found = run(compare([models[0], models[0]._replace(name="twin")], tiles, QUICK))
    patches = [patch for cards in found.banks[0].cards for card in cards for patch in card.patches]
    assert patches
    assert any(patch.place[1] > 64 for patch in patches)  # places on the slide, not in the tile
    assert found.sources == 1


def test_verdicts_need_an_interval_without_zero():
    metric = next(metric for metric in METRICS if metric.name == "coverage")
    above = np.array([[0.5], [0.4], [0.6], [0.5]])
    assert difference_of(metric, ("A", "B"), above, above * 0).verdict.startswith("A covers a larger share")
    assert difference_of(metric, ("A", "B"), above * 0, above).verdict.startswith("A covers a smaller share")
    astride = np.array([[0.5], [-0.4], [0.6], [0.5]])
    assert difference_of(metric, ("A", "B"), astride, astride * 0).verdict == ""
    assert difference_of(metric, ("A", "B"), above[:1], above[:1] * 0).verdict == ""  # no resamples
    every = np.ones(3, bool)
    assert math.isnan(figure_of(above * np.nan, every[:1]).value)
    assert figure_of(np.array([[0.2, np.nan, 0.4]]), every).value == pytest.approx(0.3)
    assert figure_of(np.array([[0.2, np.nan, 0.4]]), np.array([True, True, False])).value == pytest.approx(0.2)


def test_tiles_are_spread_evenly():
    assert spread(10, 3).tolist() == [0, 4, 9]
    assert spread(3, 0).tolist() == spread(3, 5).tolist() == [0, 1, 2]


def test_figures_show_what_they_say(models, tiles, classes):
    dark, bright = heat_colours(np.array([[0.0, 1.0]]))[0].tolist()
    assert max(dark) < 5
    assert min(bright) > 190
    colours, painted = mask_colours(np.array([[0, 1, 2, 255]], np.uint8), classes)
    assert colours[0, :2].tolist() == [list(tissue.rgb) for tissue in classes]
    assert painted.tolist() == [[True, True, False, False]]
    found = run(compare(models, tiles, QUICK))
    both, one = heatmap_figure(found), heatmap_figure(replace(found, examples=found.examples[:1]))
    assert both.get_figheight() > 1.8 * one.get_figheight()
    assert len(both.axes[0].images) == 2 * len(one.axes[0].images) == 2 * 2 * (3 + found.k)


def test_flags_are_named_in_the_table(models, tiles):
    bank = run(compare(models, tiles, QUICK)).banks[0]
    card = bank.cards[0][0]._replace(dead=True, redundant=True)
    assert card_table(bank._replace(cards=((card,),)), 0)[1][-1] == "dead, redundant"


def test_the_command_writes_a_report_that_needs_no_other_file(tmp_path, classes, tile_folder, capsys):
    paths = [str(saved(tmp_path / name, classes, seed=i)) for i, name in enumerate("AB")]
    out = tmp_path / "report"
    quick = ["--set", "bootstrap=40", "--set", "stability_tiles=1", "--set", "threads=1", "--json"]
    arguments = ["compare", *paths, "--data", str(tile_folder / "valid"), "--out", str(out), *quick]
    assert main([*arguments, "--training", str(tile_folder / "train")]) == 0
    *progress, result = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert progress[-1]["event"] == "progress"
    assert result["report"] == str(out / "report.html")
    html = (out / "report.html").read_text()
    assert "src='data:image/png;base64," in html
    assert "http" not in html
    assert "not for diagnosis" in html
    text = (out / "report.md").read_text()
    assert "Prototypes of A and B" in text
    assert "whether it was trained on these images was not checked" in text
    for name in ("heatmaps", "scatter"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
    content = json.loads((out / "report.json").read_text())
    with (out / "figures.csv").open(encoding="utf-8-sig") as file:
        rows = {(r["bank"], r["metric"], r["class"]): r["value"] for r in csv.DictReader(file)}
    coverage = content["banks"][0]["figures"]["coverage"]
    assert float(rows["A", "coverage", ""]) == coverage["value"]
    assert float(rows["A", "coverage", "pink"]) == coverage["per_class"][1]
    with (out / "prototypes.csv").open(encoding="utf-8-sig") as file:
        assert len(list(csv.DictReader(file))) == 6 * 4
    with (out / "differences.csv").open(encoding="utf-8-sig") as file:
        assert len(list(csv.DictReader(file))) == len(content["differences"])


def test_bad_input_of_the_command_is_one_line(tmp_path, classes, tile_folder, capsys):
    a = str(saved(tmp_path / "A", classes))
    b = str(saved(tmp_path / "B", classes, mpp=0.5))
    to = ["--data", str(tile_folder / "valid"), "--out", str(tmp_path / "report")]
    for arguments, message in (
        ([a, b, *to], "wanted the same resolution"),
        ([a, str(tmp_path / "none.safetensors"), *to], "no such model file"),
        ([a, a, *to, "--names", "one"], "1 names for 2 models"),
        ([a, "--data", str(tmp_path / "A"), "--out", str(tmp_path / "report")], "no images"),
    ):
        assert main(["compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()
