"""The papers' tables on one's own data: train and measure every row, a few seeds each, and resume where a run stopped.

A row that is done has its ``report.md``; it is not run again. The table is written anew after every row.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from napari_lpd.core.errors import NOTICE, SettingsError
from napari_lpd.core.files import write_text
from napari_lpd.core.reading import read_json
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.core.text import markdown
from napari_lpd.data.images import MaskedImage, masked_images, part_of, read_image, read_mask
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.evaluation.evaluate import check_unseen, evaluate, load_results
from napari_lpd.evaluation.metrics import MIN_SOURCES, limits_of, rates_of, resampled_rates, sums_per_source
from napari_lpd.evaluation.report import BACKGROUNDS, GATES, plain
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.encoder import STAGES
from napari_lpd.models.network import LoadedModel, cosine_maps, encoder_of
from napari_lpd.models.prototypes import at_places, effective_number, position_share, spatial_divergence
from napari_lpd.training.fit import fit
from napari_lpd.training.papers.rows import TABLES
from napari_lpd.training.runs.folder import MODEL_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Job, Progress
    from napari_lpd.evaluation.metrics import ImageResult
    from napari_lpd.training.papers.rows import Row

PROTOCOL = "protocol.json"  # what a table is made of


class Protocol(NamedTuple):
    """What a table is made of.

    Attributes:
        data: Folder with ``train``, ``valid/{img,mask}`` and, if there is one, ``test/{img,mask}``. With a test set the
            best epoch and the thresholds are chosen on the validation set; without one the validation set is what is
            measured on, so nothing is chosen there.
        classes: The classes, in the digits' order.
        source: How a tile's name gives its slide or patient.
        settings: Settings file for all rows, or None.
        overrides: ``name=value`` for all rows; they win over a row's own.
        seeds: Number of seeds per row.
        measured: Gates, refiners, background.
    """

    data: Path
    classes: tuple[TissueClass, ...]
    source: str
    settings: Path | None
    overrides: tuple[str, ...]
    seeds: int
    measured: EvaluateSettings


def reproduce(table: str, protocol: Protocol, out: Path, only: Sequence[str] = ()) -> Job[Path]:
    """Run the rows of a table that are not done yet; returns the path of ``out/table.md``.

    Args:
        table: One of `TABLES`.
        protocol: Data, settings, seeds.
        out: Folder of the table; one folder per row and seed in it.
        only: Names of rows; others are left to another run. Empty: all.

    Raises:
        SettingsError: a name in `only` is no row, or a row that is done was made with other settings.
    """
    rows = TABLES[table]
    _check_protocol(table, protocol, out)
    unknown = set(only) - {row.name for row in rows}
    if unknown:
        raise SettingsError(f"{table} has no row {sorted(unknown)[0]!r}; rows: {', '.join(row.name for row in rows)}")
    if protocol.seeds < 1:
        raise SettingsError(f"seeds={protocol.seeds}: wanted one or more")
    runs = [
        (row, seed, row_settings(row, protocol, seed))
        for seed in range(protocol.seeds)
        for row in rows
        if not only or row.name in only
    ]
    for done, (row, seed, settings) in enumerate(runs):
        folder = out / row.folder / f"seed{seed}"
        if (folder / "report.md").exists():
            _check_made_with(settings, protocol, folder / MODEL_NAME)
        else:
            for progress in _run(protocol, settings, folder):
                yield replace(progress, message=f"{row.name}, seed {seed} ({done + 1}/{len(runs)}): {progress.message}")
        _write_table(out, table, protocol)
    return _write_table(out, table, protocol)


def row_settings(row: Row, protocol: Protocol, seed: int) -> TrainSettings:
    """Build the training settings of a row.

    The published diversity losses compare raw prototypes with stage-4 features: there prototypes are as long as those.
    """
    overrides = [*row.overrides, *protocol.overrides, f"seed={seed}"]
    try:
        settings = read_settings(TrainSettings, protocol.settings, overrides, row.preset)
    except SettingsError as error:
        raise SettingsError(f"row {row.name}: {error}") from error
    if settings.diversity.startswith("official"):
        width = encoder_of(settings.model, "random").widths[-1]
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"prototype_dim": width})})
    return settings


def _check_protocol(table: str, protocol: Protocol, out: Path) -> None:
    """Note what the table is made of; refuse to continue with something else."""
    measured = protocol.measured.model_dump(mode="json", exclude=set(EvaluateSettings.RUNTIME_SETTINGS))
    wanted = {"table": table, "data": str(protocol.data.resolve()), "source": protocol.source, "measured": measured}
    path = out / PROTOCOL
    if not path.exists():
        _write_json(path, wanted)
        return
    made = read_json(path, SettingsError, "a table's protocol", dict)
    if different := [name for name, value in wanted.items() if made.get(name) != value]:
        raise SettingsError(
            f"{out}: was made with {different[0]} {made.get(different[0])}, not {wanted[different[0]]}; choose another"
            " folder for the table"
        )


def _check_made_with(settings: TrainSettings, protocol: Protocol, path: Path) -> None:
    """Refuse to put rows into one table that were made with other settings or classes."""
    card = read_card(path)
    if card.classes != protocol.classes:
        raise SettingsError(f"{path} was trained with other classes; choose another folder for the table")
    for name in set(TrainSettings.model_fields) - TrainSettings.RUNTIME_SETTINGS:
        made, wanted = getattr(card.settings, name), getattr(settings, name)
        if made != wanted:
            raise SettingsError(
                f"{path} was trained with {name}={made}, not {wanted}; choose another folder for the table"
            )


def _run(protocol: Protocol, settings: TrainSettings, folder: Path) -> Iterator[Progress]:
    tiles = labelled_tiles(protocol.data, protocol.classes, protocol.source)
    valid = masked_images(part_of(protocol.data, "valid"), protocol.source)
    held_back = part_of(protocol.data, "test")
    tested = (held_back / "img").is_dir()
    test = masked_images(held_back, protocol.source) if tested else valid
    model_path = yield from fit(tiles, settings, folder, "", valid if tested else ())
    notes = check_unseen(model_path, [item.image for item in test])
    model = load_model(model_path, settings.device)
    _write_json(folder / "diversity.json", _diversity(model, test))
    yield from evaluate(model, test, protocol.measured, folder, valid if tested else (), notes)


def _diversity(model: Any, images: Sequence[MaskedImage]) -> dict[str, list[float]]:
    if model.network.settings.bank == "linear":
        return {}
    return bank_diversity(model, images)._asdict()


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


class Summary(NamedTuple):
    """One row under one gate and refiner, over its seeds.

    Attributes:
        seeds: Number of seeds that are done.
        value: Mean over seeds of the mIoU.
        spread: Standard deviation over seeds (n - 1), NaN of one seed.
        interval: 95 % of the mean over seeds, by resampling sources.
        difference: The mean's difference to the first row; None for the first row itself.
        difference_interval: 95 % of it, same resamples.
        iou: (C,) mean over seeds.
        left_out: Indices of the classes in no mean, as too few images hold them.
    """

    seeds: int
    value: float
    spread: float
    interval: tuple[float, float]
    difference: float | None
    difference_interval: tuple[float, float]
    iou: NDArray[np.float64]
    left_out: tuple[int, ...] = ()


def summarise_seeds(
    runs: Sequence[Sequence[ImageResult]], settings: EvaluateSettings
) -> tuple[Summary, NDArray[np.float64]]:
    """Sum up one row's seeds; also returns the resampled means (R,), for paired differences."""
    counts = [sums_per_source(results) for results in runs]
    rates = [rates_of(c.confusion.sum(0), c.boundary.sum(0), settings.background, c.of_mean) for c in counts]
    values = np.array([float(rate["mean_iou"]) for rate in rates])
    resampled = np.full(1, np.nan)
    if len(counts[0].sources) >= MIN_SOURCES and settings.bootstrap:
        drawn = [resampled_rates(c, settings.background, settings.bootstrap, settings.seed) for c in counts]
        resampled = np.mean([rate["mean_iou"] for rate in drawn], axis=0)
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    iou = np.mean([rate["iou"] for rate in rates], axis=0)
    nothing = limits_of(np.full(1, np.nan))
    left_out = tuple(np.flatnonzero(~counts[0].of_mean).tolist())
    found = Summary(len(runs), float(values.mean()), spread, limits_of(resampled), None, nothing, iou, left_out)
    return found, resampled


