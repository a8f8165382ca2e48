"""Measuring a model on images with masks: the CAM rules under each gate, with and without a refiner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit, logit

from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.files import atomic_write, file_hashes, overlap
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.data.images import IGNORE, MaskedImage, opened, read_image, read_mask
from napari_lpd.evaluation import report
from napari_lpd.evaluation.calibration import calibration, choose_thresholds, fit_temperature, gate_rates
from napari_lpd.evaluation.masks import class_probability, fused_maps, predicted_labels, present_classes
from napari_lpd.evaluation.metrics import (
    MIN_SOURCES,
    ImageResult,
    bootstrap_intervals,
    boundary_counts,
    confusion_matrix,
    metrics,
)
from napari_lpd.evaluation.report import GATES, ReportRow, too_few_images, write_report
from napari_lpd.models.card import target_stain
from napari_lpd.models.checkpoint import TRAINING_HASHES, load_tensors
from napari_lpd.slides.stain import matching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.evaluation import EvaluateSettings, Gate
    from napari_lpd.core.settings.prediction import Refiner
    from napari_lpd.models.network import LoadedModel

    Cell = tuple[Gate, Refiner]

RESULTS = "results.npz"
MARKS = {**report.MARKS, RESULTS: "boundary "}  # our files, and what tells them from others


def measure_images(
    model: LoadedModel, images: Sequence[MaskedImage], settings: EvaluateSettings
) -> Job[dict[tuple[Gate, Refiner], list[ImageResult]]]:
    """Predict every image under every gate and refiner, and count against its mask.

    Raises:
        DataError: as `check_masks`, before the first image.
    """
    check_masks(images, model.card.classes)
    return (yield from measure_checked(model, images, settings))


def measure_checked(
    model: LoadedModel, images: Sequence[MaskedImage], settings: EvaluateSettings
) -> Job[dict[Cell, list[ImageResult]]]:
    """Measure a model on images whose masks are checked already, as `measure_images`."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cells: dict[Cell, list[ImageResult]] = {
        (gate, refiner): [] for gate in settings.gates for refiner in settings.refiners
    }
    classes = model.card.classes
    thresholds = torch.tensor(model.card.presence)
    read = reader(model, images)
    for index, item in enumerate(images):
        image, mask = read(index), read_mask(item.mask, classes)
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        fused, presence = fused_maps(model, tensor, settings)
        truth = present_classes(mask, len(classes))
        gates = {
            "predicted": presence >= thresholds,
            "none": torch.ones(len(classes), dtype=torch.bool),
            "truth": torch.from_numpy(truth),
        }
        counted = np.where(mask == len(classes), IGNORE, mask) if settings.background == "exclude" else mask
        for (gate, refiner), results in cells.items():
            probability = class_probability(fused, gates[gate], settings)
            labels = predicted_labels(image, probability, refiner, settings, str(model.device))
            results.append(
                ImageResult(
                    name=item.image.name,
                    source=item.source,
                    confusion=confusion_matrix(counted, labels, len(classes)),
                    boundary=boundary_counts(
                        counted, labels, len(classes), settings.boundary_share, settings.background
                    ),
                    presence=presence.numpy(),
                    present=truth,
                )
            )
        yield Progress(index + 1, len(images), "images")
    return cells


def reader(model: LoadedModel, images: Sequence[MaskedImage]) -> Callable[[int], NDArray[np.uint8]]:
    """Return what reads image i as the model is to see it: with its slide's colours matched if it was trained so."""

    def read(index: int) -> NDArray[np.uint8]:
        return read_image(images[index].image)

    wanted = target_stain(model.card)
    return read if wanted is None else matching(read, [item.source for item in images], wanted)


def check_masks(images: Sequence[MaskedImage], classes: Sequence[TissueClass]) -> None:
    """Read every mask now, not after an hour.

    Raises:
        DataError: an image and its mask differ in size, a mask holds a foreign value, or none holds a class.
    """
    found = False
    for item in images:
        mask = read_mask(item.mask, classes)
        with opened(item.image) as image:
            size = (image.height, image.width)
        if size != mask.shape:
            raise DataError(f"{item.mask}: {mask.shape} pixels, but its image has {size}")
        found = found or bool((mask < len(classes)).any())
    if not found:
        raise DataError(f"{images[0].mask.parent}: no pixel of any class in the masks")


