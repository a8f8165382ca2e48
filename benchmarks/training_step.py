"""CPU time of a full training iteration (batch 10, 224 x 224, k=3): ours against the published recipe.

Baseline: MiT-B1 and a frozen Swin-T, gradients of the frozen encoder's weights left on as published, every pair of
image and responding prototype contrasted. Ours: the default settings. Both on the same real tiles with the same labels,
two of four tissues per tile (BCSS-WSSS has 2.1), in this process, one after the other; weights are random or embedded,
which changes no cost. Prints one line per recipe and the ratio.

    python benchmarks/training_step.py [--repeats 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from napari_lpd import samples
from napari_lpd.config import TrainSettings
from napari_lpd.encoder import build_region_encoder
from napari_lpd.formats import open_slide
from napari_lpd.model import LPD, choose_device, encoder_of
from napari_lpd.objective import Objective
from napari_lpd.optimisation import parameter_groups, set_training
from napari_lpd.presets import PRESETS

BATCH, TILE, CLASSES = 10, 224, 4
PUBLISHED = PRESETS["official-code"] | {"region_encoder_weights": "random"}
PUBLISHED["model"] = PUBLISHED["model"] | {"encoder": "mit_b1", "encoder_weights": "random"}
RECIPES = {"published": (PUBLISHED, True), "ours": ({}, False)}


def tiles() -> tuple[torch.Tensor, torch.Tensor]:
    """Real tiles of the sample slide in 0..1, and two of four labels each."""
    rng = np.random.default_rng(0)
    with open_slide(samples.skin_slide_path()) as slide:
        height, width = slide.shape
        corners = zip(rng.integers(0, height - TILE, BATCH), rng.integers(0, width - TILE, BATCH), strict=True)
        images = [slide.read((int(y), int(x)), (TILE, TILE), slide.mpp[0]) for y, x in corners]
    labels = np.zeros((BATCH, CLASSES), np.float32)
    for row in labels:
        row[rng.choice(CLASSES, 2, replace=False)] = 1
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def measure(values: dict, frozen_gradients: bool, repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds of CPU (wall seconds on a GPU) of one full iteration: the least of `repeats`, after one to warm up."""
    torch.manual_seed(0)
    settings = TrainSettings.build(values)
    network = LPD(settings.model, CLASSES, encoder_of(settings.model, settings.model.encoder_weights)).to(device)
    frozen = build_region_encoder(
        settings.region_encoder, settings.region_encoder_weights, settings.model.prototype_dim
    ).to(device)
    frozen.requires_grad_(frozen_gradients)
    objective = Objective(settings, frozen, torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(parameter_groups(network, settings))
    set_training(network, settings)
    images, labels = (part.to(device) for part in tiles())
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds, regions = [], 0
    for _ in range(repeats + 1):
        start = clock()
        losses = objective(network, images, labels, warm=False)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        optimiser.step()
        losses.total.item()  # waits for a GPU
        seconds.append(clock() - start)
        regions = losses.regions
    return {"seconds": min(seconds[1:]), "regions": regions}


def main() -> None:
    """Measure both recipes and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)[0]
    found = {}
    for name in reversed(RECIPES):  # ours first: the peak of memory only rises
        found[name] = measure(*RECIPES[name], options.repeats, device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:9}  {found[name]['seconds']:6.2f} s per full iteration,"
            f" {found[name]['regions']:.0f} regions, peak memory so far {peak:.1f} GiB"
        )
    ratio = found["ours"]["seconds"] / found["published"]["seconds"]
    print(f"training iteration: {ratio:.3f} of the published recipe ({1 / ratio:.1f} times faster)")


if __name__ == "__main__":
    main()
