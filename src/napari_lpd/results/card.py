"""What a result says of itself: slide, model, settings and, once it is finished, areas; checked whenever it is read."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import shapely
from pydantic import Field, ValidationError, field_validator, model_validator

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import NOTICE, ExportError, SettingsError
from napari_lpd.core.files import KEY
from napari_lpd.core.labelling.clean import Cleaning
from napari_lpd.core.labelling.rule import UNSURE, Rule
from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.data.geojson import Frame
from napari_lpd.results.pyramid import Layout, level_count
from napari_lpd.results.store import DamagedResultError, read_attributes, write_attributes

if TYPE_CHECKING:
    from pathlib import Path

    from napari_lpd.core.settings.prediction import LabelSettings

FORMAT: Final = 5
UNKNOWN_ICC = "unknown"  # where nothing is said of it
MAX_EDGE = 2**23  # pixels of a slide at the labels' resolution
CHANGEABLE = PredictSettings.RUNTIME_SETTINGS | {"labels"}  # of the settings: what can differ in the same prediction
Positive = Annotated[float, Field(gt=0, le=1e6)]
Edge = Annotated[int, Field(ge=1, le=MAX_EDGE)]
Text = Annotated[str, Field(max_length=4096)]


class PredictionCard(Settings):
    """Slide, model and settings of a prediction: two predictions with equal cards are equal.

    Attributes:
        classes: The tissue classes, in the order of the labels.
        prototypes_per_class: k.
        mpp: Resolution of the labels, in µm per pixel.
        shape: (H, W) of the whole slide at `mpp`.
        stride: Pixels of the labels per pixel of the maps.
        block: Edge of the blocks that are written, in pixels.
        slide: File name or layer name of the slide.
        slide_mpp: (y, x) µm per pixel of the slide's level 0.
        slide_shape: (H, W) of the slide's level 0.
        slide_hash: The slide's fingerprint.
        slide_image: Number of the image in the slide's file, where another than the biggest was chosen.
        slide_origin: (x, y) of the slide's scanned part, from which other programs count.
        mpp_source: Origin of the slide's resolution.
        model: Name of the model: of its run's folder, or of its file. Its hash, not its name, makes a difference.
        model_hash: SHA-256 of the model's file.
        temperature: The model's: shares of scores are raised to 1 / temperature, which calibrates them.
        settings: The settings of the run.
        tissue: Origin of the tissue mask.
        icc: How the slide's colour profile was treated.
        scope: Polygons (WKT, x and y in µm from the slide's corner) that were predicted; empty: the whole slide.
    """

    classes: tuple[TissueClass, ...] = Field(min_length=1, max_length=UNSURE - 1)
    prototypes_per_class: Annotated[int, Field(ge=1, le=4096)]
    mpp: Positive
    shape: tuple[Edge, Edge]
    stride: Annotated[int, Field(ge=1, le=4096)]
    block: Annotated[int, Field(ge=1, le=4096)]
    slide: Text
    slide_mpp: tuple[Positive, Positive]
    slide_shape: tuple[Edge, Edge]
    slide_hash: Text
    slide_image: Annotated[int, Field(ge=1)] | None = None
    slide_origin: tuple[int, int] = (0, 0)
    mpp_source: Text
    model: Text
    model_hash: Text
    temperature: Positive = 1.0
    settings: PredictSettings
    tissue: Text
    icc: Text = UNKNOWN_ICC
    scope: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> PredictionCard:
        if len({tissue.name for tissue in self.classes}) < len(self.classes):
            raise ValueError("two classes have one name")
        if self.block % self.stride or self.block.bit_count() != 1:
            raise ValueError(f"block={self.block} is no power of 2 and multiple of stride={self.stride}")
        return self

    @field_validator("scope")
    @classmethod
    def _polygons(cls, scope: tuple[str, ...]) -> tuple[str, ...]:
        for text in scope:
            try:
                polygon = shapely.from_wkt(text)
            except shapely.GEOSException as error:
                raise ValueError(f"not a polygon ({error})") from error
            if not (polygon.area > 0 and abs(shapely.get_coordinates(polygon)).max() < 1e12):
                raise ValueError("not a polygon with an area")
        return scope

    @property
    def frame(self) -> Frame:
        """The slide, as outlines on it need it."""
        return Frame(self.slide, self.slide_shape, self.slide_hash, self.slide_origin)

    @property
    def rule(self) -> Rule:
        """How labels follow from the stored maps.

        Raises:
            SettingsError: the settings favour a class that is none of these.
        """
        labels, power = self.settings.labels, self.settings.background_power
        return Rule(labels.sure, labels.factors([c.name for c in self.classes]), power, self.temperature)

    def labelled_by(self, labels: LabelSettings) -> PredictionCard:
        """Return the card of the same prediction with other settings of labels.

        Raises:
            SettingsError: they do not fit the classes, or the blocks.
        """
        settings = self.settings.model_copy(update={"labels": labels})
        card = self.model_copy(update={"settings": settings})
        _ = card.rule, card.cleaning  # checked
        return card

    @property
    def cleaning(self) -> Cleaning:
        """What of the labels is cleaned, in pixels.

        Raises:
            SettingsError: a tissue is named that is none of these, or a hole may be as large as a block.
        """
        cleaning = Cleaning.of(self.settings.labels.clean, [c.name for c in self.classes], self.mpp)
        if cleaning.holes.max() > self.block**2:  # holes that are smaller lie in blocks that are there
            asked, most = cleaning.holes.max() * self.mpp**2, self.block**2 * self.mpp**2
            raise SettingsError(
                f"holes of {asked:g} µm² are to be filled; at most {most:g} µm², as large as a block of the result"
            )
        return cleaning

    @property
    def digest(self) -> str:
        """8 hex digits that differ where `difference` does."""
        about = self.model_dump(mode="json", exclude={"model"})
        about["settings"] = {name: value for name, value in about["settings"].items() if name not in CHANGEABLE}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]

    def difference(self, other: PredictionCard) -> str:
        """Name the first difference that makes `other` another prediction; "" where both are the same."""
        mine, others = (card.model_dump(exclude={"model"}) for card in (self, other))
        for name in PredictSettings.model_fields:
            one, two = mine["settings"].pop(name), others["settings"].pop(name)
            if one != two and name not in CHANGEABLE:
                return f"{name}={two}"
        names = {"icc": "treatment of the colour profile (--icc)", "scope": "area (regions or view)"}
        other_name = next((name for name in mine if mine[name] != others[name]), "")
        return other_name and f"another {names.get(other_name, other_name.removesuffix('_hash'))}"

    def layouts(self) -> dict[str, Layout]:
        """Return the pyramids of a result, by the place of their group, all but the tissue mask."""
        (h, w), edge, classes = self.shape, self.block // self.stride, len(self.classes)
        cells = (-(-h // self.stride), -(-w // self.stride))
        count, fewer = level_count(max(self.shape), edge), level_count(max(cells), edge)
        prototypes = {
            f"prototypes/{c}": Layout(f"prototypes/{c}", (self.prototypes_per_class, *cells), edge, fewer)
            for c in range(classes)
        }
        return {
            "": Layout("", (classes, *cells), edge, count),  # OME-Zarr wants as many levels as of its labels
            "presence": Layout("presence", (classes, *cells), edge, count),
            "labels/tissues": Layout("labels/tissues", (h, w), self.block, count, is_labels=True),
            **prototypes,
            "uncertainty": Layout("uncertainty", cells, edge, fewer),
        }

    def tissue_layout(self, shape: tuple[int, int]) -> Layout:
        """Return the pyramid of a tissue mask of `shape`."""
        count = level_count(max(self.shape), self.block // self.stride)
        return Layout("labels/tissue_mask", shape, 1024, count, is_labels=True)


Box4 = tuple[int, int, int, int]


class ResultAttributes(Settings):
    """The attribute of a result's folder.

    Attributes:
        format: Of the folder.
        notice: What the result is not for.
        card: Slide, model and settings.
        map_scale: (3, C): level that counts as 1 in the class maps.
        tissue_mpp: µm per pixel of the tissue mask.
        tissue_shape: (H, W) of the tissue mask; older results do not say it.
        warnings: Sentences on what makes the result doubtful.
        relabelling: Whether labels are being made again, or that was interrupted.
        cleaned: Whether labels are cleaned, wholly or in part.
        areas_mm2: Labelled area per class; only of a finished result.
        unsure_mm2: Area that is unsure.
        tissue_mm2: Area of the readable tissue in the scope.
        unreadable: Boxes (y0, x0, y1, x1), in level-0 pixels, that could not be read.
        checksum: SHA-256 of all of this but the checksum.
    """

    format: Literal[5] = FORMAT
    notice: str = NOTICE
    card: PredictionCard
    map_scale: tuple[tuple[float, ...], ...]
    tissue_mpp: Positive
    tissue_shape: tuple[Edge, Edge]
    relabelling: bool = False
    cleaned: bool = False
    warnings: tuple[str, ...] = ()
    areas_mm2: dict[str, Annotated[float, Field(ge=0)]] | None = None
    unsure_mm2: Annotated[float, Field(ge=0)] | None = None
    tissue_mm2: Annotated[float, Field(ge=0)] | None = None
    unreadable: tuple[Box4, ...] | None = None
    checksum: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> ResultAttributes:
        names = [tissue.name for tissue in self.card.classes]
        if len(self.map_scale) != 3 or any(len(stage) != len(names) for stage in self.map_scale):
            raise ValueError(f"map_scale is not (3, {len(names)})")
        if self.areas_mm2 is not None and list(self.areas_mm2) != names:
            raise ValueError("areas_mm2 does not name the classes")
        measured = (self.areas_mm2, self.unsure_mm2, self.tissue_mm2, self.unreadable)
        if len({value is None for value in measured}) > 1:
            raise ValueError("areas_mm2, unsure_mm2, tissue_mm2 and unreadable go together")
        return self

    def stored(self) -> dict[str, Any]:
        """Return the attribute as it is written, with its checksum."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"checksum"})
        return values | {"checksum": _checksum(values)}

    def write(self, folder: Path) -> None:
        """Write the attribute of a result's folder.

        Raises:
            ExportError: the disk is full or cannot be written.
        """
        write_attributes(folder, KEY, self.stored())


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_result(folder: Path) -> ResultAttributes:
    """Read and check the attribute of a result's folder.

    Raises:
        ExportError: it is of a format that this version does not read.
        DamagedResultError: it is not readable, or not what was written.
    """
    values = read_attributes(folder, KEY)
    form, checksum = values.get("format"), values.pop("checksum", None)
    if type(form) is int and form != FORMAT:
        raise ExportError(
            f"{folder}: format {form}, this version reads {FORMAT}; predict again into another folder, or with"
            " --overwrite"
        )
    if checksum != _checksum(values):
        raise DamagedResultError(folder, "what it says of itself is not what was written (checksum)")
    try:
        return ResultAttributes.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DamagedResultError(folder, f"{name}: {first['msg']}".removeprefix(": ")) from error
    except RecursionError as error:
        raise DamagedResultError(folder, "nested too deeply") from error
