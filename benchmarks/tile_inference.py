"""A tile of 224 px, from pixels to the refined mask: ours against the official form of inference, in this process.

Baseline (method.md §7, the published recipe): MiT-B1 whose attention maps are made and copied, all four stages' maps,
seven forward passes per tile (two mirrored by three contrasts, and a plain one), minimum and maximum in NumPy, the true
image labels as the gate, the dense CRF of pydensecrf (extra crf) at full resolution. Ours, all with our CRF: the same
network and views; one view of it; the embedded encoder, one view. CPU seconds per tile, median and range of repeats
that take turns.

With ``--data`` (a folder with img and mask), mIoU under the true labels' gate, and for ours under the predicted gate,
stands beside it for the models that are given, trained on the same classes. Without a model the weights are random
(MiT-B1) or the sample model's, without data the tiles come from the sample slide, and mIoU is left out.

    python benchmarks/tile_inference.py [--mit M.safetensors --embedded L.safetensors --data DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate

from napari_lpd import samples
from napari_lpd.config import EvaluateSettings, ModelSettings
from napari_lpd.evaluate import ImageResult, boundary_counts, confusion_matrix, metrics
from napari_lpd.formats import open_slide
from napari_lpd.images import IGNORE, masked_images, read_image, read_mask
from napari_lpd.inference import choose_backend
from napari_lpd.model import LoadedModel, load_model, merge_prototypes, new_network
from napari_lpd.refine import dense_crf
from napari_lpd.validate import BRIGHTNESS, class_probability, fused_maps, predicted_labels, present_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(H, W, 3) uint8 and the classes that may be painted (C,) bool → labels (H, W), C = background."""

TILE, MPP, CLASSES = 224, 0.5, 4
FUSION = (0.3, 0.3, 0.4)
BACKGROUND_POWER = 10
WANTED = {
    "official": "",
    "same encoder, six views": "1/1.8, 98 % equal labels",
    "same encoder, one view": "1/8",
    "embedded encoder, one view": "1/18",
}
FORM = EvaluateSettings(views="official", normalise="image", background="predict")


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
        """A `Predict`."""
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


class Ours(NamedTuple):
    """This package's inference."""

    model: LoadedModel
    settings: EvaluateSettings

    def predict(self, image: np.ndarray, present: np.ndarray) -> np.ndarray:
        """A `Predict`."""
        return self.under_gates(image, present)["truth"]

    def under_gates(self, image: np.ndarray, present: np.ndarray, own: bool = False) -> dict[str, np.ndarray]:
        """Labels under the gate that is given, "truth", and on request under that of the model's own scores."""
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        fused, scores = fused_maps(self.model, tensor, self.settings)
        gates = {"truth": torch.from_numpy(present)}
        if own:
            gates["predicted"] = scores >= torch.tensor(self.model.card.presence)
        shares = {name: class_probability(fused, gate, self.settings) for name, gate in gates.items()}
        return {name: predicted_labels(image, share, "lattice", self.settings) for name, share in shares.items()}


def forms(options: argparse.Namespace) -> dict[str, Official | Ours]:
    """What is compared; the baseline changes its network, so it has one of its own."""
    mit, again = (loaded(options.mit, "mit_b1") for _ in range(2))
    embedded = loaded(options.embedded, "tf_efficientnet_lite0")
    six = FORM.model_copy(update={"backend": options.backend, "precision": options.precision})
    default = EvaluateSettings(backend=options.backend, precision=options.precision)
    one = six.model_copy(update={"views": "one"})
    return {
        "official": Official(again),
        "same encoder, six views": Ours(mit, six),
        "same encoder, one view": Ours(mit, one),
        "embedded encoder, one view": Ours(embedded, default),
    }


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
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for form in compared.values():
        form.predict(tiles[0], present[0])
    for _ in range(repeats):
        for name, form in compared.items():
            start = time.process_time()
            for tile, gate in zip(tiles, present, strict=True):
                form.predict(tile, gate)
            seconds[name].append((time.process_time() - start) / len(tiles))
    return seconds


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


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mit", type=Path, help="model with MiT-B1; else random weights")
    parser.add_argument("--embedded", type=Path, help="model with the embedded encoder; else the sample model")
    parser.add_argument("--data", type=Path, help="folder with img and mask, for the models that are given")
    parser.add_argument("--masks", type=int, default=300, help="images of it that mIoU is taken on")
    parser.add_argument("--tiles", type=int, default=4, help="tiles per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backend", choices=("auto", "torch", "onnx"), default="auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.data and not (options.mit or options.embedded):
        parser.error("--data needs --mit or --embedded, trained on its classes")
    torch.set_num_threads(1)
    compared = forms(options)
    trained = {n: form for n, form in compared.items() if (options.embedded if "embedded" in n else options.mit)}
    tiles, present = timed_tiles(options, trained)
    seconds = timed(compared, tiles, present, options.repeats)
    miou, equal = measured(trained, options.data, options.masks) if options.data else ({}, {})
    if "official" not in equal:
        pairs = list(zip(tiles, present, strict=True))
        labels = {name: np.array([form.predict(*pair) for pair in pairs]) for name, form in compared.items()}
        equal = {name: 100 * float((found == labels["official"]).mean()) for name, found in labels.items()}
    equal.pop("embedded encoder, one view", None)  # another network
    report(compared, seconds, miou, equal, options)


def report(
    compared: dict[str, Official | Ours],
    seconds: dict[str, list[float]],
    miou: dict[str, dict[str, float]],
    equal: dict[str, float],
    options: argparse.Namespace,
) -> None:
    """Print a line per form, and write the figures to a file where one is asked for."""
    base = seconds["official"]
    figures = []
    for name, form in compared.items():
        own, ratios = seconds[name], [one / other for one, other in zip(seconds[name], base, strict=True)]
        how = "torch, float32"
        if isinstance(form, Ours):
            how = f"{choose_backend(options.backend, form.model.device, options.precision)}, {options.precision}"
        value, ratio = statistics.median(own), statistics.median(own) / statistics.median(base)
        figures.append(
            {
                "what": f"a tile of {TILE} px to its refined mask, {name} ({how})", "value": value, "unit": "CPU-s",
                "baseline": "the official form", "baseline_value": statistics.median(base), "ratio": ratio,
                "spread": (min(ratios), max(ratios)), "wanted": WANTED[name], "device": f"{processor()}, 1 core",
                "equal labels %": equal.get(name), "mIoU %": miou.get(name, {}),
            }
        )  # fmt: skip
        same = "another network" if "embedded" in name else f"labels equal {equal[name]:.2f} %"
        scores = [f"mIoU {score:.1f} % ({gate} gate)" for gate, score in miou.get(name, {}).items()]
        print(
            f"{name} ({how}): {value:.3f} CPU-s per tile ({min(own):.3f}..{max(own):.3f}), {1 / ratio:.1f} times as"
            f" fast as the official form; {same}; {', '.join(scores) or 'mIoU left out'}"
        )
    print(f"{processor()}, one thread; {options.repeats} repeats of {options.tiles} tiles")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
