"""Tissue classes: names and colours."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from napari_lpd.core.errors import DataError, SettingsError, one_line
from napari_lpd.core.reading import read_json
from napari_lpd.core.settings.base import Settings
from napari_lpd.core.text import is_clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


MAX_CLASSES = 250  # in a mask of 8 bits, beside those for background, unreadable and not counted


def _clean(name: str) -> str:
    name = name.strip()
    if not name or not is_clean(name):
        raise ValueError("a name is one line of letters and signs")
    return name


class TissueClass(Settings):
    """Name a tissue and its display colour.

    Examples:
        >>> from napari_lpd import TissueClass
        >>> TissueClass(name="tumour", color="#ff0000").rgb
        (255, 0, 0)
    """

    name: Annotated[str, AfterValidator(_clean)] = Field(
        min_length=1, max_length=100, description="Tissue name, as shown everywhere."
    )
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$", description="Display colour, #rrggbb.")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Colour as three integers 0..255 (red, green, blue)."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


COLORS = ("#3000c0", "#ffd830", "#00d8ff", "#489060", "#901800", "#9060f0", "#d84800", "#90c078")
"""Colours of classes for which none is set: told apart, and from stained tissue, with any colour blindness."""

CLASSES: dict[str, tuple[TissueClass, ...]] = {
    "bcss": (
        TissueClass(name="tumour", color="#ff0000"),
        TissueClass(name="stroma", color="#00ff00"),
        TissueClass(name="lymphocytic infiltrate", color="#0000ff"),
        TissueClass(name="necrosis", color="#9900ff"),
    ),
    "luad": (
        TissueClass(name="tumour epithelium", color="#ff0000"),
        TissueClass(name="necrosis", color="#9900ff"),
        TissueClass(name="lymphocytes", color="#0000ff"),
        TissueClass(name="tumour-associated stroma", color="#00ff00"),
    ),
}
"""Classes of the papers' data sets, in the order of the digits in their tiles' names (BCSS-WSSS, LUAD-HistoSeg)."""


def read_classes(path: Path) -> tuple[TissueClass, ...]:
    """Read tissue classes from JSON: ``{"classes": [{"name": ..., "color": "#rrggbb"}, ...]}``, or names alone.

    Examples:
        >>> from napari_lpd import read_classes, samples
        >>> [tissue.name for tissue in read_classes(samples.classes_path())]
        ['epidermis', 'naevus nests', 'collagen', 'fat']

    Raises:
        DataError: the file is missing, is not JSON, or names a class twice.
    """
    entries = read_json(path, DataError, "a class list", dict).get("classes")
    try:
        if not isinstance(entries, list):
            raise TypeError("it names none")
        classes = tuple(
            TissueClass.build({"name": entry, "color": COLORS[i % len(COLORS)]} if isinstance(entry, str) else entry)
            for i, entry in enumerate(entries)
        )
    except (TypeError, SettingsError) as error:
        raise DataError(f'{path}: no class list ({error}); wanted {{"classes": [{{"name", "color"}}, ...]}}') from error
    check_classes(classes, str(path))
    return classes


UNLABELLED, UNREADABLE_NAME = "unlabelled", "unreadable"
UNSURE_CLASS = TissueClass(name="unsure", color="#9c9c9c")
"""Tissue of which no class is sure enough, as tables, legends and masks show it."""
RESERVED = ("none", "tissue", UNLABELLED, UNREADABLE_NAME, UNSURE_CLASS.name)
"""Names that mean something else in regions, tables and masks."""


def check_names(names: Sequence[str], source: str) -> None:
    """Raise DataError if a class has a name that means something else in regions, tables and masks."""
    for name in names:
        if name.strip().casefold() in RESERVED:
            raise DataError(
                f"{source}: a class cannot be called {name!r}, which means something else in regions and tables"
                f" ({', '.join(RESERVED)}); give it another name"
            )


def check_classes(classes: Sequence[TissueClass], source: str) -> list[str]:
    """Return the names; raise DataError unless there are two or more, at most `MAX_CLASSES`, all different."""
    names = [tissue.name for tissue in classes]
    check_names(names, source)
    if len({unicodedata.normalize("NFC", name) for name in names}) != len(names):
        raise DataError(f"{source}: a tissue name occurs twice in {names}")
    if len(names) > MAX_CLASSES:
        raise DataError(f"{source}: {len(names)} tissue classes; wanted at most {MAX_CLASSES}")
    if len(names) < 2:
        raise DataError(f"{source}: {len(names)} tissue class ({', '.join(names)}); training needs at least two")
    return names


ROUNDED = 0.02  # by how much shares may miss their sum, for want of digits


def whole_shares(said: Mapping[str, object], where: str) -> dict[str, float]:
    """Check shares of a whole, which are numbers or percentages, and return them as numbers that sum to 1.

    Examples:
        >>> whole_shares({"tumour": "60 %", "stroma": 40}, "tile.png")
        {'tumour': 0.6, 'stroma': 0.4}

    Args:
        said: By name; what is none of the classes is called "none".
        where: File and row, for the message.

    Raises:
        DataError: one is no number or below 0, or they sum to neither 1 nor 100.
    """
    try:
        values = {name: float(str(value).strip().removesuffix("%")) for name, value in said.items()}
    except ValueError as error:
        raise DataError(f"{where}: shares {_listed(said)}; wanted numbers that sum to 1, or to 100 %") from error
    total = sum(values.values())
    whole = 100.0 if abs(total - 100) <= 100 * ROUNDED else 1.0
    if any(not value >= 0 for value in values.values()) or not abs(total / whole - 1) <= ROUNDED:
        raise DataError(
            f"{where}: shares {_listed(said)} sum to {total:g}; wanted numbers from 0 that sum to 1, or to 100 %, with"
            " what is none of the classes as none"
        )
    total = whole if math.isclose(total, whole) else total  # shares that need no change come back as they are
    return {name: value / total for name, value in values.items()}


def _listed(said: Mapping[str, object]) -> str:
    return one_line(", ".join(f"{name} {value}" for name, value in said.items()), 150)
