"""Settings of measures and exports; roles of tissue classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.reading import read_json
from napari_lpd.core.settings.base import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass

Names = tuple[str, ...]
MIN_STEP_UM = 5.0


class Roles(Settings):
    """Name the tissue classes that play a role in the ratios; none is guessed from a name.

    Examples:
        >>> from napari_lpd import MeasureSettings, Roles
        >>> MeasureSettings(roles=Roles(tumour=("naevus nests",), stroma=("collagen",))).roles.stroma
        ('collagen',)
    """

    tumour: Names = Field(default=(), description="Classes that are tumour.")
    stroma: Names = Field(default=(), description="Classes that are stroma in the tumour-stroma ratio.")
    lymphocyte_rich_stroma: Names = Field(default=(), description="Classes that are stroma rich in lymphocytes.")

    def check(self, classes: Sequence[TissueClass], source: str) -> None:
        """Raise SettingsError if a role names a class that is not in `classes`, or tumour is also stroma."""
        known = [tissue.name for tissue in classes]
        for role, chosen in self.model_dump().items():
            if unknown := next((name for name in chosen if name not in known), ""):
                raise SettingsError(f"{source}: role {role} names {unknown!r}; its classes are {', '.join(known)}")
        if both := set(self.tumour) & {*self.stroma, *self.lymphocyte_rich_stroma}:
            raise SettingsError(f"{source}: {sorted(both)[0]!r} cannot be tumour and stroma at once")


class MarginSettings(Settings):
    """Set which bands along a border between tissues are measured.

    Example:
        >>> from napari_lpd import MarginSettings
        >>> MarginSettings(bands_um=(100, 500), of=("naevus nests",)).bands_um
        (100.0, 500.0)
    """

    bands_um: tuple[Annotated[float, Field(gt=0, le=1e5)], ...] = Field(
        default=(),
        max_length=50,
        description="Distances from the border, in µm, between which bands are measured, inside and outside of it.",
    )
    of: Names = Field(default=(), description="Classes inside of the border; none: those that are tumour.")
    against: Names = Field(
        default=(), description="Classes outside of the border, beside tissue that has no class; none: all others."
    )
    histogram_um: float = Field(
        default=0.0,
        ge=0,
        le=1e5,
        description="Steps in which the distances of the other classes from the border are counted; 0: not at all.",
    )

    @field_validator("histogram_um")
    @classmethod
    def _coarse(cls, value: float) -> float:
        if 0 < value < MIN_STEP_UM:
            raise ValueError(f"Steps are 0 or at least {MIN_STEP_UM:g} µm")
        return value

    @property
    def asked(self) -> bool:
        """Whether distances are measured at all."""
        return bool(self.bands_um or self.histogram_um)

    def check(self, inner: Names, classes: Sequence[str], source: str) -> None:
        """Raise SettingsError unless the border is one between `classes`, `inner` on its one side."""
        if not inner:
            raise SettingsError(
                f"{source}: bands need to know what is inside of the border: name classes (margin.of), or those that"
                " are tumour (--roles)"
            )
        for name in (*inner, *self.against):
            if name not in classes:
                raise SettingsError(f"{source}: the border names {name!r}; its classes are {', '.join(classes)}")
        if both := set(inner) & set(self.against):
            raise SettingsError(f"{source}: {sorted(both)[0]!r} cannot be inside and outside of the border at once")


class ObjectSettings(Settings):
    """Set which objects are listed: the connected areas of tissues.

    Example:
        >>> from napari_lpd import ObjectSettings
        >>> ObjectSettings(of=("naevus nests",), smallest_um2=1000).nearest_to
        ()
    """

    of: Names = Field(default=(), description="Classes whose objects are listed; none: all.")
    smallest_um2: float = Field(default=0.0, ge=0, le=1e9, description="Smaller objects are left out.")
    nearest_to: Names = Field(
        default=(), description="Classes to which the distance is measured; none: those that are tumour."
    )


class MeasureSettings(Settings):
    """Set how areas are measured.

    Examples:
        >>> from napari_lpd import MeasureSettings
        >>> MeasureSettings(temperature=0.5).roles.tumour
        ()
    """

    roles: Roles = Field(default=Roles(), description="Which classes are tumour, stroma, lymphocyte-rich stroma.")
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=20,
        description="Sharpens (< 1) or flattens (> 1) the probabilities of expected areas; 0: as the model was"
        " calibrated.",
    )
    margin: MarginSettings = Field(default=MarginSettings(), description="Bands along a border between tissues.")
    objects: ObjectSettings = Field(default=ObjectSettings(), description="Connected areas of tissues.")


def read_roles(path: Path) -> Roles:
    """Read roles from JSON: ``{"tumour": ["TUM"], "stroma": ["STR"], "lymphocyte_rich_stroma": ["LYM"]}``.

    Raises:
        SettingsError: the file is missing, is not JSON, or names another role.
    """
    return Roles.build(read_json(path, SettingsError, "roles", dict), path)


What = Literal["labels", "prototypes", "corrections", "objects"]


class ExportSettings(Settings):
    """Set what an export contains, and how it is written.

    Examples:
        >>> from napari_lpd import ExportSettings
        >>> ExportSettings(simplify_um=2.0).what
        'labels'
    """

    what: What = Field(
        default="labels", description="Labels, prototype maps, corrections as strokes to train on, or objects."
    )
    simplify_um: float = Field(
        default=0.0, ge=0, le=1000, description="Simplification of outlines, in µm; 0 follows every pixel."
    )
    origin: Literal["bounds", "slide"] = Field(
        default="bounds",
        description="Where GeoJSON coordinates begin: at the part that was scanned, as in QuPath, or at the slide.",
    )
    overwrite: bool = Field(default=False, description="Replace existing files.")
    measure: MeasureSettings = Field(default=MeasureSettings(), description="How areas are measured.")
