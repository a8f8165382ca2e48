"""Settings of measures and exports; roles of tissue classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.reading import read_json
from napari_lpd.core.settings.base import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass

Names = tuple[str, ...]


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


def read_roles(path: Path) -> Roles:
    """Read roles from JSON: ``{"tumour": ["TUM"], "stroma": ["STR"], "lymphocyte_rich_stroma": ["LYM"]}``.

    Raises:
        SettingsError: the file is missing, is not JSON, or names another role.
    """
    return Roles.build(read_json(path, SettingsError, "roles", dict), path)


What = Literal["labels", "prototypes", "corrections"]


class ExportSettings(Settings):
    """Set what an export contains, and how it is written.

    Examples:
        >>> from napari_lpd import ExportSettings
        >>> ExportSettings(simplify_um=2.0).what
        'labels'
    """

    what: What = Field(default="labels", description="Labels, prototype maps, or corrections as training regions.")
    simplify_um: float = Field(
        default=0.0, ge=0, le=1000, description="Simplification of outlines, in µm; 0 follows every pixel."
    )
    origin: Literal["bounds", "slide"] = Field(
        default="bounds",
        description="Where GeoJSON coordinates begin: at the part that was scanned, as in QuPath, or at the slide.",
    )
    overwrite: bool = Field(default=False, description="Replace existing files.")
    measure: MeasureSettings = Field(default=MeasureSettings(), description="How areas are measured.")