def table_rows(out: Path, table: str, protocol: Protocol) -> dict[tuple[str, str], dict[str, Summary]]:
    """Collect (gate, refiner) → row name → its summary, from the rows that are done."""
    cells: dict[tuple[str, str], dict[str, Summary]] = {}
    first: dict[tuple[str, str], tuple[float, NDArray[np.float64]]] = {}
    for row in TABLES[table]:
        folders = [out / row.folder / f"seed{seed}" for seed in range(protocol.seeds)]
        stored = [load_results(f / "results.npz") for f in folders if (f / "report.md").exists()]
        for cell in stored[0] if stored else ():
            summary, resampled = summarise_seeds([results[cell] for results in stored], protocol.measured)
            if cell in first:
                value, reference = first[cell]
                interval = limits_of(resampled - reference)
                summary = summary._replace(difference=summary.value - value, difference_interval=interval)
            elif row is TABLES[table][0]:
                first[cell] = summary.value, resampled
            cells.setdefault(cell, {})[row.name] = summary
    return cells


def _write_table(out: Path, table: str, protocol: Protocol) -> Path:
    cells = table_rows(out, table, protocol)
    names = [tissue.name for tissue in protocol.classes]
    reference = TABLES[table][0].name
    lines = [f"# {table}: {markdown(protocol.data.name)}", "", f"**{NOTICE}**", ""]
    lines += [f"Background: {BACKGROUNDS[protocol.measured.background]}. mIoU in percent: mean over seeds ± standard"]
    lines += ["deviation, [95 % interval by resampling sources]; difference with its 95 % interval, paired by source."]
    runs = [out / row.folder / f"seed{seed}" for row in TABLES[table] for seed in range(protocol.seeds)]
    done = sum((folder / "report.md").exists() for folder in runs)
    lines += [f"{done} of {len(runs)} runs are done; the report of each, with images and sources, is in its folder."]
    for (gate, refiner), rows in cells.items():
        lines += ["", f"## Gate: {GATES[gate]}; refiner: {refiner}", ""]  # type: ignore[index]
        columns = ["row", "seeds", "mIoU", f"minus {reference}", *(f"IoU {markdown(name)}" for name in names)]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        if few := [markdown(names[c]) for c in next(iter(rows.values())).left_out]:
            lines[-2:-2] = [f"In too few images, so in no mean: {', '.join(few)}.", ""]
        for name, summary in rows.items():
            against = ""
            if summary.difference is not None:
                against = f"{100 * summary.difference:+.1f} {_interval(summary.difference_interval)}"
            spread = f" ± {_pct(summary.spread)}" if summary.seeds > 1 else ""
            value = f"{_pct(summary.value)}{spread} {_interval(summary.interval)}"
            per_class = " | ".join(_pct(value) for value in summary.iou)
            lines += [f"| {name} | {summary.seeds} | {value} | {against} | {per_class} |"]
    lines += [*_gate_lines(out, table, protocol), *_diversity_lines(out, table, protocol)]
    write_text(out / "table.md", "\n".join(lines) + "\n")
    _write_json(
        out / "table.json",
        [
            {"gate": gate, "refiner": refiner, "row": name, **summary._asdict(), "iou": summary.iou.tolist()}
            for (gate, refiner), rows in cells.items()
            for name, summary in rows.items()
        ],
    )
    return out / "table.md"


