"""CPU time of a full training iteration (batch 10, 224 x 224, k=3): ours against the published recipe.

Baseline: MiT-B1 and a frozen Swin-T, gradients of the frozen encoder's weights left on as published, every pair of
image and responding prototype contrasted. Ours: the default settings. Both on the same real tiles with the same labels,
two of four tissues per tile (BCSS-WSSS has 2.1), in this process, in turns; weights are random or embedded,
which changes no cost. Beside them the copy of the weights that a training keeps at every step, in case its loss becomes
no number.

    python benchmarks/training_step.py [--repeats 3] [--threads 1] [--device cuda]
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch
from figures import against, in_turns, parser, report

from napari_lpd import samples
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.models.compute import choose_device
from napari_lpd.models.encoder import build_region_encoder
from napari_lpd.models.network import LPD, encoder_of
from napari_lpd.slides.formats import open_slide
from napari_lpd.training.losses.objective import Objective
from napari_lpd.training.step import parameter_groups, set_training

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


class Recipe:
    """One recipe's training iteration, on the tiles.

    Args:
        values: Settings.
        frozen_gradients: Whether the frozen encoder's weights get gradients.
        device: To compute on.
    """

    def __init__(self, values: dict, frozen_gradients: bool, device: torch.device) -> None:
        torch.manual_seed(0)
        settings = TrainSettings.build(values)
        encoder = encoder_of(settings.model, settings.model.encoder_weights)
        self.network = LPD(settings.model, CLASSES, encoder).to(device)
        frozen = build_region_encoder(
            settings.region_encoder, settings.region_encoder_weights, settings.model.prototype_dim
        ).to(device)
        frozen.requires_grad_(frozen_gradients)
        self.objective = Objective(settings, frozen, torch.Generator().manual_seed(0)).to(device)
        self.optimiser = torch.optim.AdamW(parameter_groups(self.network, settings))
        set_training(self.network, settings)
        self.batch = [part.to(device) for part in tiles()]
        self.tensors = list(self.network.state_dict().values())

    def iteration(self) -> None:
        """Losses, gradients, update."""
        losses = self.objective(self.network, *self.batch, warm=False)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimiser.step()
        losses.total.item()  # waits for a GPU

    def keep(self) -> None:
        """Copy all weights, as a step of the training does."""
        self.kept = [tensor.clone() for tensor in self.tensors]
        self.kept[-1].sum().item()


def main() -> None:
    """Measure both recipes in turns."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device(chosen.device)[0]
    recipes, peaks = {}, {}
    for name in reversed(RECIPES):  # ours first: the peak of memory only rises
        recipes[name] = Recipe(*RECIPES[name], device)
        recipes[name].iteration()
        peaks[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    calls = recipes["ours"].iteration, recipes["ours"].keep, recipes["published"].iteration
    ours, kept, published = in_turns(chosen.repeats, *calls, clock=clock)
    unit = "CPU-s" if device.type == "cpu" else "s"
    what, other = "full training iteration, batch 10, 224 px, k = 3", "the published recipe"
    figures = [
        against(what, ours, other, published, unit, "0.2"),
        against("the copy of its weights that is kept", kept, "the iteration", ours, unit, "0.01"),
        against("its peak of memory", [peaks["ours"]], other, [peaks["published"]], "GiB"),
    ]
    report(figures, chosen.json)


if __name__ == "__main__":
    main()
