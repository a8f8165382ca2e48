"""A tile of 224 px, from pixels to the refined mask: ours against the official form of inference, in this process.

Baseline (method.md §7, the published recipe): MiT-B1 whose attention maps are made and copied, all four stages' maps,
seven forward passes per tile (two mirrored by three contrasts, and a plain one), minimum and maximum in NumPy, the true
image labels as the gate, the dense CRF of pydensecrf (extra crf) at full resolution. Ours, all with our CRF, at full
resolution or at half of it: the same network and views; one view of it; the embedded encoder, one view. The network
runs under ONNX Runtime in float32 (extra onnx) and, where the processor has it, under PyTorch in bfloat16. CPU seconds
per tile on one thread, of repeats that take turns.

With ``--data`` (a folder with img and mask), mIoU under the true labels' gate, and for ours under the predicted gate,
stands beside it for the models that are given, trained on the same classes. Without a model the weights are random
(MiT-B1) or the sample model's, without data the tiles come from the sample slide, and mIoU is left out.

    python benchmarks/tile_inference.py [--mit M.safetensors --embedded L.safetensors --data DIR] [--json FILE]
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from figures import Figure, against, alone, in_turns, parser, report
from torch.nn.functional import avg_pool2d, interpolate

from napari_lpd import samples
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.prediction import CrfSettings
from napari_lpd.core.settings.training import ModelSettings
from napari_lpd.data.images import IGNORE, masked_images, read_image, read_mask
from napari_lpd.evaluation.masks import (
    BRIGHTNESS,
    VIEWS,
    class_probability,
    fused_maps,
    predicted_labels,
    present_classes,
)
from napari_lpd.evaluation.metrics import ImageResult, boundary_counts, confusion_matrix, metrics
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.compute import choose_backend, forward_pass
from napari_lpd.models.crf.dense_crf import dense_crf
from napari_lpd.models.network import LoadedModel, merge_prototypes, new_network
from napari_lpd.slides.formats import open_slide

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

TILE, CLASSES = 224, 4
FUSION = (0.3, 0.3, 0.4)
BACKGROUND_POWER = 10
SIX, ONE, EMBEDDED = "same encoder, six views", "same encoder, one view", "embedded encoder, one view"
WANTED = {SIX: "1/1.8 = 0.56, 98 % equal labels", ONE: "1/8 = 0.125", EMBEDDED: "1/18 = 0.056"}
FORM = EvaluateSettings(views="official", normalise="image", background="predict")
HALF = CrfSettings(half_size=True)
OFFICIAL = "official"


class Official:
    """The published inference of one network, as the spec describes it."""

    def __init__(self, model: LoadedModel) -> None:
        self.network, self.encoder = model.network, model.network.encoder
        self.mean, self.std = self.encoder.mean[0], self.encoder.std[0]
        self.kept: list[torch.Tensor] = []
        for layer in self.encoder.modules():
            if type(layer).__name__ == "Attention":
                layer.forward = lambda x, size, layer=layer: self.attention(layer, x, size)

    def attention(self, layer: torch.nn.Module, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """MiT's attention over tokens (B, n, D) with its map written out, copied and pooled to the grid of the keys."""
        b, n, width = x.shape
        q = layer.q(x).reshape(b, n, layer.num_heads, -1).permute(0, 2, 1, 3)
        if layer.sr is not None:
            grid = x.permute(0, 2, 1).reshape(b, width, *size)
            x = layer.norm(layer.sr(grid).reshape(b, width, -1).permute(0, 2, 1))
        k, v = layer.kv(x).reshape(b, -1, 2, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * layer.scale).softmax(-1)
        pooled = weights.clone().transpose(2, 3).reshape(b, -1, *size)
        self.kept.append(avg_pool2d(pooled, layer.sr.stride) if layer.sr is not None else pooled)
        return layer.proj((weights @ v).transpose(1, 2).reshape(b, n, width))

    def maps(self, normalised: torch.Tensor) -> list[torch.Tensor]:
        """(1, 3, H, W), normalised → scaled cosines of all four stages."""
        self.kept.clear()
        features = self.encoder.backbone(normalised)
        return [self.network.stage_logits(part, i) for i, part in enumerate(features)]

    @torch.no_grad()
    def predict(self, image: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Labels (H, W), C = background, of an image (H, W, 3) uint8 that shows the classes `present` (C,)."""
        scaled = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        normalised = ((scaled - self.mean) / self.std)[None]
        [part.mean((2, 3)) for part in self.maps(normalised)]  # what is logged
        views = []
        for flip in (False, True):
            for factor in BRIGHTNESS:
                seen = normalised * factor
                stages = self.maps(seen.flip(3) if flip else seen)[1:]
                fused = sum(
                    weight * self.class_maps(maps, present, image.shape[:2])
                    for weight, maps in zip(FUSION, stages, strict=True)
                )
                views.append(fused[:, :, ::-1] if flip else fused)
        fused = np.mean(views, 0)
        scores = np.concatenate([fused, (1 - fused.max(0, keepdims=True)) ** BACKGROUND_POWER])
        shares = np.exp(scores) / np.exp(scores).sum(0)
        back = (normalised[0] * self.std + self.mean).mul(255).clamp(0, 255).to(torch.uint8)  # truncates
        seen = np.ascontiguousarray(back.permute(1, 2, 0).numpy()[..., ::-1])
        return dense_crf(seen, shares.astype(np.float32), FORM.crf, "pydensecrf").argmax(0).astype(np.uint8)

    def class_maps(self, maps: torch.Tensor, present: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """One stage's class maps of one view (C, H, W): merged, 0..1 each by itself, gated, upsampled."""
        merged = merge_prototypes(maps, self.network.k, "soft")[0].numpy()
        positive = np.maximum(merged, 0)
        low, high = positive.min((1, 2), keepdims=True), positive.max((1, 2), keepdims=True)
        unit = (positive - low) / (high - low + 1e-6) * present[:, None, None]
        fine = interpolate(torch.from_numpy(unit)[None], size=size, mode="bilinear", align_corners=True)
        return fine[0].numpy()


@dataclass(frozen=True)
class Ours:
    """This package's inference.

    Attributes:
        kind: What is compared, of `WANTED`.
        how: Backend and precision, and the size of the CRF, in words.
        model: The model.
        settings: Its settings.
        spent: CPU seconds of the dense CRF, call by call.
    """

    kind: str
    how: str
    model: LoadedModel
    settings: EvaluateSettings
    spent: list[float] = field(default_factory=list)

    def predict(self, image: np.ndarray, present: np.ndarray) -> np.ndarray:
        """As `Official.predict`."""
        return self.under_gates(image, present)["truth"]

    def under_gates(self, image: np.ndarray, present: np.ndarray, own: bool = False) -> dict[str, np.ndarray]:
        """Labels under the gate that is given, "truth", and on request under that of the model's own scores."""
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        fused, scores = fused_maps(self.model, tensor, self.settings)
        gates = {"truth": torch.from_numpy(present)}
        if own:
            gates["predicted"] = scores >= torch.tensor(self.model.card.presence)
        shares = {name: class_probability(fused, gate, self.settings) for name, gate in gates.items()}
        start = time.process_time()
        labels = {name: predicted_labels(image, share, "lattice", self.settings) for name, share in shares.items()}
        self.spent.append((time.process_time() - start) / len(labels))
        return labels

    @torch.inference_mode()
    def passes(self, image: np.ndarray) -> float:
        """CPU seconds of the forward passes alone."""
        views, run = VIEWS[self.settings.views], forward_pass(self.model, self.settings)
        tensor = (torch.from_numpy(image).permute(2, 0, 1).float() / 255)[None]
        start = time.process_time()
        for _ in range(len(views.flips) * len(views.factors)):
            run(tensor)
        return time.process_time() - start


def forms(options: argparse.Namespace) -> dict[str, Official | Ours]:
    """What is compared, the baseline first; it changes its network, so it has one of its own."""
    mit, again = (loaded(options.mit, "mit_b1") for _ in range(2))
    embedded = loaded(options.embedded, "tf_efficientnet_lite0")
    rules = {SIX: FORM, ONE: FORM.model_copy(update={"views": "one"}), EMBEDDED: EvaluateSettings()}
    compared: dict[str, Official | Ours] = {OFFICIAL: Official(again)}
    for kind, settings in rules.items():
        for precision in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
            for crf in (settings.crf,) if kind == SIX else (settings.crf, HALF):
                model = embedded if kind == EMBEDDED else mit
                backend = "torch" if precision == "bfloat16" else choose_backend("auto", model.device)
                how = f"{backend} {precision}, CRF at {'half' if crf.half_size else 'full'} size"
                own = settings.model_copy(update={"backend": backend, "precision": precision, "crf": crf})
                compared[f"{kind}, {how}"] = Ours(kind, how, model, own)
    return compared


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; it is many times slower where it is emulated."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and bool({"avx512_bf16", "amx_bf16"} & set(flags.read_text("utf-8").split()))


def loaded(path: Path | None, encoder: str) -> LoadedModel:
    """The model at `path`; else MiT-B1 with random weights, or the sample model."""
    if path:
        return load_model(path, "cpu")
    sample = load_model(samples.model_path(), "cpu")
    if encoder == sample.card.settings.model.encoder:
        return sample
    torch.manual_seed(0)
    settings = ModelSettings(encoder=encoder, encoder_weights="random", stage_fusion=FUSION, merge_predict="soft")
    network = new_network(settings, CLASSES).eval().requires_grad_(False)
    return sample._replace(network=network, name=f"random {encoder}", hash="")


def sample_tiles(count: int) -> list[np.ndarray]:
    """Tiles of the sample slide."""
    rng = np.random.default_rng(0)
    with open_slide(samples.skin_slide_path()) as slide:
        height, width = slide.shape
        corners = zip(rng.integers(0, height - TILE, count), rng.integers(0, width - TILE, count), strict=True)
        return [np.array(slide.read((int(y), int(x)), (TILE, TILE), slide.mpp[0])) for y, x in corners]


def timed_tiles(
    options: argparse.Namespace, trained: dict[str, Official | Ours]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The tiles that are timed and the classes in each: of the data, or two classes on tiles of the sample slide."""
    if not options.data:
        return sample_tiles(options.tiles), [np.array([True, True, False, False])] * options.tiles
    classes = next(form.model.card.classes for form in trained.values() if isinstance(form, Ours))
    items = masked_images(options.data)
    chosen = [items[i] for i in np.linspace(0, len(items) - 1, options.tiles).astype(int)]
    masks = [read_mask(item.mask, classes) for item in chosen]
    return [read_image(item.image) for item in chosen], [present_classes(mask, len(classes)) for mask in masks]


def timed(
    compared: dict[str, Official | Ours], tiles: list[np.ndarray], present: list[np.ndarray], repeats: int
) -> dict[str, list[float]]:
    """CPU seconds per tile of every form, per repeat; the forms take turns, after one tile each to warm up."""

    def all_tiles(form: Official | Ours) -> None:
        for tile, gate in zip(tiles, present, strict=True):
            form.predict(tile, gate)

    for form in compared.values():
        form.predict(tiles[0], present[0])
    calls = [partial(all_tiles, form) for form in compared.values()]
    seconds = in_turns(repeats, *calls, clock=time.process_time)
    return {name: [each / len(tiles) for each in own] for name, own in zip(compared, seconds, strict=True)}


def measured(
    compared: dict[str, Official | Ours], data: Path, count: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Mean IoU in percent of every form on images spread over `data`, per gate; and the share of the baseline's labels.

    Pixels outside the classes are left out of mIoU; background painted on tissue counts as an error.
    """
    classes = next(form.model.card.classes for form in compared.values() if isinstance(form, Ours))
    items = masked_images(data)
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]
    results: dict[tuple[str, str], list[ImageResult]] = {}
    equal: dict[str, list[float]] = {}
    for item in chosen:
        image, mask = read_image(item.image), read_mask(item.mask, classes)
        truth = present_classes(mask, len(classes))
        counted = np.where(mask == len(classes), IGNORE, mask)
        baseline = None
        for name, form in compared.items():
            if isinstance(form, Official):
                found = {"truth": form.predict(image, truth)}
                baseline = found["truth"]
            else:
                found = form.under_gates(image, truth, own=True)
            if baseline is not None:
                equal.setdefault(name, []).append(float((found["truth"] == baseline).mean()))
            for gate, labels in found.items():
                confusion = confusion_matrix(counted, labels, len(classes))
                bounds = boundary_counts(counted, labels, len(classes), 0.02)
                result = ImageResult(item.image.name, item.source, confusion, bounds, np.zeros(len(classes)), truth)
                results.setdefault((name, gate), []).append(result)
    names = [tissue.name for tissue in classes]
    miou: dict[str, dict[str, float]] = {name: {} for name in compared}
    for (name, gate), found in results.items():
        miou[name][gate] = 100 * metrics(found, names, "exclude").mean_iou
    return miou, {name: 100 * float(np.mean(shares)) for name, shares in equal.items()}


def notes(form: Ours, tiles: list[np.ndarray], seconds: float) -> str:
    """Where a form's time goes, in words."""
    passes = np.median([form.passes(tile) for tile in tiles])
    crf = np.median(form.spent)
    parts = (("forward passes", passes), ("CRF", crf), ("all else", seconds - passes - crf))
    return ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in parts)