def _gate_lines(out: Path, table: str, protocol: Protocol) -> list[str]:
    lines = [
        "",
        "## The gate by itself: presence of classes in images",
        "",
        "In percent: mean over seeds ± deviation.",
        "",
    ]
    lines += ["| row | F1 | AUC | calibration error |", "|---" * 4 + "|"]
    for row in TABLES[table]:
        paths = [out / row.folder / f"seed{seed}" / "report.json" for seed in range(protocol.seeds)]
        found = [read_json(path)["calibration"] for path in paths if path.exists()]
        if found := [values for values in found if values]:
            cells = [[values[name] for values in found] for name in ("f1", "auc", "ece")]
            lines += [f"| {row.name} | {' | '.join(_mean_and_spread(values) for values in cells)} |"]
    return lines


def _mean_and_spread(values: list[float | None]) -> str:
    numbers = np.array([value for value in values if value is not None])
    if not len(numbers):
        return "–"
    return _pct(numbers.mean()) + (f" ± {_pct(numbers.std(ddof=1))}" if len(numbers) > 1 else "")


def _diversity_lines(out: Path, table: str, protocol: Protocol) -> list[str]:
    lines = [
        "",
        "## Diversity of the bank",
        "",
        "Mean over classes and seeds; prototypes after projection to stage 4. Position: 0 where prototypes differ by"
        " tissue, 1 where only by the place in the tile.",
        "",
    ]
    lines += ["| row | effective number | spatial divergence (0 same places, 1 disjoint) | share told by position |"]
    lines += ["|---" * 4 + "|"]
    for row in TABLES[table]:
        paths = [out / row.folder / f"seed{seed}" / "diversity.json" for seed in range(protocol.seeds)]
        found = [values for path in paths if path.exists() and (values := read_json(path))]
        if found:
            means = (_mean([values[name] for values in found]) for name in BankDiversity._fields)
            lines += [f"| {row.name} | {' | '.join(means)} |"]
    return lines


