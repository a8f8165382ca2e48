"""From slide to Prediction: raw cosine maps are blended over the slide, then the CAM rules act block by block.

Every pixel of the result depends on the slide around it, the model and the settings alone: not on the other blocks, on
the scope, or on where an earlier run was stopped. Memory does not grow with the height of the slide: maps are held only
where blocks still wait for them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
import torch
from torch import Tensor

from napari_lpd.core.errors import ChangedSlideError, DataError, ModelError, SettingsError
from napari_lpd.core.geometry import multiplied
from napari_lpd.core.jobs import WARNING, Job, Progress
from napari_lpd.core.locks import beside, locked
from napari_lpd.core.outputs import check_outputs, check_text
from napari_lpd.data.geojson import Frame
from napari_lpd.models.cam import class_maps
from napari_lpd.models.card import target_stain
from napari_lpd.models.compute import choose_backend, choose_precision
from napari_lpd.models.network import LoadedModel, output_channels, output_stride, used_stages
from napari_lpd.prediction.blocks import BlockAssembler
from napari_lpd.prediction.pipeline import TORCH_THREADS, keep_freed_memory, map_in_order, worker_pools
from napari_lpd.prediction.relabel import finishing, relabelling, why_empty
from napari_lpd.prediction.tile_scorer import TileScorer
from napari_lpd.prediction.tiling import Stitcher, TileShape, Tiling
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.create import start_prediction
from napari_lpd.slides.slide import NO_PROFILE
from napari_lpd.slides.stain import colours_of_slide, slide_matcher, warning_of
from napari_lpd.slides.tissue import TissueMask, find_tissue, full_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.core.settings.prediction import PredictSettings
    from napari_lpd.prediction.tiling import Origin, Piece
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.slide import Slide

SAMPLED_TILES = 64  # tiles on which a slide's own levels are measured


@torch.inference_mode()
def predict_slide(
    slide: Slide,
    model: LoadedModel,
    settings: PredictSettings,
    folder: Path,
    scope: Sequence[shapely.Geometry] = (),
    tissue: TissueMask | None = None,
    replace: bool = False,
) -> Job[Prediction]:
    """Predict a whole slide, or what lies in `scope`, into `folder`; continue where an earlier run was stopped.

    Yields the progress; a message that begins with "warning: " is one to be kept in sight.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from shapely import box
        >>> from napari_lpd import PredictSettings, load_model, open_slide, predict_slide, run, samples
        >>> model, settings = load_model(samples.model_path()), PredictSettings(tile=256, overlap=64, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide, tempfile.TemporaryDirectory() as folder:
        ...     place = [box(1000, 1000, 1300, 1300)]  # µm
        ...     result = run(predict_slide(slide, model, settings, Path(folder, "skin.zarr"), place))
        ...     areas = result.area_mm2()
        >>> max(areas, key=areas.get)
        'naevus nests'

    Args:
        slide: What is read.
        model: What predicts.
        settings: How.
        folder: ``NAME.zarr``; the same prediction, half done, is continued.
        scope: Polygons, (x, y) in µm from the slide's corner; empty: the whole slide.
        tissue: The tissue; default: as `find_tissue` sees it, or everything where `settings.tissue_only` is off.
        replace: Delete another prediction that is in the place.

    Raises:
        DataError: a polygon lies all on glass.
        SlideError: no resolution, or the slide's file is changed while it is predicted.
        SettingsError: a polygon is empty or lies outside the slide.
        ExportError: the place cannot be written, holds something else, or another process is writing there.
        ModelError: a GPU's memory does not suffice; what is done is kept.
    """
    check_outputs([folder, beside(folder)], [slide.path])
    for name in (slide.name, model.name):
        check_text(Path(name))
    torch.set_num_threads(settings.threads or TORCH_THREADS)
    card = prediction_card(slide, model, settings, scope, tissue)
    yield Progress(0, 0, "looking for tissue")
    warnings = list(slide.notes)

    def prepare() -> tuple[TissueMask, list[list[float]]]:
        found = tissue or (find_tissue(slide) if settings.tissue_only else full_mask(slide))
        check_scope(slide.name, scope, found)
        if line := found.warning():
            warnings.append(line)
        return found, levels_of_maps(slide, model, card, found)

    with locked(beside(folder), folder):
        prediction = start_prediction(folder, card, prepare, replace)
        prediction.found_finished = prediction.finished
        yield from (Progress(0, 0, WARNING + line) for line in prediction.warnings)
        yield from (Progress(0, 0, WARNING + line) for line in warnings if prediction.warn(line))
        other_labels = card.settings.labels != prediction.card.settings.labels
        half_cleaned = prediction.cleaned and not prediction.finished
        if settings.refiner != "none" and (other_labels or half_cleaned):
            prediction.begin_relabelling(card.settings.labels)  # labels after the CRF are not made of maps alone
            prediction.forget(prediction.finished_blocks())
        if not prediction.finished:
            yield from _completed(slide, model, prediction)
        if card.settings.labels != prediction.card.settings.labels:
            yield from relabelling(prediction, card.settings.labels)
        if (line := why_empty(prediction)) and prediction.warn(line):
            yield Progress(0, 0, WARNING + line)
    return prediction


def _completed(slide: Slide, model: LoadedModel, prediction: Prediction) -> Iterator[Progress]:
    """Predict all that is left and finish the prediction."""
    run = SlidePredictor(slide, model, prediction)
    with keep_freed_memory():
        try:
            yield from run.steps()
            slide.check_unchanged(thorough=True)
        except ChangedSlideError as error:
            prediction.forget(run.written)
            raise ChangedSlideError(
                f"{error}: what this run made of it is dropped; predict it again once it no longer changes"
            ) from error
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{model.device}: not enough memory; what is done is kept: continue with"
                f" batch={max(run.scorer.batch // 2, 1)}, or device=cpu"
            ) from error
    if (prediction.relabelling or prediction.cleaned) and prediction.card.settings.refiner == "none":  # interrupted
        yield from relabelling(prediction, prediction.card.settings.labels)
    else:
        yield from finishing(prediction)


def check_scope(name: str, scope: Sequence[shapely.Geometry], tissue: TissueMask) -> None:
    """Raise DataError if a polygon, (x, y) in µm, lies all on glass: nothing could be predicted there."""
    bare = [number for number, polygon in enumerate(scope, start=1) if not tissue.occurs_in(polygon)]
    if bare:
        which = f"region {', '.join(map(str, bare))} of {len(scope)}" if len(scope) > 1 else "the area to predict"
        raise DataError(
            f"{name}: no tissue was found in {which}; is it another slide's, or counted from another corner"
            " (--origin)? If that is tissue, give it (--tissue), or set tissue_only=false"
        )


def colour_warning(slide: Slide, model: LoadedModel, prediction: Prediction) -> str:
    """Warn where a slide's colours are far from those the model was trained on; "" where they are not."""
    card = model.card
    if card.colours is None or target_stain(card):
        return ""
    seen = colours_of_slide(slide, prediction.tissue, prediction.card.mpp, card.settings.tile)
    return "" if seen is None else warning_of(card.colours.distance(seen))


def prediction_card(
    slide: Slide,
    model: LoadedModel,
    settings: PredictSettings,
    scope: Sequence[shapely.Geometry] = (),
    tissue: TissueMask | None = None,
) -> PredictionCard:
    """Make the card of a prediction to come; arguments and errors as for `predict_slide`."""
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
        what = repr((tissue.array.shape, tissue.mpp)).encode() + np.packbits(tissue.array).tobytes()
        source = f"given ({hashlib.sha256(what).hexdigest()[:16]})"
    about = {
        "classes": model.card.classes,
        "prototypes_per_class": model.network.k,
        "mpp": mpp,
        "shape": (height, width),
        "stride": stride,
        "block": settings.block,
        "slide": slide.name,
        "slide_mpp": slide.mpp,
        "slide_shape": slide.shape,
        "slide_hash": slide.fingerprint,
        "slide_image": slide.image,
        "slide_origin": Frame.of(slide).origin,
        "mpp_source": slide.mpp_source,
        "model": model.name,
        "model_hash": model.hash,
        "temperature": model.card.temperature,
        "settings": settings.model_copy(update=chosen),
        "tissue": source,
        "icc": slide.icc.removesuffix(NO_PROFILE),
        "scope": tuple(shapely.to_wkt(polygon.intersection(extent), rounding_precision=-1) for polygon in scope),
    }
    return PredictionCard.build(about).labelled_by(settings.labels)


def tile_shape(settings: PredictSettings, stride: int, align: int) -> TileShape:
    """Return the tiles of `settings`: the outer third of an overlap is dropped, the rest is blended.

    Args:
        settings: They may ask for a little less overlap.
        stride: Tile and border are multiples of it.
        align: The step between tiles is a multiple of it.
    """
    tile = settings.tile - settings.tile % stride
    overlap = tile - max((tile - settings.overlap) // align, 1) * align
    return TileShape(tile, overlap, overlap // 3 // stride * stride)


def tiling_of(model: LoadedModel, card: PredictionCard, tissue: TissueMask) -> Tiling:
    """Lay a prediction's tiles over its tissue."""
    align = model.network.encoder.period
    return Tiling(tile_shape(card.settings, card.stride, align), tissue, card.mpp, align)


def blending_device(device: torch.device, channels: int, card: PredictionCard) -> torch.device:
    """Choose where maps are blended: on a GPU if the blocks of three rows fit into a quarter of its memory."""
    held = 3 * -(-card.shape[1] // card.block) * (channels + 1) * (card.block // card.stride) ** 2 * 4  # float32
    fits = device.type == "cuda" and held <= torch.cuda.mem_get_info(device)[1] / 4
    return device if fits else torch.device("cpu")


def levels_of_maps(slide: Slide, model: LoadedModel, card: PredictionCard, tissue: TissueMask) -> list[list[float]]:
    """Measure the level (3, C) that counts as 1 in the class maps, on the training tiles or over the slide.

    On the slide it is what training takes: the highest over the classes of the 99th percentile of a class's merged map,
    on those of up to 64 tiles in which the model sees the class; where it sees none, the training's level stays.
    """
    levels = [list(scale) for scale in model.card.map_scale]
    if card.settings.normalise == "training":
        return levels
    if card.settings.normalise == "benchmark":
        return [[1.0] * len(card.classes) for _ in levels]
    tiling = tiling_of(model, card, tissue)
    tiles, edge = tiling.tiles, tiling.shape.tile
    spread = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), SAMPLED_TILES)).astype(int))
    found: dict[tuple[int, int], list[float]] = {}
    match = slide_matcher(slide, target_stain(model.card), tissue, card.mpp, model.card.settings.tile)
    scorer = TileScorer(model, card.settings)
    for index in spread:
        pixels = match(slide.read_tolerant(tiles[index], (edge, edge), card.mpp)[0])
        outputs = scorer(pixels[None]).split(output_channels(model.network), dim=1)
        stages = dict(zip(used_stages(model.network), (part[0].cpu() for part in outputs), strict=False))
        there = model.network.presence(outputs)[0].cpu() >= torch.tensor(model.card.presence)
        for i, maps in stages.items():
            merged = class_maps(model.network, maps)
            for c in torch.nonzero(there).flatten().tolist():
                found.setdefault((i, c), []).append(float(np.percentile(merged[c].numpy(), 99)))
    for i, stage in enumerate(levels):
        seen = [float(np.mean(values)) for (where, _), values in found.items() if where == i]
        levels[i] = [max(*seen, 1e-3)] * len(stage) if seen else stage
    return levels


