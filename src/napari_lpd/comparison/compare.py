"""Compare the prototype banks of models fairly: the same places for all, controls, pairs of resamples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_lpd.comparison.banks import Bank, banks_of, common_temperature, training_sample
from napari_lpd.comparison.cards import PatchSource, hit_spreads, nearest_patches, prototype_cards, vector_figures
from napari_lpd.comparison.metrics import METRICS
from napari_lpd.comparison.observe import bank_maps, drop_counts, observe_tile, stability
from napari_lpd.comparison.result import (
    MIN_SOURCES_FOR_VERDICT,
    BankResult,
    Comparison,
    Difference,
    Example,
    check_comparable,
    compared_banks,
    difference_of,
    figure_of,
    names_of,
    sources_needed,
)
from napari_lpd.comparison.statistics import (
    MIN_LOCATIONS,
    DropCounts,
    Locations,
    NearestLocations,
    bank_figures,
    drop_figures,
)
from napari_lpd.comparison.tiles import as_seen_by, images_for, spread, tiles_of_folder, tiles_of_set, tiles_of_slide
from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.data.images import IGNORE
from napari_lpd.evaluation.metrics import MIN_SOURCES, source_draws
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.encoder import STAGES
from napari_lpd.models.prototypes import DEAD_SHARE, REDUNDANT_COSINE, at_places, chance_overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.comparison.result import Patch
    from napari_lpd.comparison.tiles import Tile
    from napari_lpd.core.settings.evaluation import CompareSettings
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.slides.slide import Slide

    Samples = dict[str, NDArray[np.float64]]
    _Nearest = list[tuple[tuple[Patch, ...], tuple[Patch, ...]]]


class _ComparedModel(NamedTuple):
    """A model, the banks in its space (its own first), and per tile what its masks lose without each prototype."""

    model: LoadedModel
    banks: list[Bank]
    sample: TileSet | None
    read: Callable[[int], NDArray[np.uint8]]
    whole: list[NDArray[np.float64]]  # (C, 2) per tile
    dropped: list[NDArray[np.float64]]  # (C·k, 2) per tile
    no_clusters: str  # why there is no clustered control, where training tiles were given


class _Draws(NamedTuple):
    """How sources are drawn, and which classes have enough of them."""

    weights: NDArray[np.float64]  # (1 + resamplings, S), first row ones
    judged: NDArray[np.bool_]  # (C,)
    fewest: int  # sources of the judged class that has fewest

    @property
    def resamplings(self) -> int:
        return len(self.weights) - 1


def prepare(
    paths: Sequence[Path], data: Path | Slide, settings: CompareSettings, names: Sequence[str] = (), source: str = ""
) -> tuple[list[LoadedModel], list[Tile]]:
    """Load the models to compare, and choose the tiles: of a folder of images, with masks or without, or of a slide.

    Raises:
        SettingsError: another number of `names` than of models.
        ModelError: a model cannot be loaded, or the models do not go together.
        DataError: the folder holds no images.
    """
    called = list(names) or names_of(paths)
    if len(called) != len(paths):
        raise SettingsError(f"{len(called)} names for {len(paths)} models")
    check_comparable([(f"{name} ({path})", read_card(path)) for path, name in zip(paths, called, strict=True)])
    models = [load_model(path, settings.device)._replace(name=name) for path, name in zip(paths, called, strict=True)]
    card = models[0].card
    if isinstance(data, Path):
        return models, tiles_of_folder(data, card.classes, source)
    return models, tiles_of_slide(data, card.settings.mpp, card.settings.tile, settings.slide_tiles)


def compare(
    models: Sequence[LoadedModel], tiles: Sequence[Tile], settings: CompareSettings, training: TileSet | None = None
) -> Job[Comparison]:
    """Compare the prototypes of models on the same places, with controls in each model's space.

    Examples:
        >>> from napari_lpd import CompareSettings, compare, load_model, open_slide, run, samples, tiles_of_slide
        >>> model, settings = load_model(samples.model_path()), CompareSettings(stability_tiles=0, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide:
        ...     tiles = tiles_of_slide(slide, model.card.settings.mpp, model.card.settings.tile, 4)
        ...     comparison = run(compare([model], tiles, settings))
        >>> [bank.kind for bank in comparison.banks]
        ['model', 'random']

    Ω_c is the truth of the masks; without masks, where all models agree. Controls: random directions, and spherical
    k-means of the training tiles' mean features, as PBIP builds its bank, but in the trained encoder's own space.

    Args:
        models: One or more, of different names.
        tiles: What to compare on; all with masks, or none.
        settings: τ, number of patches, resamplings.
        training: Labelled training tiles for nearest patches and the clustered control; None: patches are of `tiles`.

    Raises:
        ModelError: models without two or more prototypes per class, or of different classes, resolution or number.
        SettingsError: models of different τ, and none is set.
        DataError: no place of any class, only part of the tiles have masks, or a tile and its mask differ in size.
    """
    check_comparable([(model.name, model.card) for model in models])
    temperature = settings.temperature or common_temperature(models)
    masked = {tile.read_mask is not None for tile in tiles}
    if len(masked) != 1:
        raise DataError("some of the tiles to compare on have masks and some have none" if tiles else "no tiles")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    truth, classes, k = masked == {True}, models[0].card.classes, models[0].network.k
    sample = training and training_sample(training, settings.training_tiles, k)
    contestants = []
    for model in models:
        own = sample and as_seen_by(model, sample)
        banks, reason = yield from banks_of(model, own, settings, temperature)
        contestants.append(_ComparedModel(model, banks, own, images_for(model, tiles), [], [], reason))
    places = yield from _places(contestants, tiles, settings)
    if not (places.labels < places.class_count).any():
        wanted = ", ".join(f"{c} {tissue.name}" for c, tissue in enumerate(classes))
        where = (
            f"no pixel of any class in the masks; wanted {wanted}"
            if truth
            else "the models agree on a class nowhere; compare on images with masks, or where there is more tissue"
        )
        raise DataError(f"{tiles[0].name} and {len(tiles) - 1} others: {where}")
    draws = _draws(places, settings)
    samples: dict[str, Samples] = {}
    results: list[BankResult] = []
    for done, contestant in enumerate(contestants, start=1):
        nearest = yield from _nearest(contestant, places, tiles, settings)
        for result, found in _results(contestant, places, draws, nearest, truth):
            results.append(result)
            samples[result.name] = found
        yield Progress(done, len(contestants), "figures")
    results.sort(key=lambda result: result.kind != "model")
    return Comparison(
        classes=classes,
        k=k,
        temperature=temperature,
        reference="truth" if truth else "agreement",
        resamplings=draws.resamplings,
        judged=tuple(tissue.name for tissue, of_mean in zip(classes, draws.judged, strict=True) if of_mean),
        chance_overlap=_chance(places),
        fewest_sources=draws.fewest,
        tiles=len(tiles),
        sources=int(places.source.max()) + 1,
        models=tuple(model.name for model in models),
        banks=tuple(results),
        differences=tuple(_differences(results, samples, draws)),
        examples=tuple(_examples(contestants, tiles, places)),
        notes=tuple(_notes(contestants, places, truth, sample)),
    )


def _places(contestants: Sequence[_ComparedModel], tiles: Sequence[Tile], settings: CompareSettings) -> Job[Locations]:
    """Look at every tile; returns where the banks are compared."""
    watched = set(spread(len(tiles), settings.stability_tiles).tolist()) if settings.stability_tiles else set()
    reference = []
    for i, tile in enumerate(tiles):
        reference.append(_look(contestants, i, tile, watch=i in watched))
        yield Progress(i + 1, len(tiles), "tiles")
    source = np.unique([tile.source for tile in tiles], return_inverse=True)[1]
    return Locations(contestants[0].model.network.class_count, reference, source.astype(np.int64))


def _draws(places: Locations, settings: CompareSettings) -> _Draws:
    """Resamples of the sources; none where no class has enough of them, and then every class that occurs is judged."""
    held, count = _sources_per_class(places), int(places.source.max()) + 1
    needed = sources_needed(held)
    resamplings = settings.bootstrap if needed >= MIN_SOURCES else 0
    weights = np.vstack([np.ones(count), source_draws(count, resamplings, settings.seed)])
    judged = held >= (needed if resamplings else 1)
    return _Draws(weights, judged, int(held[judged].min()))


def _look(contestants: Sequence[_ComparedModel], index: int, tile: Tile, *, watch: bool) -> NDArray[np.uint8]:
    """Add a tile to all records; returns its reference (h, w)."""
    images = [contestant.read(index) for contestant in contestants]
    seen = [observe_tile(contestant.model, image) for contestant, image in zip(contestants, images, strict=True)]
    truth = tile.read_mask() if tile.read_mask else _agreement([found.labels for found in seen])
    if truth.shape != images[0].shape[:2]:
        raise DataError(f"{tile.name}: {images[0].shape[:2]} pixels, but its mask has {truth.shape}")
    height, width = (max(found.features.shape[axis] for found in seen) for axis in (2, 3))
    reference = at_places(torch.from_numpy(truth), (height, width)).numpy()
    counted = torch.from_numpy(reference < contestants[0].model.network.class_count)
    for contestant, found, image in zip(contestants, seen, images, strict=True):
        model, vectors = contestant.model, [bank.vectors for bank in contestant.banks]
        maps = [bank_maps(found.features, part, (height, width)) for part in vectors]
        stable: list[NDArray[np.float64] | None] = [None] * len(maps)
        if watch and counted.sum() >= 2:
            stable = list(stability(model, image, vectors, maps, counted))
        for bank, part, correlations in zip(contestant.banks, maps, stable, strict=True):
            bank.record.add(part, reference, correlations)
        whole, dropped = drop_counts(model, image, found, truth)
        contestant.whole.append(whole)
        contestant.dropped.append(dropped)
    return reference


def _agreement(labels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    same = np.all([part == labels[0] for part in labels], axis=0)
    return np.where(same, labels[0], IGNORE).astype(np.uint8)


def _measured(contestant: _ComparedModel, places: Locations, tiles: Sequence[Tile]) -> PatchSource:
    """Return the measured tiles, to find nearest patches in."""
    grids = [(grid.shape[0], grid.shape[1]) for grid in places.reference]
    return PatchSource(contestant.banks[0].record.hits(places), grids, tiles)


@torch.inference_mode()
def _search(model: LoadedModel, sample: TileSet) -> Job[PatchSource]:
    """Score the training tiles, to find nearest patches in."""
    found, grids = [], []
    for i in range(len(sample)):
        maps = model.network(torch.from_numpy(sample[i][0])[None].to(model.device).float() / 255, (STAGES - 1,))
        grid = (maps.features.shape[2], maps.features.shape[3])
        found.append(bank_maps(maps.features, maps.prototypes, grid).flatten(1).max(1))
        grids.append(grid)
        yield Progress(i + 1, len(sample), f"nearest patches of {model.name}")
    cosines, place = (torch.stack(part).numpy() for part in zip(*found, strict=True))
    return PatchSource(NearestLocations(cosines, place, np.zeros_like(place)), grids, tiles_of_set(sample))


def _nearest(
    contestant: _ComparedModel, places: Locations, tiles: Sequence[Tile], settings: CompareSettings
) -> Job[_Nearest]:
    """Find per prototype its patches in training tiles, where there are any, and on request in `tiles`."""
    measured, most, count = _measured(contestant, places, tiles), settings.nearest_per_source, settings.nearest
    every = range(contestant.model.network.prototype_count)
    if contestant.sample is None or not count:
        return [(nearest_patches(measured, j, count, most), ()) for j in every]
    searched = yield from _search(contestant.model, contestant.sample)
    wanted = settings.nearest_places
    return [(nearest_patches(searched, j, count, most), nearest_patches(measured, j, wanted, most)) for j in every]


def _results(
    contestant: _ComparedModel,
    places: Locations,
    draws: _Draws,
    nearest: _Nearest,
    truth: bool,
) -> Iterator[tuple[BankResult, Samples]]:
    """Figures and cards of the banks in a model's space, with the judged classes' resamples."""
    for bank in contestant.banks:
        found, losses = _samples(bank, contestant, places, draws.weights)
        if not truth:
            found.pop("iou", None)  # where all models agree it is 1 for each of them
        own = bank.kind == "model"
        cards = prototype_cards(bank.vectors, bank.record, places, losses, nearest if own else [])
        known = [metric.name for metric in METRICS if metric.name in found]
        figures = {name: figure_of(found[name], draws.judged) for name in known}
        result = BankResult(bank.name, bank.kind, contestant.model.name, figures, cards)
        yield result, {name: found[name][:, draws.judged] for name in known}


def _samples(
    bank: Bank, contestant: _ComparedModel, places: Locations, weights: NDArray[np.float64]
) -> tuple[Samples, NDArray[np.float64] | None]:
    """Figures of a bank for every resample, and what each prototype of a model's own gives to its masks."""
    samples = bank_figures(bank.record, places, weights) | vector_figures(bank.vectors, bank.record, places)
    samples["source_spread"] = hit_spreads(bank.record, places).reshape(places.class_count, -1).mean(1)[None]
    if bank.kind != "model":
        return samples, None
    counts = DropCounts(np.array(contestant.whole), np.array(contestant.dropped))
    dropped = drop_figures(counts, places, weights)
    losses = dropped.pop("prototype_loss")[0]
    return samples | dropped, losses


def _differences(banks: Sequence[BankResult], samples: dict[str, Samples], draws: _Draws) -> Iterator[Difference]:
    """Compute the differences of all pairs; without a verdict where too few slides or patients lean one way."""
    for first, second in compared_banks(banks):
        for metric in METRICS:
            if metric.name in first.figures and metric.name in second.figures:
                pair = (samples[first.name][metric.name], samples[second.name][metric.name])
                found = difference_of(metric, (first.name, second.name), *pair)
                yield found if draws.fewest >= MIN_SOURCES_FOR_VERDICT else found._replace(verdict="")


def _sources_per_class(places: Locations) -> NDArray[np.int64]:
    labels, of_place = places.labels, places.place_source
    return np.array([len(np.unique(of_place[labels == c])) for c in range(places.class_count)])


def _chance(places: Locations) -> float:
    """Focus overlap of unrelated prototypes, mean over what `focus_overlap` is the mean of."""
    sizes = [int((grid == c).sum()) for grid in places.reference for c in range(places.class_count)]
    return float(np.mean([chance_overlap(n) for n in sizes if n >= MIN_LOCATIONS] or [np.nan]))


def _examples(contestants: Sequence[_ComparedModel], tiles: Sequence[Tile], places: Locations) -> Iterator[Example]:
    """Choose per class the tile of which it covers nearest to a half, whatever the models show there."""
    k = contestants[0].model.network.k
    for c in range(places.class_count):
        shares = np.array([(grid == c).mean() for grid in places.reference])
        if not shares.any():
            continue
        i = int(np.abs(shares - 0.5).argmin())
        image = tiles[i].read()
        masks = [observe_tile(contestant.model, image).labels for contestant in contestants]
        read_mask = tiles[i].read_mask
        own = slice(c * k, (c + 1) * k)
        yield Example(
            class_index=c,
            tile=tiles[i].name,
            image=image,
            reference=read_mask() if read_mask else _agreement(masks),
            masks=tuple(masks),
            heatmaps=tuple(contestant.banks[0].record.maps[i][own] for contestant in contestants),
        )


def _notes(
    contestants: Sequence[_ComparedModel], places: Locations, truth: bool, sample: TileSet | None
) -> Iterator[str]:
    """List what the reader has to know of the data, the models and the intervals."""
    models = [contestant.model for contestant in contestants]
    names = [tissue.name for tissue in models[0].card.classes]
    yield (
        "Places of a class (Ω): the masks' truth."
        if truth
        else "There are no masks: places of a class (Ω) are those where all models agree. Coverage, purity, lift and"
        " faithfulness then say how a model agrees with the others, not whether it is right."
    )
    held = _sources_per_class(places)
    counts = np.bincount(places.labels, minlength=256)
    yield "Places: " + ", ".join(f"{n} {counts[c]} of {held[c]} source(s)" for c, n in enumerate(names)) + "."
    if empty := [name for name, n in zip(names, held, strict=True) if not n]:
        yield f"No place of {', '.join(empty)}: in no mean."
    if held.max() < MIN_SOURCES:
        yield (
            f"No intervals and no verdicts: {held.max()} source(s) (slides or patients), wanted {MIN_SOURCES} or"
            " more with the same class."
        )
    elif few := [name for name, n in zip(names, held, strict=True) if 0 < n < sources_needed(held)]:
        yield (
            f"From fewer than {sources_needed(held)} sources, too few to tell: {', '.join(few)}: in no mean and no"
            " difference, only in the table of tissues."
        )
    causes = {"encoder": "model.encoder", "seed": "seed", "number of steps": "steps", "tiles": "tiles"}
    for label, value in causes.items():
        found = [_of_card(model, value) for model in models]
        if len(set(found)) > 1:
            yield f"Not trained alike: {label} {' and '.join(map(str, found))}."
    yield (
        "Controls: random directions in the space of each model's stage-4 features"
        + ("." if sample is None else f", and k-means centres of {len(sample)} training tiles' mean features there.")
    )
    for contestant in contestants:
        if contestant.no_clusters:
            yield f"No clusters in {contestant.model.name}'s space: {contestant.no_clusters}."
    if sample is None:
        yield "No training tiles were given: no clustered control, and nearest patches are from the measured tiles."
    yield (
        f"A prototype is dead where it reaches the class's threshold on less than {DEAD_SHARE:.0%} of its places,"
        f" redundant where its cosine to a sibling is {REDUNDANT_COSINE:g} or more."
    )


def _of_card(model: LoadedModel, name: str) -> object:
    found: object = model.card if name in ("steps", "tiles") else model.card.settings
    for part in name.split("."):
        found = getattr(found, part)
    return found
