"""Which image of a TIFF is the slide, and which are its levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from napari_lpd.core.errors import SlideError
from napari_lpd.slides.levels import COPY, is_level
from napari_lpd.slides.tiff.ome import OmeError, is_ome, read_ome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_lpd.slides.resolution import Found
    from napari_lpd.slides.tiff.directories import Directory

NOT_SLIDES = ("label", "macro", "thumbnail", "overview")  # names of images that are chosen on request only
SHOWN = 6  # images that a note lists


class Pyramid(NamedTuple):
    """An image in a TIFF with its smaller copies.

    Attributes:
        number: Its place in the file, from 1.
        name: Its name in OME metadata; may be empty.
        levels: Biggest first: the directory of each, or the three of its colours.
        resolution: What OME metadata say.
        problem: Why it can be no slide; may be empty.
    """

    number: int
    name: str
    levels: tuple[tuple[Directory, ...], ...]
    resolution: Found = (None, "")
    problem: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the biggest level."""
        return self.levels[0][0].shape

    def __str__(self) -> str:
        return f"{self.number}{f' {self.name!r}' if self.name else ''} {self.shape[1]} x {self.shape[0]}"


def pyramids(directories: Sequence[Directory], file_name: str) -> tuple[list[Pyramid], str]:
    """Sort a TIFF's directories into images with levels; OME metadata that cannot be used give a reason, too."""
    about = directories[0].description
    reason = ""
    if is_ome(about):
        try:
            return _ome_pyramids(directories, file_name), ""
        except OmeError as error:
            reason = str(error)
    found = _plain_pyramids(directories)
    if any(not min(each.shape) for each in found):
        raise SlideError(f"{file_name}: damaged TIFF (it says that an image has no pixels): {COPY}")
    return found, reason


def choose(name: str, found: Sequence[Pyramid], number: int | None) -> tuple[Pyramid, tuple[str, ...]]:
    """Choose the image of a number, else the biggest in RGB that is no label or macro, with a note about the others.

    Raises:
        SlideError: the file has no image of that number, or none at all.
    """
    listed = ", ".join(str(each) for each in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
    if number is not None:
        for each in found:
            if each.number == number:
                return each, ()
        raise SlideError(f"{name}: holds no image {number}; its images are {listed}")
    if not found:
        raise SlideError(f"{name}: holds no image, only masks: open the file that they belong to")
    slides = [each for each in found if not any(word in each.name.lower() for word in NOT_SLIDES)] or list(found)
    # An RGB overview beside a bigger image that is not RGB is not the slide.
    chosen = max(slides, key=lambda each: (math.prod(each.shape), not each.problem, -each.number))
    if len(found) == 1:
        return chosen, ()
    return chosen, (f"{name} holds {len(found)} images ({listed}); read is {chosen.number}, --image N reads another",)


def _ome_pyramids(directories: Sequence[Directory], file_name: str) -> list[Pyramid]:
    result = []
    for number, image in enumerate(read_ome(directories[0].description, file_name, len(directories)), start=1):
        planes = tuple(directories[index] for index in image.directories)
        problem = ""
        if not planes[0].rgb or len(planes) not in (1, image.colours):
            grey = [plane for plane in planes if plane.first(277, 1) == 1 and plane.shape == planes[0].shape]
            if not (len(planes) == len(grey) == image.colours == 3):
                problem = _problem(len(planes), image.colours)
        base = planes if len(planes) == 3 and not planes[0].rgb else planes[:1]
        below = list(zip(*(plane.children for plane in base), strict=False))
        result.append(Pyramid(number, image.name, (base, *_levels(base[0], below)), image.resolution, problem))
    return result


def _problem(planes: int, colours: int) -> str:
    """Say what an image of several planes is; of one plane, its samples say it (`reader.check_page`)."""
    if planes == 1:
        return ""
    return f"has axes {'CYX' if planes == colours else 'ZYX or TYX'} of {planes} planes"


def _levels(base: Directory, candidates: Iterable[tuple[Directory, ...]]) -> list[tuple[Directory, ...]]:
    """Select the smaller copies of an image, biggest first, one of each size."""
    fitting = {level[0].shape: level for level in candidates if _alike(base, level[0])}
    return [fitting[shape] for shape in sorted(fitting, reverse=True)]


def _alike(base: Directory, image: Directory) -> bool:
    return not image.mask and image.rgb == base.rgb and is_level(image.shape, base.shape)


def _plain_pyramids(directories: Sequence[Directory]) -> list[Pyramid]:
    """Pair every image with the smaller copies in its SubIFDs and, in tiles where it is in tiles, beside it.

    A smaller copy says so (NewSubfileType), or no image of the file says so and it halves the one before.
    """
    images = [image for image in directories if not image.mask]
    images = [image for image in images if min(image.shape) or not image.reduced]
    flagged = any(image.reduced for image in images)
    owners: dict[int, list[Directory]] = {}
    for place in sorted(range(len(images)), key=lambda i: -math.prod(images[i].shape)):
        image = images[place]
        owner = _owner(images, place, flagged, owners)
        if owner is None:
            owners[place] = []
        else:
            owners[owner].append(image)
    result = []
    for number, place in enumerate(sorted(owners), start=1):
        base = images[place]
        below = _levels(base, [(each,) for each in (*base.children, *owners[place])])
        result.append(Pyramid(number, "", ((base,), *below)))
    return result


def _owner(images: Sequence[Directory], place: int, flagged: bool, owners: dict[int, list[Directory]]) -> int | None:
    """Find the bigger image that `images[place]` is a smaller copy of: the last before it, else the first behind it."""
    image = images[place]
    fitting = [j for j in owners if _alike(images[j], image) and image.tiled >= images[j].tiled]
    if flagged:
        fitting = [j for j in fitting if not images[j].reduced] or fitting
        before, behind = [j for j in fitting if j < place], [j for j in fitting if j > place]
        return None if not image.reduced else max(before) if before else min(behind, default=None)
    before = [j for j in fitting if j < place and _is_next((owners[j] or [images[j]])[-1].shape, image.shape)]
    return max(before, default=None)


def _is_next(above: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Return whether `shape` is that of `above` divided by 2, 3 or 4."""
    return any(all(abs(m / factor - n) < 1 for m, n in zip(above, shape, strict=True)) for factor in (2, 3, 4))