def check_unseen(model: Path, files: Sequence[Path]) -> list[str]:
    """Note which images the model has met, by file hash, for a report.

    Raises:
        DataError: some were trained on.
    """
    tensors = load_tensors(model)
    trained, validated = (tensors.get(TRAINING_HASHES[of]) for of in ("file", "validation"))
    if trained is None:
        return ["The model does not know its training files: whether it was trained on these images was not checked."]
    if seen := overlap(trained.numpy(), files):
        raise DataError(
            f"{seen[0]}: trained on, as {len(seen)} of {len(files)} images were; such a figure means nothing:"
            " measure on other images"
        )
    chosen_by = overlap(validated.numpy(), files) if validated is not None else []
    return [f"{len(chosen_by)} of the images chose the best epoch: the figures flatter."] if chosen_by else []


def evaluate(
    model: LoadedModel,
    images: Sequence[MaskedImage],
    settings: EvaluateSettings,
    out: Path,
    tuning: Sequence[MaskedImage] = (),
    notes: Sequence[str] = (),
) -> Job[dict[str, Any]]:
    """Measure a model, with intervals and calibration, and write report.html, .md, .csv and .json to `out`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from napari_lpd import EvaluateSettings, evaluate, load_model, masked_images, open_slide, run, samples
        >>> with open_slide(samples.skin_slide_path()) as slide:
        ...     image = slide.read((1000, 1000), (256, 256), mpp=1.0)  # naevus nests, class 1, throughout
        >>> settings = EvaluateSettings(gates=("predicted",), refiners=("none",), threads=1)
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     for part, pixels in (("img", image), ("mask", np.ones((256, 256), np.uint8))):
        ...         (folder / part).mkdir()
        ...         Image.fromarray(pixels).save(folder / part / "nests.png")
        ...     report = run(evaluate(load_model(samples.model_path()), masked_images(folder), settings, folder))
        >>> list(report)
        ['report', 'gate, F1', 'gate, AUC', 'mIoU, predicted classes, no CRF']

    Raises:
        DataError: `images` and `tuning` share a file.
        SettingsError: `tuning` of a supervised model, which has no presence scores.

    Args:
        model: The model.
        images: What to measure on.
        settings: Gates, refiners, treatment of background and the like.
        out: The report's folder.
        tuning: Other images, on which the presence thresholds and the temperature of the presence scores are chosen;
            without them the thresholds are the model's own and the temperature is 1.
        notes: More lines about the images for the report.
    """
    supervised = model.card.settings.model.bank == "supervised"
    if tuning and supervised:
        raise SettingsError(f"{model.name} is a supervised segmenter: it has no presence scores to choose by")
    if shared := overlap(file_hashes([item.image for item in tuning]), [item.image for item in images]):
        raise DataError(f"{shared[0]}: among the images to choose on and among those to measure on; keep them apart")
    notes = [f"Model {model.name}, {model.card.tiles} training tiles; {len(images)} images.", *notes]
    temperature = 1.0
    if tuning:
        model, temperature = yield from _tuned(model, tuning, settings)
        notes.append(f"Presence thresholds and temperature {temperature:.2f} chosen on {len(tuning)} other images.")
    cells = yield from measure_images(model, images, settings)
    shown = zip(model.card.classes, model.card.presence, strict=True)
    if not supervised:
        notes.append("Presence thresholds: " + ", ".join(f"{tissue.name} {value:.2f}" for tissue, value in shown) + ".")
    notes.append(_occurrence(model.card.classes, next(iter(cells.values()))))
    if len({item.source for item in images}) == len(images) > 1:
        notes.append("Every image is a source of its own; if several come from one patient, intervals are too narrow.")
    names = [tissue.name for tissue in model.card.classes]
    rows = [
        ReportRow(
            gate,
            refiner,
            metrics(results, names, settings.background),
            bootstrap_intervals(results, names, settings.background, settings.bootstrap, settings.seed),
        )
        for (gate, refiner), results in cells.items()
    ]
    presence, present = presence_of(next(iter(cells.values())))
    scaled = expit(logit(np.clip(presence, 1e-7, 1 - 1e-7)) / temperature)
    save_results(out / RESULTS, cells)
    judged = None
    if not supervised:
        judged = calibration(scaled, present) | gate_rates(presence, present, model.card.presence)
    title, shown_results = f"Evaluation of {model.name}", next(iter(cells.values()))
    from napari_lpd.evaluation.page import Presence, write_page  # matplotlib takes a while to load

    seen = None if judged is None else Presence(scaled, present, judged)
    path = write_page(out, title, rows, notes, shown_results, seen)
    write_report(out, title, rows, notes, judged)
    result = {"report": str(path)}
    if judged is not None:
        result |= {"gate, F1": f"{100 * judged['f1']:.1f} %", "gate, AUC": f"{100 * judged['auc']:.1f} %"}
    for row in rows:
        refined = "no CRF" if row.refiner == "none" else row.refiner
        result[f"mIoU, {GATES[row.gate]}, {refined}"] = f"{100 * row.scores.mean_iou:.1f} %"
    if rows[0].scores.too_few:
        result["in no mean, as too few images hold them"] = too_few_images(rows[0].scores)
    return result