class _Read(NamedTuple):
    """A piece of the slide: its tiles, (h, w, 3) uint8, and what of it could not be read."""

    piece: Piece
    pixels: NDArray[np.uint8]
    damaged: frozenset[Box]


class _Batch(NamedTuple):
    """Tiles that are scored together: (B, h, w, 3) uint8, and what has been found damaged up to here."""

    origins: list[Origin]
    tiles: NDArray[np.uint8]
    damaged: frozenset[Box]


class SlidePredictor:
    """One run over the blocks that are not done yet."""

    def __init__(self, slide: Slide, model: LoadedModel, prediction: Prediction) -> None:
        card, stride = prediction.card, prediction.card.stride
        self.slide, self.model, self.prediction = slide, model, prediction
        self.blocks = BlockAssembler(slide, model, prediction)
        self.tiling = tiling_of(model, card, prediction.tissue)
        self.match = slide_matcher(
            slide, target_stain(model.card), prediction.tissue, card.mpp, model.card.settings.tile
        )
        self.scorer = TileScorer(model, card.settings)
        self.written: set[Block] = set()
        self.needed = {block: self.blocks.input_box(block) for block in self.blocks.pending()}
        self.users: dict[Origin, list[Block]] = {}
        self.waiting: dict[Block, int] = {}
        for block, box in self.needed.items():
            tiles = self.tiling.touching(multiplied(box, stride))
            self.waiting[block] = len(tiles)
            for origin in tiles:
                self.users.setdefault(origin, []).append(block)

    def steps(self) -> Iterator[Progress]:
        """Score the tiles, piece by piece; put every block together and write it once its tiles are there."""
        card, done, total = self.prediction.card, 0, len(self.users)
        channels = sum(output_channels(self.model.network))
        at_hand = blending_device(self.model.device, channels, card)
        stitcher = Stitcher(self.tiling.shape, channels, card.stride, card.block, self.needed.values(), at_hand)
        colours: Future[str] | None = None
        written: Future[None] | None = None
        with worker_pools(self.model.device, card.settings.threads or TORCH_THREADS) as at:
            if total:
                colours = at.writer.submit(colour_warning, self.slide, self.model, self.prediction)
            read = map_in_order(at.readers, self._read, self.tiling.pieces(self.users), at.reading)
            for batch, maps in map_in_order(at.scorers, self._scored, self._batches(read), at.scoring):
                for origin, own in zip(batch.origins, maps, strict=True):
                    stitcher.add(origin, own.to(at_hand))
                done += len(batch.origins)
                said = self.scorer.warnings()
                if colours and (colours.done() or done == total):
                    said, colours = [*said, *filter(None, [colours.result()])], None
                yield from (Progress(done, total, WARNING + line) for line in said if self.prediction.warn(line))
                yield Progress(done, total, "tiles")
                for block in self._completed(batch.origins):
                    blended = stitcher.read(self.needed[block])
                    stitcher.release(self.needed[block])
                    if written is not None:
                        written.result()
                    written = at.writer.submit(self._finish, block, *blended, batch.damaged)
                    yield Progress(done, total, "tiles")
            if written is not None:
                written.result()

    def _batches(self, reads: Iterable[_Read]) -> Iterator[_Batch]:
        """Cut out the tiles of pieces; fewer at a time where memory did not suffice for more."""
        origins: list[Origin] = []
        tiles: list[NDArray[np.uint8]] = []
        damaged: frozenset[Box] = frozenset()
        edge = self.tiling.shape.tile
        for piece, pixels, places in reads:
            damaged = damaged | places
            for y, x in piece.origins:
                top, left = y - piece.box[0], x - piece.box[1]
                origins.append((y, x))
                tiles.append(pixels[top : top + edge, left : left + edge])
                if len(origins) >= self.scorer.batch:
                    yield _Batch(origins, np.stack(tiles), damaged)
                    origins, tiles = [], []
        if origins:
            yield _Batch(origins, np.stack(tiles), damaged)

    def _scored(self, batch: _Batch) -> tuple[_Batch, Tensor]:
        """Score a batch; this runs beside reading, blending and writing."""
        return batch, self.scorer(batch.tiles)

    def _completed(self, origins: list[Origin]) -> list[Block]:
        """List the blocks for which these tiles were the last."""
        completed = []
        for block in (block for origin in origins for block in self.users[origin]):
            self.waiting[block] -= 1
            if not self.waiting[block]:
                completed.append(block)
        return completed

    def _read(self, piece: Piece) -> _Read:
        y0, x0, y1, x1 = piece.box
        pixels, damaged = self.slide.read_tolerant((y0, x0), (y1 - y0, x1 - x0), self.prediction.card.mpp)
        return _Read(piece, self.match(pixels), frozenset(damaged))

    @torch.inference_mode()
    def _finish(self, block: Block, maps: Tensor, known: Tensor, damaged: frozenset[Box]) -> None:
        """Put a block together and write it, unless the slide has changed meanwhile; runs beside the model."""
        made = self.blocks.assemble(block, maps, known, damaged)
        self.slide.check_unchanged()
        self.written.add(block)
        self.prediction.write_block(block, made)
