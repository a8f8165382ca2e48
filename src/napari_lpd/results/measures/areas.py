"""Areas of a prediction in mm² and per cent, of the slide and of regions on it, with the corrections of the user.

Definitions:

- *area*: pixels with a tissue's label. *Tissue*: the predicted tissue, and all pixels that a correction labels, or that
  were a hole and are filled (`core.labelling.clean`).
- *expected area*: sum over the pixels of the tissue's probability. Probabilities are the scores' shares of their sum,
  that of "none of the classes" among them (`rule.Rule.shares`), raised to 1 / temperature and normalised; the
  model's own temperature calibrates them on held-out tiles with one tissue (`evaluation.calibration`). A
  corrected pixel is certain, an unreadable one is not counted. Interval: ± 1.96 standard deviations; pixels in one
  square of 250 µm count as wholly dependent, squares as independent: Var = Σ_squares (Σ √(p (1 - p)))².
- *stroma share of tumour area*: stroma / (stroma + tumour). In a field of 3.1 mm² that the user places (as large as a
  field of vision at 10x) it is the *tumour-stroma ratio* (TSR), reported per 10 % (van Pelt et al., Virchows Arch.
  2018; Smit et al., J. Pathol. Inform. 2023); there tumour must be present on all sides of the field.
- *bands* along a border between tissues are measured like regions (`measures.margin`), and so is their unreadable area.
  *By distance*: the area of a class outside of the border, in steps of distance from it, in shares of all of it there.
- *lymphocyte-rich stroma area*: its share of all stroma, lymphocyte-rich or not. That is an area of tissue, not the
  share of a stroma's area that lymphocytes cover, which pathologists score as TILs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from napari_lpd.core.classes import UNLABELLED, UNREADABLE_NAME, UNSURE_CLASS
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.geometry import divided, sampled_polygons
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.core.text import write_table
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.geojson import read_shapes
from napari_lpd.results.measures.bands import bands_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block
    from napari_lpd.core.labelling.rule import Rule
    from napari_lpd.core.settings.results import MeasureSettings, Roles
    from napari_lpd.results.measures.bands import Band
    from napari_lpd.results.measures.margin import Margin
    from napari_lpd.results.prediction import Prediction

FIELD_MM2 = 3.1
DEPENDENT_UM = 250.0
Z95 = 1.96
WHOLE = "whole slide"


class Site(NamedTuple):
    """Part of a slide to measure.

    Attributes:
        name: As shown in the table.
        geometry: (x, y) in level-0 pixels; None: the whole slide.
        is_field: Whether it is a field of 3.1 mm² in which the TSR is scored.
        band: The part of it at these distances from the border; None: all.
    """

    name: str
    geometry: shapely.Geometry | None = None
    is_field: bool = False
    band: Band | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """Row of the table; values that do not apply are None.

    Attributes:
        slide: Name of the slide.
        region: Name of the region; "whole slide".
        what: A tissue class, "unsure", "unlabelled" (what a correction, or cleaning, takes the label from), "tissue",
            one of the ratios or "… by distance"; of a band "unreadable", too.
        area_mm2: Its area.
        percent: Its share of `percent_of`; None where that is empty.
        percent_of: "tissue", "tumour + stroma", "stroma" or, by distance, the class.
        percent_reported: The TSR, per 10 %.
        corrected_mm2: Part of the area that was labelled by hand.
        expected_mm2: The expected area.
        expected_low_mm2: Lower end of its 95 % interval.
        expected_high_mm2: Upper end.
        from_um: Of a band or by distance: more than this far from the border, negative inside of it.
        to_um: At most this far.
        labels: How sure labels are, see `LabelSettings.described`.
    """

    slide: str
    region: str
    what: str
    area_mm2: float
    percent: float | None
    percent_of: str
    percent_reported: int | None = None
    corrected_mm2: float | None = None
    expected_mm2: float | None = None
    expected_low_mm2: float | None = None
    expected_high_mm2: float | None = None
    from_um: float | None = None
    to_um: float | None = None
    labels: str = ""


def field_around(x: float, y: float, slide_mpp: tuple[float, float]) -> Site:
    """Return the circle of 3.1 mm² around a location in level-0 pixels."""
    radius = math.sqrt(FIELD_MM2 / math.pi) * 1000
    angles = np.linspace(0, 2 * math.pi, 721)[:-1]
    edge = np.stack([np.cos(angles), np.sin(angles)], 1) * math.sqrt(math.pi / (360 * math.sin(math.pi / 360)))
    circle = shapely.Polygon(edge * radius / np.array(slide_mpp[::-1]) + (x, y))
    return Site(f"field x {x:.0f} y {y:.0f}", circle, is_field=True)


def sites_of(path: Path, prediction: Prediction, counted_from: str = "bounds") -> list[Site]:
    """Read the regions of a GeoJSON file, named by their names where these tell them apart, else also by number.

    Raises:
        DataError: as `read_shapes`.
    """
    shapes = read_shapes(path, prediction.card, counted_from)
    names = [each.name for each in shapes]
    return [
        Site(
            each.name
            if each.name and names.count(each.name) == 1 and each.name != WHOLE
            else f"{each.name or each.classification or 'region'} {i}",
            each.geometry,
        )
        for i, each in enumerate(shapes, start=1)
    ]


def measure(
    prediction: Prediction, settings: MeasureSettings, sites: Sequence[Site] = (Site(WHOLE),)
) -> Job[list[MeasureRow]]:
    """Measure the areas of a finished prediction, block by block.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from shapely import box
        >>> from napari_lpd import MeasureSettings, PredictSettings, load_model, measure
        >>> from napari_lpd import open_slide, predict_slide, run, samples
        >>> model, settings = load_model(samples.model_path()), PredictSettings(tile=256, overlap=64, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide, tempfile.TemporaryDirectory() as folder:
        ...     scope = [box(1000, 1000, 1300, 1300)]  # µm
        ...     result = run(predict_slide(slide, model, settings, Path(folder, "skin.zarr"), scope))
        ...     rows = run(measure(result, MeasureSettings()))
        >>> [row.what for row in rows if (row.percent or 0) > 50]
        ['naevus nests', 'tissue']

    Raises:
        SettingsError: a role names a class that the prediction does not have.
        DataError: a field reaches outside the slide, or there is no tissue in a site.
        ExportError: the prediction is unfinished, or cannot be read.
    """
    card = prediction.card
    settings.roles.check(card.classes, prediction.folder.name)
    if not prediction.finished:
        raise ExportError(f"{prediction.folder}: unfinished prediction; run predict again to resume it, then measure")
    slide = shapely.box(0, 0, card.slide_shape[1], card.slide_shape[0])
    for site in sites:
        if site.is_field and not shapely.covers(slide, site.geometry):
            raise DataError(f"{site.name}: a field of {FIELD_MM2} mm² there reaches outside {card.slide}")
    store = Corrections(prediction)
    blocks = sorted(prediction.finished_blocks() | store.blocks())
    margin = None
    if settings.margin.asked:
        from napari_lpd.results.measures.margin import Margin  # numba takes a while to load

        margin = Margin(store, blocks, settings)
    bands = bands_of(settings.margin.bands_um)
    banded = [site._replace(name=f"{site.name}: {band}", band=band) for site in sites for band in bands]
    tallies = [_Tally(prediction, site, margin) for site in (*sites, *banded)]
    if margin is not None:
        yield from margin.prepare()
    rule = card.rule._replace(temperature=settings.temperature or card.temperature)
    for done, block in enumerate(blocks, start=1):
        pixels = _Block(prediction, store, block, rule, margin)
        for tally in tallies:
            tally.add(pixels)
        yield Progress(done, len(blocks), "blocks measured")
    if bare := [tally.site.name for tally in tallies if tally.is_bare]:
        raise DataError(
            f"{card.slide}: no predicted tissue in {', '.join(bare[:5])}{', …' * (len(bare) > 5)}; correct or delete"
            " it; or is it another slide's, or counted from another corner (--origin)?"
        )
    return [row for tally in tallies for row in tally.rows(settings.roles)]


class _Block:
    """Pixels of a block: corrected labels, tissue, stored corrections, distances, and probabilities per map pixel."""

    def __init__(
        self, prediction: Prediction, store: Corrections, block: Block, rule: Rule, margin: Margin | None
    ) -> None:
        card = prediction.card
        self.origin = (block[0] * card.block, block[1] * card.block)
        (y, x), (h, w) = self.origin, card.shape
        self.shape = (min(card.block, h - y), min(card.block, w - x))
        self.labels = store.levels[0][y : y + self.shape[0], x : x + self.shape[1]]
        self.stored = store.stored_labels(self.origin, self.shape)
        self.tissue = prediction.to_label(self.origin, self.shape) | (self.labels > 0)
        self.codes = np.zeros(self.shape, np.int16) if margin is None else margin.at(block)
        top, left, bottom, right = divided((y, x, y + self.shape[0], x + self.shape[1]), card.stride)
        self.shares = rule.shares(prediction.evidence((top, left, bottom, right))).astype(np.float64)


class _Tally:
    """Counts of one site."""

    def __init__(self, prediction: Prediction, site: Site, margin: Margin | None) -> None:
        self.site, self.card, self.margin = site, prediction.card, margin
        count = len(self.card.classes)
        self.pixels = np.zeros(256, np.int64)
        self.corrected = np.zeros(256, np.int64)
        self.tissue = 0
        self.expected = np.zeros(count)
        self.square = max(1, round(DEPENDENT_UM / (self.card.mpp * self.card.stride)))  # in map pixels
        squares = [-(-n // (self.card.stride * self.square)) for n in self.card.shape]
        self.deviation = np.zeros((count, *squares))
        bins = 0 if margin is None or site.band else margin.codes
        self.by_distance = np.zeros((bins, count + 2), np.int64)  # by code outside, and label; unsure is the last
        if site.geometry is not None:
            factor = np.array(self.card.slide_mpp[::-1])
            self.polygon = shapely.transform(site.geometry, lambda corners: corners * factor)

    @property
    def is_bare(self) -> bool:
        """Whether it is a region without tissue."""
        return self.site.geometry is not None and not self.site.band and not self.tissue

    def add(self, block: _Block) -> None:
        """Count the pixels of a block that lie in the site."""
        inside = np.ones(block.shape, np.bool_)
        if self.site.geometry is not None:
            mpp, (y, x), (h, w) = self.card.mpp, block.origin, block.shape
            if not self.polygon.intersects(shapely.box(x * mpp, y * mpp, (x + w) * mpp, (y + h) * mpp)):
                return
            inside = sampled_polygons([self.polygon], block.origin, block.shape, mpp)
        if self.margin is not None and self.site.band:
            first, end = self.margin.codes_of(self.site.band)
            inside &= (block.codes >= first) & (block.codes < end)
            if not inside.any():
                return
        self.pixels += np.bincount(block.labels[inside], minlength=256)
        self.corrected += np.bincount(block.stored[inside], minlength=256)
        readable = inside & block.tissue & (block.labels != UNREADABLE)
        self.tissue += int(readable.sum())
        counted = readable & (block.stored == 0)
        self._add_expected(block, per_cell(counted, self.card.stride))
        if self.by_distance.size:
            bins, labels = self.by_distance.shape
            numbers = np.where(block.labels == UNSURE, labels - 1, block.labels)
            outside = readable & (block.codes >= 0) & (block.codes < bins) & (numbers < labels)
            pairs = block.codes[outside].astype(np.intp) * labels + numbers[outside]
            self.by_distance += np.bincount(pairs, minlength=bins * labels).reshape(bins, labels)

    def _add_expected(self, block: _Block, cells: NDArray[np.int64]) -> None:
        """Add the probabilities of `cells` (h, w), the number of pixels that count in each map pixel."""
        self.expected += (block.shares * cells).sum((1, 2))
        rows, columns = (
            (np.arange(n) + first // self.card.stride) // self.square
            for n, first in zip(cells.shape, block.origin, strict=True)
        )
        for squares, p in zip(self.deviation, block.shares, strict=True):
            np.add.at(squares, (rows[:, None], columns[None]), np.sqrt(p * (1 - p)) * cells)

    def rows(self, roles: Roles) -> list[MeasureRow]:
        """Build the rows of the table."""
        pixel_mm2 = (self.card.mpp / 1000) ** 2
        tissue = self.tissue * pixel_mm2
        areas = {c.name: float(self.pixels[i] * pixel_mm2) for i, c in enumerate(self.card.classes, start=1)}
        about: dict[str, Any] = {"slide": self.card.slide, "region": self.site.name}
        about |= dict(zip(("from_um", "to_um"), self.site.band or (None, None), strict=True))
        about["labels"] = self.card.settings.labels.described()
        rows = [
            MeasureRow(**about, what=name, area_mm2=area, percent=_percent(area, tissue), percent_of="tissue",
                       **self._estimate(i, pixel_mm2, tissue))
            for i, (name, area) in enumerate(areas.items())
        ]  # fmt: skip
        unsure = float(self.pixels[UNSURE] * pixel_mm2)
        rest = max(tissue - sum(areas.values()) - unsure, 0.0)
        for what, area in ((UNSURE_CLASS.name, unsure), (UNLABELLED, rest), ("tissue", tissue)):
            rows.append(
                MeasureRow(**about, what=what, area_mm2=area, percent=_percent(area, tissue), percent_of="tissue")
            )
        if self.site.band:
            area = float(self.pixels[UNREADABLE] * pixel_mm2)
            rows.append(MeasureRow(**about, what=UNREADABLE_NAME, area_mm2=area, percent=None, percent_of=""))
        else:
            rows += self._tumour_and_stroma(roles, areas, about)
        if rich := roles.lymphocyte_rich_stroma:
            area, total = (sum(areas[name] for name in names) for names in (rich, {*rich, *roles.stroma}))
            rows.append(
                MeasureRow(**about, what="lymphocyte-rich stroma area", area_mm2=area, percent=_percent(area, total),
                           percent_of="stroma")
            )  # fmt: skip
        return [*rows, *self._by_distance(pixel_mm2)]

    def _tumour_and_stroma(self, roles: Roles, areas: dict[str, float], about: dict[str, Any]) -> list[MeasureRow]:
        """Build the row of their ratio; none where a role is not given."""
        if not (roles.stroma and roles.tumour):
            return []
        stroma, tumour = (sum(areas[name] for name in names) for names in (roles.stroma, roles.tumour))
        share = _percent(stroma, stroma + tumour)
        tsr = self.site.is_field
        what = "tumour-stroma ratio" if tsr else "stroma share of tumour area"
        tenth = None if share is None or not tsr else int(math.floor(share / 10 + 0.5) * 10)
        return [
            MeasureRow(**about, what=what, area_mm2=stroma, percent=share, percent_of="tumour + stroma",
                       percent_reported=tenth)
        ]  # fmt: skip

    def _by_distance(self, pixel_mm2: float) -> list[MeasureRow]:
        """Build the rows of the classes outside of the border, and of what has no class there, by distance from it."""
        if self.margin is None or not self.by_distance.size:
            return []
        rows = []
        names = [*(tissue.name for tissue in self.card.classes), UNSURE_CLASS.name, UNLABELLED]
        for name, counts in zip(names, np.roll(self.by_distance, -1, axis=1).T, strict=True):
            if name in self.margin.inner:
                continue
            binned = np.add.reduceat(counts, self.margin.starts) * pixel_mm2
            for number in range(len(np.trim_zeros(binned, "b"))):
                area, (low, high) = float(binned[number]), self.margin.bin(number)
                rows.append(
                    MeasureRow(slide=self.card.slide, region=self.site.name, what=f"{name} by distance", area_mm2=area,
                               percent=_percent(area, float(binned.sum())), percent_of=name, from_um=low, to_um=high)
                )  # fmt: skip
        return rows

    def _estimate(self, index: int, pixel_mm2: float, tissue: float) -> dict[str, Any]:
        """Compute corrected and expected area of one class, with the interval."""
        corrected = float(self.corrected[index + 1] * pixel_mm2)
        expected = float(self.expected[index] * pixel_mm2) + corrected
        margin = Z95 * float(np.sqrt((self.deviation[index] ** 2).sum())) * pixel_mm2
        return {
            "corrected_mm2": corrected,
            "expected_mm2": expected,
            "expected_low_mm2": max(expected - margin, corrected),
            "expected_high_mm2": max(min(expected + margin, tissue), expected),
        }


def per_cell(counted: NDArray[np.bool_], stride: int) -> NDArray[np.int64]:
    """Count the pixels (h, w) that are set in each map pixel: (⌈h / stride⌉, ⌈w / stride⌉)."""
    padded = np.pad(counted, [(0, -n % stride) for n in counted.shape])
    return padded.reshape(len(padded) // stride, stride, -1, stride).sum((1, 3), dtype=np.int64)


def _percent(area: float, total: float) -> float | None:
    return 100 * area / total if total else None


MARK = ",".join(field.name for field in fields(MeasureRow)[:2])  # what the table begins with


def write_measures(rows: Sequence[MeasureRow], path: Path, overwrite: bool = False) -> Path:
    """Write the table as CSV atomically; values that do not apply stay empty.

    Raises:
        ExportError: the file exists and `overwrite` is off, or cannot be written.
    """
    lines = [[f"{v:.6f}" if isinstance(v, float) else v for v in asdict(row).values()] for row in rows]
    return write_table(path, [[field.name for field in fields(MeasureRow)], *lines], overwrite)
