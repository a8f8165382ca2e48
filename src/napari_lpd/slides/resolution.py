"""How large a slide's pixels are: what its file says, or its user."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_lpd.core.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAUSIBLE_MPP = (0.05, 20.0)
GIVEN = "given by the user"
INSTEAD = f"{GIVEN} instead of "  # what the file says
NOTHING = "nothing in the file says it"  # where there is no resolution
Found = tuple[tuple[float, float] | None, str]


class GivenMpp(NamedTuple):
    """Resolution that the user gives, in µm per pixel of level 0.

    Attributes:
        lacking: For a file that gives none, or none that is plausible.
        override: In place of what the file says.
    """

    lacking: float | None = None
    override: float | None = None


NOTHING_GIVEN = GivenMpp()


def choose_resolution(name: str, candidates: Sequence[Found], given: GivenMpp = NOTHING_GIVEN) -> Found:
    """Choose the override, else the first candidate (mpp, source) with a value, else what is given for lack of one.

    An implausible candidate ends the search: the reason stands for the source.

    Raises:
        SlideError: a value of the user is not plausible.
    """
    for value in given:
        if value is not None and not _plausible((value, value)):
            low, high = PLAUSIBLE_MPP
            raise SlideError(f"{name}: mpp={value:g} is not plausible; wanted {low:g} to {high:g} µm per pixel")
    mpp, source = next((found for found in candidates if found[0] is not None), (None, ""))
    if mpp is not None and not _plausible(mpp):
        source = f"{source} says {mpp[0]:.4g} µm per pixel, which is not plausible"
        mpp = None
    if given.override is not None:
        return (given.override,) * 2, GIVEN if mpp is None else f"{INSTEAD}{mpp[0]:.4g} ({source})"
    if mpp is not None:
        return (float(mpp[0]), float(mpp[1])), source
    if given.lacking is not None:
        return (given.lacking,) * 2, GIVEN
    return None, source or NOTHING


def _plausible(mpp: tuple[float, float]) -> bool:
    low, high = PLAUSIBLE_MPP
    return all(low <= value <= high for value in mpp)
