"""From slide to Prediction: raw cosine maps are blended over the slide, then the CAM rules act block by block.

Every pixel of the result depends on the slide around it, the model and the settings alone: not on the other blocks, on
the scope, or on where an earlier run was stopped. Memory does not grow with the height of the slide: maps are held only
where blocks still wait for them.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
import torch
from torch import Tensor

from napari_lpd.cam import (
    GATED_BY,
    class_presence,
    highest,
    label_scores,
    probabilities,
    uncertainty,
    upsampled,
)
from napari_lpd.checkpoint import matched_to
from napari_lpd.colour import colours_of_slide, slide_matcher, warning_of
from napari_lpd.errors import SettingsError
from napari_lpd.inference import TileScorer, choose_backend, stages_needed
from napari_lpd.jobs import WARNING, Job, Progress
from napari_lpd.memory import freed_memory_is_kept
from napari_lpd.model import (
    STAGES_USED,
    LoadedModel,
    choose_precision,
    merge_prototypes,
    output_stride,
    presence_scores,
)
from napari_lpd.prediction import UNREADABLE, BlockResult, Prediction, PredictionCard
from napari_lpd.stages import in_order, overlapping
from napari_lpd.tiles import Stitcher, TileGrid, pieces_of
from napari_lpd.tissue import Mask, everything, find_tissue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.config import PredictSettings
    from napari_lpd.slide import Slide
    from napari_lpd.tiles import Block, Box, Origin

SAMPLED_TILES = 64  # tiles on which a slide's own levels are measured
CRF_REACH = 3  # standard deviations of its kernels
NO_TISSUE = "look at the tissue mask and give another one, or predict everything (tissue_only=false)"


@torch.inference_mode()
def predict_slide(
    slide: Slide,
    model: LoadedModel,
    settings: PredictSettings,
    folder: Path,
    scope: Sequence[shapely.Geometry] = (),
    tissue: Mask | None = None,
    replace: bool = False,
) -> Job[Prediction]:
    """Predict a whole slide, or what lies in `scope`, into `folder`; go on where an earlier run was stopped.

    Yields the progress; a message that begins with "warning: " is one to be kept in sight.

    Args:
        slide: What is read.
        model: What predicts.
        settings: How.
        folder: ``NAME.zarr``; the same prediction, half done, is continued.
        scope: Polygons, (x, y) in µm from the slide's corner; empty: the whole slide.
        tissue: The tissue; default: as `find_tissue` sees it, or everything where `settings.tissue_only` is off.
        replace: Delete another prediction that is in the place.

    Raises:
        SlideError: no resolution.
        SettingsError: a polygon is empty or lies outside the slide.
        ExportError: the place cannot be written, or holds something else.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    card = prediction_card(slide, model, settings, scope, tissue)
    yield Progress(0, 0, "looking for tissue")

    def prepare() -> tuple[Mask, list[list[float]]]:
        found = tissue or (find_tissue(slide) if settings.tissue_only else everything(slide))
        return found, levels_of_maps(slide, model, card, found)

    prediction = Prediction.start(folder, card, prepare, replace)
    if not prediction.finished:
        if foreign := colour_warning(slide, model, prediction):
            yield Progress(0, 0, WARNING + foreign)
        run = _Run(slide, model, prediction)
        if not run.waiting and not prediction.done():
            yield Progress(
                0, 0, f"{WARNING}no tissue was found there in {slide.name}, so nothing is labelled; {NO_TISSUE}"
            )
        with freed_memory_is_kept():
            yield from run.steps()
        prediction.finish()
    return prediction


def colour_warning(slide: Slide, model: LoadedModel, prediction: Prediction) -> str:
    """What is to be said where a slide's colours are far from those the model was trained on; "" where they are not."""
    card = model.card
    if card.colours is None or matched_to(card):
        return ""
    seen = colours_of_slide(slide, prediction.tissue, prediction.card.mpp, card.settings.tile)
    return "" if seen is None else warning_of(card.colours.departure(seen))