def figures(options: argparse.Namespace) -> Iterator[Figure]:
    """Measure; the official form, then ours."""
    compared = forms(options)
    trained = {name: form for name, form in compared.items() if given(form, options)}
    tiles, present = timed_tiles(options, trained)
    seconds = timed(compared, tiles, present, options.repeats)
    where = {name: notes(form, tiles, float(np.median(seconds[name]))) for name, form in compared.items()
             if isinstance(form, Ours)}  # fmt: skip
    miou, equal = measured(trained, options.data, options.masks) if options.data else ({}, {})
    if OFFICIAL not in equal:
        pairs = list(zip(tiles, present, strict=True))
        labels = {name: np.array([form.predict(*pair) for pair in pairs]) for name, form in compared.items()}
        equal = {name: 100 * float((found == labels[OFFICIAL]).mean()) for name, found in labels.items()}
    for name, form in compared.items():
        scores = "".join(f"; mIoU {score:.1f} % ({gate} gate)" for gate, score in miou.get(name, {}).items())
        what = f"a tile of {TILE} px to its refined mask, one thread: {name}"
        if isinstance(form, Official):
            yield replace(alone(what, seconds[name], "CPU-s"), note=scores[2:])
            continue
        same = "another network" if form.kind == EMBEDDED else f"labels equal {equal[name]:.2f} %"
        base = ("the official form", seconds[OFFICIAL], "CPU-s", WANTED[form.kind])
        yield replace(against(what, seconds[name], *base), note=f"{same}{scores}; {where[name]}")


def given(form: Official | Ours, options: argparse.Namespace) -> bool:
    """Whether a form's model was given, so that its mIoU means something."""
    embedded = isinstance(form, Ours) and form.kind == EMBEDDED
    return bool(options.embedded if embedded else options.mit)


def main() -> None:
    """Measure, print and write JSON."""
    made = parser(__doc__)
    made.add_argument("--mit", type=Path, help="model with MiT-B1; else random weights")
    made.add_argument("--embedded", type=Path, help="model with the embedded encoder; else the sample model")
    made.add_argument("--data", type=Path, help="folder with img and mask, for the models that are given")
    made.add_argument("--masks", type=int, default=60, help="images of it that mIoU is taken on")
    made.add_argument("--tiles", type=int, default=4, help="tiles per repeat")
    made.add_argument("--repeats", type=int, default=5)
    options = made.parse_args()
    if options.data and not (options.mit or options.embedded):
        made.error("--data needs --mit or --embedded, trained on its classes")
    torch.set_num_threads(1)
    report(figures(options), options.json)


if __name__ == "__main__":
    main()
