"""A training that stops or is killed goes on, and ends as if it had never stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from napari_lpd.core.errors import DataError, ModelError
from napari_lpd.core.jobs import in_subprocess, run
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import write_regions
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_tensors
from napari_lpd.training.fit import fit
from napari_lpd.training.runs.folder import STATE_NAME, read_state

STEPS = 8  # in three epochs


@pytest.fixture
def of_mit(tiny_settings):
    """An encoder of transformers, parts of which are dropped at random."""
    return tiny_settings.model_copy(update={"max_steps": STEPS, "batch": 16, "warm_up": 0.2, "stain_jitter": 0.1})


@pytest.fixture
def settings(of_mit):
    """An encoder that takes a fraction of the time, with batch statistics, and no contrast."""
    small = of_mit.model.model_copy(update={"encoder": "test_efficientnet", "encoder_weights": "random"})
    return of_mit.model_copy(update={"model": small, "contrast_weight": 0.0})


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes, settings):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, settings)


def stop_at(job, step):
    """Drive a job until `step` steps are done, then close it."""
    for progress in job:
        if progress.message.startswith("epoch") and progress.done >= step:
            break
    job.close()


def assert_same_training(one, other):
    for name in ("model.safetensors", "last.safetensors"):
        tensors, others = load_tensors(one / name), load_tensors(other / name)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors), name
        cards = [read_card(folder / name).model_dump(exclude={"created", "command"}) for folder in (one, other)]
        assert cards[0] == cards[1]
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    assert not (one / STATE_NAME).exists()


@pytest.mark.parametrize(("encoder", "bank"), [("of_mit", "learned"), ("settings", "clustered")])
def test_a_training_that_is_stopped_anywhere_ends_with_the_same_bits(tiles, request, tmp_path, encoder, bank):
    settings = request.getfixturevalue(encoder)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"bank": bank})})
    run(fit(tiles, settings, tmp_path / "whole"))
    per_epoch = -(-len(tiles) // settings.batch)
    for step in (1, per_epoch, STEPS) if encoder == "of_mit" else (1, per_epoch - 1, per_epoch, per_epoch + 1, STEPS):
        folder = tmp_path / f"stopped at {step}"
        stop_at(fit(tiles, settings, folder), step)
        assert read_state(folder)["place"]["step"] == step, (step, per_epoch)
        run(fit(tiles, settings, folder))
        assert_same_training(folder, tmp_path / "whole")


def test_a_training_stopped_many_times_ends_with_the_same_bits(tiles, settings, tmp_path):
    run(fit(tiles, settings, tmp_path / "whole"))
    for step in range(1, STEPS):
        stop_at(fit(tiles, settings, tmp_path / "a"), step)
    run(fit(tiles, settings, tmp_path / "a"))
    assert_same_training(tmp_path / "a", tmp_path / "whole")


def test_a_training_that_is_stopped_while_its_model_is_measured_comes_back_to_that_alone(tiles, settings, tmp_path):
    def stopped(model):
        assert read_card(model).tiles
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fit(tiles, settings, tmp_path, measure=stopped))
    before, measured, seen = load_tensors(tmp_path / "model.safetensors"), [], []
    run(fit(tiles, settings, tmp_path, measure=measured.append), seen.append)
    assert measured == [tmp_path / "model.safetensors"]
    assert not [progress for progress in seen if progress.done]  # no step again
    after = load_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / STATE_NAME).exists()


def test_progress_goes_on_where_it_was(tiles, settings, tmp_path):
    stop_at(fit(tiles, settings, tmp_path / "a"), 4)
    seen = []
    run(fit(tiles, settings, tmp_path / "a"), seen.append)
    assert seen[1].done == 5
    assert seen[-1].total == STEPS
    with (tmp_path / "a" / "history.csv").open(encoding="utf-8-sig") as file:
        assert next(csv.DictReader(file))["epoch"] == "1"


def test_another_training_in_the_folder_is_not_touched(tiles, settings, tmp_path):
    stop_at(fit(tiles, settings, tmp_path / "a"), 2)
    before = (tmp_path / "a" / STATE_NAME).read_bytes()
    with pytest.raises(DataError, match=r"half a training with another lr \(.*choose another folder"):
        run(fit(tiles, settings.model_copy(update={"lr": 1e-5}), tmp_path / "a"))
    with pytest.raises(DataError, match="another tiles"):
        run(fit(tiles.subset(range(len(tiles) - 1)), settings, tmp_path / "a"))
    assert (tmp_path / "a" / STATE_NAME).read_bytes() == before
    run(fit(tiles, settings.model_copy(update={"threads": 2}), tmp_path / "a"))


def test_a_damaged_state_says_what_to_do(tiles, settings, tmp_path):
    stop_at(fit(tiles, settings, tmp_path / "a"), 2)
    (tmp_path / "a" / STATE_NAME).write_bytes(b"x" * 99)
    with pytest.raises(ModelError, match=r"damaged.*delete it to train anew"):
        run(fit(tiles, settings, tmp_path / "a"))


def test_a_full_disk_keeps_the_last_state(tiles, settings, tmp_path, monkeypatch):
    stop_at(fit(tiles, settings, tmp_path / "a"), 2)
    before = (tmp_path / "a" / STATE_NAME).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_lpd.core.files.os.replace", full)
    job = fit(tiles, settings, tmp_path / "a")
    next(job)
    next(job)
    with pytest.raises(ModelError, match="No space left on device"):
        job.close()
    assert (tmp_path / "a" / STATE_NAME).read_bytes() == before


# Forks what has imported torch, in one thread: importing it every time would take longest.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from napari_lpd.training import fit as train, trainer
from napari_lpd.training.runs.folder import read_state
from napari_lpd.core.classes import read_classes
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.slides.formats import open_slide
from napari_lpd.core.jobs import run
from napari_lpd.data.regions import read_regions
torch.set_num_threads(1)
trainer.SAVE_S = 0.2
here = Path(sys.argv[1])
settings = TrainSettings.model_validate_json((here / "settings.json").read_text())
classes = read_classes(here / "classes.json")
with open_slide(here / "tiny.tiff") as slide:
    tiles = tiles_from_regions(slide, read_regions(here / "regions.geojson"), classes, settings)
began = time.monotonic()
run(train.fit(tiles, settings, here / "whole"))
longest = time.monotonic() - began
random.seed(0)
kills = number = 0
while kills < 8:
    folder, steps, finished = here / "killed" / str(number), 0, False
    while not finished:
        child = os.fork()
        if not child:
            run(train.fit(tiles, settings, folder))
            os._exit(0)
        time.sleep(random.uniform(0.05, 0.5) * longest)
        os.kill(child, signal.SIGKILL)
        how = os.waitpid(child, 0)[1]
        assert how in (0, signal.SIGKILL), f"ended with {how}"
        state = read_state(folder) if folder.exists() else None
        finished = how == 0 or (state is None and steps > 0)  # killed between the last file and its exit
        kills += how != 0
        assert finished or state is None or state["place"]["step"] >= steps
        steps = state["place"]["step"] if state else steps
        print(steps, flush=True)
    number += 1
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_training_killed_at_random_moments_ends_with_the_same_bits(
    tiny_tiff, tiny_regions, classes, settings, tmp_path
):
    settings = settings.model_copy(update={"max_steps": 24, "epochs": 30, "threads": 1, "batch": 4})
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    entries = {"classes": [tissue.model_dump() for tissue in classes]}
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) > 3  # killed at different steps
    for folder in (tmp_path / "killed").iterdir():
        assert_same_training(folder, tmp_path / "whole")


@pytest.mark.parametrize("how", ["close", "interrupt", "parent dies"])
def test_a_child_that_is_stopped_saves_what_it_has_learned(tiny_tiff, tiny_regions, classes, tmp_path, how):
    regions = write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    names = tmp_path / "classes.json"
    names.write_text(json.dumps({"classes": [tissue.model_dump() for tissue in classes]}))
    chosen = ["max_steps=500", "epochs=300", "tile=64", "batch=4", "model.prototypes_per_class=2", "threads=1"]
    chosen += ["model.encoder=test_efficientnet", "model.encoder_weights=random", "contrast_weight=0"]
    arguments = ["train", "--slide", str(tiny_tiff), "--regions", str(regions), "--classes", str(names)]
    arguments += [*(part for text in chosen for part in ("--set", text)), "--out", str(tmp_path / "run")]
    if how == "close":
        job = in_subprocess(arguments)
        stop_at(job, 3)
    else:
        child = f"in_subprocess({arguments!r})"
        parent = f"from napari_lpd.core.jobs import *; run({child}, lambda p: print(p.done, flush=True))"
        command = [sys.executable, "-m", "napari_lpd", *arguments, "--json"]
        command = command if how == "interrupt" else [sys.executable, "-c", parent]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in process.stdout:
            if (json.loads(line)["done"] if how == "interrupt" else int(line)) >= 3:
                break
        process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGKILL)
        process.communicate()
        until = time.monotonic() + 20
        while read_state(tmp_path / "run")["place"]["step"] < 3 and time.monotonic() < until:
            time.sleep(0.05)
    assert read_state(tmp_path / "run")["place"]["step"] >= 3