def _tuned(
    model: LoadedModel, tuning: Sequence[MaskedImage], settings: EvaluateSettings
) -> Job[tuple[LoadedModel, float]]:
    """Choose the presence thresholds that suit `tuning`, and the temperature of the presence scores there."""
    quick = settings.model_copy(update={"gates": ("none",), "refiners": ("none",)})
    (results,) = (yield from measure_images(model, tuning, quick)).values()
    presence, present = presence_of(results)
    thresholds = tuple(choose_thresholds(presence, present).tolist())
    card = model.card.model_copy(update={"presence": thresholds})
    return model._replace(card=card), fit_temperature(presence, present)


def _occurrence(classes: Sequence[TissueClass], results: Sequence[ImageResult]) -> str:
    """Describe how much there is of every class, with a warning of those from too few slides or patients."""
    counts, few = [], []
    for c, tissue in enumerate(classes):
        sources = {result.source for result in results if result.present[c]}
        images = sum(bool(result.present[c]) for result in results)
        counts.append(f"{tissue.name} in {images} images of {len(sources)} sources")
        few += [tissue.name] if 0 < len(sources) < MIN_SOURCES else []
    warning = f" Too few sources to tell much: {', '.join(few)}." if few else ""
    return f"Classes: {', '.join(counts)}.{warning}"


def presence_of(results: Sequence[ImageResult]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Collect the presence probabilities of n images and which classes they hold: (n, C) each."""
    return np.stack([r.presence for r in results]), np.stack([r.present for r in results])


def save_results(path: Path, cells: Mapping[Cell, Sequence[ImageResult]]) -> None:
    """Keep the counts of every image: names, sources, and per gate and refiner confusion and boundary counts."""
    first = next(iter(cells.values()))
    arrays: dict[str, Any] = {"names": [r.name for r in first], "sources": [r.source for r in first]}
    arrays["presence"], arrays["present"] = presence_of(first)
    for (gate, refiner), results in cells.items():
        arrays[f"confusion {gate} {refiner}"] = np.stack([r.confusion for r in results])
        arrays[f"boundary {gate} {refiner}"] = np.stack([r.boundary for r in results])
    with atomic_write(path, mark=MARKS[RESULTS]) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_results(path: Path) -> dict[Cell, list[ImageResult]]:
    """Read what `save_results` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    cells: dict[Any, list[ImageResult]] = {}
    for name in arrays:
        kind, _, cell = name.partition(" ")
        if kind == "confusion":
            columns = (arrays["names"], arrays["sources"], arrays[name], arrays[f"boundary {cell}"])
            rows = zip(*columns, arrays["presence"], arrays["present"], strict=True)
            cells[tuple(cell.split())] = [ImageResult(str(n), str(s), *rest) for n, s, *rest in rows]
    return cells