def prediction_card(
    slide: Slide,
    model: LoadedModel,
    settings: PredictSettings,
    scope: Sequence[shapely.Geometry] = (),
    tissue: Mask | None = None,
) -> PredictionCard:
    """The card of a prediction to come; arguments and errors as for `predict_slide`."""
    mpp = settings.mpp or model.card.settings.mpp
    height, width = slide.shape_at(mpp)
    extent = shapely.box(0, 0, width * mpp, height * mpp)
    for polygon in scope:
        if not polygon.intersection(extent).area:
            x0, y0, x1, y1 = polygon.bounds
            raise SettingsError(
                f"{slide.name}: a region is empty or outside the slide: x {x0:.0f}..{x1:.0f}, y {y0:.0f}..{y1:.0f} µm"
                f" of a slide of {width * mpp:.0f} x {height * mpp:.0f} µm; is it another slide's?"
            )
    stride = output_stride(model.network)
    if settings.block % stride:
        raise SettingsError(f"block={settings.block} is not a multiple of the maps' stride {stride}")
    precision = choose_precision(settings.precision, model.device)
    chosen = {
        "backend": choose_backend(settings.backend, model.device, settings.precision),
        "precision": "float32" if precision is None else str(precision).removeprefix("torch."),
    }
    source = "found" if settings.tissue_only else "everything"
    if tissue is not None:
        source = f"given ({hashlib.sha256(np.packbits(tissue.array).tobytes()).hexdigest()[:16]})"
    return PredictionCard(
        classes=model.card.classes,
        prototypes_per_class=model.network.k,
        mpp=mpp,
        shape=(height, width),
        stride=stride,
        block=settings.block,
        slide=slide.name,
        slide_mpp=slide.mpp,
        slide_shape=slide.shape,
        slide_hash=slide.fingerprint,
        mpp_source=slide.mpp_source,
        model=model.name,
        model_hash=model.hash,
        temperature=model.card.temperature,
        settings=settings.model_copy(update=chosen),
        tissue=source,
        scope=tuple(shapely.to_wkt(polygon.intersection(extent), rounding_precision=-1) for polygon in scope),
    )


def tile_grid(settings: PredictSettings, stride: int) -> TileGrid:
    """The grid of `settings`: the outer third of an overlap is dropped as a tile's border, the rest is blended."""
    overlap = settings.overlap - settings.overlap % (2 * stride)
    return TileGrid(settings.tile - settings.tile % stride, overlap, overlap // 3 // stride * stride)


def levels_of_maps(slide: Slide, model: LoadedModel, card: PredictionCard, tissue: Mask) -> list[list[float]]:
    """(3, C) level that counts as 1 in the class maps: of the training tiles, or of tiles spread over the slide.

    On the slide it is what training takes: the highest over the classes of the 99th percentile of a class's merged map,
    on those of up to 64 tiles in which the model sees the class; where it sees none, the training's level stays.
    """
    levels = [list(scale) for scale in model.card.map_scale]
    if card.settings.normalise == "training":
        return levels
    if card.settings.normalise == "benchmark":
        return [[1.0] * len(card.classes) for _ in levels]
    grid, how = tile_grid(card.settings, card.stride), model.network.settings
    tiles = [o for o in grid.touching((0, 0, *card.shape)) if _holds(tissue, grid.kept(o), card.mpp)]
    spread = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), SAMPLED_TILES)).astype(int))
    found: dict[tuple[int, int], list[float]] = {}
    match = slide_matcher(slide, matched_to(model.card), tissue, card.mpp, model.card.settings.tile)
    scorer = TileScorer(model, card.settings)
    for index in spread:
        pixels = match(slide.read_tolerant(tiles[index], (grid.tile, grid.tile), card.mpp)[0])
        parts = scorer(pixels[None])[0].split(model.network.prototype_count)
        stages = dict(zip(stages_needed(model), parts, strict=True))
        means = [merge_prototypes(stages[i].mean((1, 2))[None], model.network.k, how.merge_train)[0] for i in GATED_BY]
        there = presence_scores(means) >= torch.tensor(model.card.presence)
        for i, maps in stages.items():
            merged = merge_prototypes(maps[None], model.network.k, how.merge_predict)[0].clamp(min=0)
            for c in torch.nonzero(there).flatten().tolist():
                found.setdefault((i, c), []).append(float(np.percentile(merged[c].numpy(), 99)))
    for i, stage in enumerate(levels):
        seen = [float(np.mean(values)) for (where, _), values in found.items() if where == i]
        levels[i] = [max(*seen, 1e-3)] * len(stage) if seen else stage
    return levels