def _mean(values: list[list[float | None]]) -> str:
    """Average the numbers; a class that gave none (one prototype, no image) does not count."""
    numbers = np.array(values, float)
    return f"{np.nanmean(numbers):.2f}" if np.isfinite(numbers).any() else "–"


def _pct(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _interval(limits: tuple[float, float]) -> str:
    return f"[{_pct(limits[0])}, {_pct(limits[1])}]"


class BankDiversity(NamedTuple):
    """Diversity of a model's bank, per class: (C,) lists; NaN where k = 1 or the class is in no image.

    Attributes:
        effective_number: Of the projected stage-4 prototypes, 1..k.
        spatial_divergence: Mean over images of the pairs' divergence on the class's own pixels, 0..1.
        position_share: Share of the prototypes' differences that is the place in the tile, 0..1, over the images that
            hold the class; NaN where there are fewer than two, or they differ in size.
    """

    effective_number: list[float]
    spatial_divergence: list[float]
    position_share: list[float]


@torch.inference_mode()
def bank_diversity(model: LoadedModel, images: Sequence[MaskedImage], temperature: float = 0.07) -> BankDiversity:
    """Diversity of the bank on images with masks; Ω_c is the truth, so that models are compared on the same places.

    Args:
        model: A model with prototypes.
        images: Where to compare their maps.
        temperature: τ; the same for all models that are compared.
    """
    network = model.network
    prototypes = network.projected(STAGES - 1)
    numbers = [effective_number(part) for part in prototypes.cpu().chunk(network.class_count)]
    found: list[list[float]] = [[] for _ in numbers]
    tiles: list[list[Tensor]] = [[] for _ in numbers]
    for item in images if network.k > 1 else ():
        tensor = torch.from_numpy(read_image(item.image)).permute(2, 0, 1)[None].float() / 255
        features = network(tensor.to(model.device), (STAGES - 1,)).features
        cosines = cosine_maps(features, prototypes)[0].cpu()
        mask = torch.from_numpy(read_mask(item.mask, model.card.classes))
        omega = at_places(mask, (cosines.shape[1], cosines.shape[2]))
        for c, maps in enumerate(cosines.chunk(network.class_count)):
            if (omega == c).sum() >= 2:
                found[c].append(spatial_divergence(maps[:, omega == c], temperature))
                tiles[c].append(maps)
    means = [sum(values) / len(values) if values else float("nan") for values in found]
    alike = [len(maps) > 1 and len({m.shape for m in maps}) == 1 for maps in tiles]
    shares = [position_share(torch.stack(maps)) if ok else float("nan") for maps, ok in zip(tiles, alike, strict=True)]
    return BankDiversity(numbers, means, shares)