def _holds(tissue: Mask, box: Box, mpp: float) -> bool:
    """Whether any of the mask's pixels that a box touches is tissue."""
    y0, x0, y1, x1 = (value * mpp / tissue.mpp for value in box)
    return bool(tissue.array[max(int(y0), 0) : max(math.ceil(y1), 0), max(int(x0), 0) : max(math.ceil(x1), 0)].any())


class _Piece(NamedTuple):
    """Tiles that are read together.

    Attributes:
        origins: Their first pixels.
        pixels: (h, w, 3) uint8.
        corner: Of the pixels.
        damaged: What of it could not be read.
    """

    origins: list[Origin]
    pixels: NDArray[np.uint8]
    corner: Origin
    damaged: frozenset[Box]


class _Batch(NamedTuple):
    """Tiles that are scored together: (B, h, w, 3) uint8, and what was damaged in their piece."""

    origins: list[Origin]
    tiles: NDArray[np.uint8]
    damaged: frozenset[Box]


class _Run:
    """One run over the blocks that are not done yet."""

    def __init__(self, slide: Slide, model: LoadedModel, prediction: Prediction) -> None:
        card = prediction.card
        self.slide, self.model, self.prediction, self.card = slide, model, prediction, card
        self.grid = tile_grid(card.settings, card.stride)
        edge, wanted = model.card.settings.tile, matched_to(model.card)
        self.match = slide_matcher(slide, wanted, prediction.tissue, card.mpp, edge)
        self.scorer = TileScorer(model, card.settings)
        self.window = model.card.settings.tile // card.stride | 1
        self.crf = card.settings.crf.in_pixels(card.mpp)
        reach = 2 * math.ceil(CRF_REACH * max(self.crf.gaussian_sigma, self.crf.bilateral_sigma) / 2)
        self.crf_halo = 0 if card.settings.refiner == "none" else reach
        self.threads = torch.get_num_threads()  # of the CRF: torch itself has one alone where blocks are written
        self.damaged: frozenset[Box] = frozenset()
        done, limits = prediction.done(), prediction.bounds()
        rows, columns = (range(limits[i] // card.block, -(-limits[i + 2] // card.block)) for i in (0, 1))
        self.users: dict[Origin, list[Block]] = {}
        self.waiting: dict[Block, int] = {}
        for block in ((y, x) for y in rows for x in columns):
            if block not in done and _holds(prediction.tissue, self._box(block), card.mpp):
                self._plan(block)

    def _box(self, block: Block) -> Box:
        """The pixels of a block, within the slide."""
        (y, x), size, (h, w) = block, self.card.block, self.card.shape
        return y * size, x * size, min((y + 1) * size, h), min((x + 1) * size, w)

    def _active(self, block: Block) -> Box:
        """The map pixels of a block that touch the scope; all of it for the CRF, which sees the block as one."""
        box, stride = self._box(block), self.card.stride
        limits = box if self.crf_halo else self.prediction.bounds()
        y0, x0 = (max(box[i], limits[i]) // stride for i in (0, 1))
        y1, x1 = (-(-min(box[i], limits[i]) // stride) for i in (2, 3))
        return y0, x0, y1, x1

    def _needed(self, block: Block) -> Box:
        """The map pixels on which a block depends: the gate's window, the CRF's reach and one for upsampling."""
        stride = self.card.stride
        halo = self.window // 2 + -(-self.crf_halo // stride) + 1
        h, w = (-(-n // stride) for n in self.card.shape)
        y0, x0, y1, x1 = self._active(block)
        return max(y0 - halo, 0), max(x0 - halo, 0), min(y1 + halo, h), min(x1 + halo, w)

    def _plan(self, block: Block) -> None:
        """Note the tiles that a block waits for; tiles without tissue are not looked at, whatever the scope."""
        y0, x0, y1, x1 = (value * self.card.stride for value in self._needed(block))
        tiles = [
            origin
            for origin in self.grid.touching((y0, x0, y1, x1))
            if origin in self.users or _holds(self.prediction.tissue, self.grid.kept(origin), self.card.mpp)
        ]
        self.waiting[block] = len(tiles)
        for origin in tiles:
            self.users.setdefault(origin, []).append(block)

    def steps(self) -> Iterator[Progress]:
        """Score the tiles, piece by piece; put every block together and write it once its tiles are there."""
        network, stride = self.model.network, self.card.stride
        channels = len(stages_needed(self.model)) * network.prototype_count
        needed = {block: self._needed(block) for block in self.waiting}
        stitcher = Stitcher(self.grid, channels, stride, self.card.block, needed.values())
        done, written = 0, None
        with overlapping(self.model.device) as at:
            read = in_order(at.readers, self._read, pieces_of(self.grid, self.users), at.reading)
            for batch, maps in in_order(at.scorers, self._scored, self._batches(read), at.scoring):
                self.damaged = self.damaged | batch.damaged  # a new set: the writer may be looking at the old one
                for origin, own in zip(batch.origins, maps, strict=True):
                    stitcher.add(origin, own)
                done += len(batch.origins)
                yield from (Progress(done, len(self.users), WARNING + said) for said in self.scorer.warnings())
                yield Progress(done, len(self.users), "tiles")
                for block in self._completed(batch.origins):
                    blended = stitcher.read(needed[block])
                    stitcher.release(needed[block])
                    if written is not None:
                        written.result()
                    written = at.writer.submit(self._finish, block, *blended, self.damaged)
                    yield Progress(done, len(self.users), "tiles")
            if written is not None:
                written.result()

    def _batches(self, pieces: Iterable[_Piece]) -> Iterator[_Batch]:
        """The tiles of pieces, cut out; fewer at a time where memory did not suffice for more."""
        for piece in pieces:
            (top, left), first = piece.corner, 0
            while first < len(piece.origins):
                origins = piece.origins[first : first + self.scorer.batch]
                tiles = np.stack([_cut(piece.pixels, (y - top, x - left), self.grid.tile) for y, x in origins])
                yield _Batch(origins, tiles, piece.damaged)
                first += len(origins)

    def _scored(self, batch: _Batch) -> tuple[_Batch, NDArray[np.float32]]:
        """The batch and its maps; runs beside reading, blending and writing."""
        return batch, self.scorer(batch.tiles).numpy()

    def _completed(self, origins: list[Origin]) -> list[Block]:
        """The blocks for which these tiles were the last."""
        completed = []
        for block in (block for origin in origins for block in self.users[origin]):
            self.waiting[block] -= 1
            if not self.waiting[block]:
                completed.append(block)
        return completed

    def _read(self, origins: list[Origin]) -> _Piece:
        """The piece in which these tiles lie: all of it, as resampling depends on where one begins."""
        y0, x0, y1, x1 = self.grid.piece_box(origins[0])
        pixels, damaged = self.slide.read_tolerant((y0, x0), (y1 - y0, x1 - x0), self.card.mpp)
        return _Piece(origins, self.match(pixels), (y0, x0), frozenset(damaged))

    @torch.inference_mode()
    def _finish(
        self, block: Block, maps: NDArray[np.float32], known: NDArray[np.bool_], damaged: frozenset[Box]
    ) -> None:
        """Put a block together and write it; runs beside the model."""
        self.prediction.write_block(block, self._put_together(block, maps, known, damaged))

    def _put_together(
        self, block: Block, maps: NDArray[np.float32], known: NDArray[np.bool_], damaged: frozenset[Box]
    ) -> BlockResult:
        """Apply the CAM rules to the blended maps of a block and its halo."""
        card, network, (y0, x0, y1, x1) = self.card, self.model.network, self._needed(block)
        tissue = self.prediction.tissue.at((y0, x0), (y1 - y0, x1 - x0), card.mpp * card.stride)
        parts = torch.from_numpy(maps).split(network.prototype_count)
        stages = dict(zip(stages_needed(self.model), parts, strict=True))
        counted = torch.from_numpy(tissue & known)
        gating = [stages[i] for i in GATED_BY]
        presence = class_presence(gating, network.k, self.window, counted, network.settings.merge_train)
        scores = label_scores(stages, presence, self.prediction.map_scale, self.model, card.settings)
        labels, cells = self._labels(block, scores, damaged)

        box, (top, left, bottom, right) = self._box(block), self._active(block)
        inside = (..., slice(top - y0, bottom - y0), slice(left - x0, right - x0))
        place = (..., slice(top - box[0] // card.stride, bottom - box[0] // card.stride),
                 slice(left - box[1] // card.stride, right - box[1] // card.stride))  # fmt: skip
        cosines = self._cosines(stages)[inside].unflatten(0, (-1, network.k))

        def whole(values: Tensor, lowest: int) -> NDArray[np.uint8]:
            """0..1 → `lowest`..255 in the block; 0 where nothing was predicted."""
            result = np.zeros((*values.shape[:-2], *cells.shape), np.uint8)
            result[place] = lowest + (values.clamp(0, 1) * (255 - lowest)).round().to(torch.uint8).numpy()
            return result * cells

        return BlockResult(
            labels,
            whole(scores[1:][inside], 0),
            whole((cosines + 1) / 2, 1),
            whole(uncertainty(scores, card.temperature)[inside], 1),
        )

    def _cosines(self, stages: dict[int, Tensor]) -> Tensor:
        """The prototypes' cosines (C·k, h, w), fused like the class maps."""
        scales = self.model.network.scales.detach().cpu()
        fused = self.model.network.settings.stage_fusion
        total = [weight * stages[i] / scales[STAGES_USED[i]] for i, weight in enumerate(fused) if weight]
        return torch.stack(total).sum(0) / sum(fused)

    def _labels(
        self, block: Block, scores: Tensor, damaged: frozenset[Box]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Labels of a block's pixels (h, w), and which map pixels were predicted (h / stride, w / stride)."""
        card, (y0, x0, y1, x1), need = self.card, self._box(block), self._needed(block)
        shape, stride = (y1 - y0, x1 - x0), card.stride
        scope = self.prediction.in_scope((y0, x0), shape)
        wanted = self.prediction.tissue.at((y0, x0), shape, card.mpp) & scope
        top, left, bottom, right = (value * stride for value in self._active(block))
        halo, (h, w) = self.crf_halo, card.shape
        seen = (max(top - halo, 0), max(left - halo, 0), min(bottom + halo, h), min(right + halo, w))
        fine = upsampled(scores, stride)[
            :,
            seen[0] - need[0] * stride : seen[2] - need[0] * stride,
            seen[1] - need[1] * stride : seen[3] - need[1] * stride,
        ]
        winner = self._refined(fine, seen) if halo else highest(fine)
        winner = winner[top - seen[0] : bottom - seen[0], left - seen[1] : right - seen[1]]
        labels = np.zeros(shape, np.uint8)
        labels[top - y0 : bottom - y0, left - x0 : right - x0] = winner[: y1 - top, : x1 - left]
        labels[~wanted] = 0
        whole = np.pad(wanted, [(0, -n % stride) for n in wanted.shape])
        cells = np.asarray(whole.reshape(len(whole) // stride, stride, -1, stride).any((1, 3)))
        for a, b, c, d in damaged:
            place = (slice(max(a - y0, 0), max(c - y0, 0)), slice(max(b - x0, 0), max(d - x0, 0)))
            labels[place] = np.where(scope[place], UNREADABLE, labels[place])
        return labels, cells

    def _refined(self, fine: Tensor, seen: Box) -> NDArray[np.uint8]:
        """Winner after the dense CRF; a class that the gate shuts out stays out."""
        from napari_lpd.refine import dense_crf

        y0, x0, y1, x1 = seen
        image, _ = self.slide.read_tolerant((y0, x0), (y1 - y0, x1 - x0), self.card.mpp)
        shares = probabilities(fine).numpy()
        refiner = self.card.settings.refiner
        assert refiner != "none"
        refined = dense_crf(image, shares, self.crf, refiner, str(self.model.device), self.threads)
        return np.where(shares > 0, refined, -1).argmax(0).astype(np.uint8)


def _cut(pixels: NDArray[np.uint8], origin: Origin, tile: int) -> NDArray[np.uint8]:
    y, x = origin
    return pixels[y : y + tile, x : x + tile]
