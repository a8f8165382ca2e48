"""Read tiles and masks from files of any kind, and pair them by name."""

from __future__ import annotations

import re
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_lpd.core.errors import DataError, SettingsError, one_line
from napari_lpd.core.reading import visible
from napari_lpd.slides.formats import how_turned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
IGNORE = 255  # truth without a class, which is not counted
PARTS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test", "testing")}
"""Names of the folders of a data set (BCSS-WSSS: train, valid, test; LUAD-HistoSeg: training, val, test)."""

_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_NUMBERS = ("1", "L", "LA", "P", "PA", "F", *_SIXTEEN_BIT)
_COLOURS = ("RGB", "RGBA", "YCbCr")


def part_of(data: Path, part: str) -> Path:
    """Return the folder of a data set for its `part` (train, valid, test), by any of its names; it may be absent."""
    return next((data / name for name in PARTS[part] if (data / name).is_dir()), data / part)


def image_files(folder: Path) -> list[Path]:
    """List the image files of a folder, sorted by name.

    Raises:
        DataError: no such folder, or no images in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths = [path for path in visible(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)})")
    return paths


@contextmanager
def opened(path: Path, what: str = "an image") -> Iterator[Image.Image]:
    """Open an image file: the boundary to Pillow.

    Raises:
        DataError: it is not readable as `what`, or turned or mirrored by a tag.
    """
    try:
        with Image.open(path) as image:
            if turned := how_turned(image):
                raise DataError(f"{path}: {turned}: save it upright, e.g. with `vips autorot IN OUT`")
            yield image
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{path}: not readable as {what} ({one_line(error, 150)})") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB: grey is repeated, transparent is white, 16 bit becomes 8.

    Raises:
        DataError: not readable as an image, or of floating-point numbers, whose white is not known.
    """
    with opened(path) as image:
        if image.mode == "F":
            raise DataError(f"{path}: has pixels of floating-point numbers, wanted 8 bits per colour; save it as RGB")
        if image.mode in _SIXTEEN_BIT:
            grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            return np.array(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
        return np.array(image.convert("RGB"))  # asarray would not be writable, and torch wants that


def read_mask(path: Path, classes: Sequence[TissueClass]) -> NDArray[np.uint8]:
    """Read a mask as (H, W) uint8: c = class c, C = background (no class), 255 = not counted.

    Palette and grey masks, of 1 to 32 bits or of floating-point numbers, hold these numbers themselves. RGB masks hold
    the classes' colours; white is background and black is not counted. What is transparent is not counted.

    Raises:
        DataError: not readable, turned by a tag, or holding an unknown value or colour.
    """
    count = len(classes)
    with opened(path, "a mask") as image:
        values, clear = _mask_pixels(path, image)
        palette = image.getpalette() or [] if image.mode in ("P", "PA") else []
    if values.ndim == 3:
        labels = _labels_of_colours(path, values, classes, clear)
    else:
        _check_palette(path, palette, classes)
        known = np.isin(values, [*range(count + 1), IGNORE]) | clear
        if not known.all():
            named = ", ".join(tissue.name for tissue in classes)
            raise DataError(
                f"{path}: mask value {values[~known][0]:g}; wanted 0..{count - 1} for {named}, {count} for background,"
                f" {IGNORE} for pixels that are not counted"
            )
        labels = np.where(clear, IGNORE, values).astype(np.uint8)
    return labels


def _mask_pixels(path: Path, image: Image.Image) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return a mask's numbers (H, W) or colours (H, W, 3), and which pixels are transparent (H, W)."""
    if image.mode not in (*_NUMBERS, *_COLOURS):
        raise DataError(f"{path}: has pixels of mode {image.mode}, wanted numbers or RGB; save it as PNG")
    values = np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image)
    clear = np.zeros(values.shape[:2], np.bool_)
    if "A" in image.getbands():
        values, alpha = values[..., :-1], values[..., -1]
        if ((alpha > 0) & (alpha < 255)).any():
            raise DataError(f"{path}: a mask with half-transparent pixels; save it without transparency")
        clear = alpha == 0
    return values[..., 0] if values.shape[2:] == (1,) else values, clear


def shows_colours(path: Path, classes: Sequence[TissueClass]) -> bool:
    """Tell whether a mask says by its colours which class is which: it is RGB, or its palette has the classes' colours.

    Raises:
        DataError: not readable.
    """
    with opened(path, "a mask") as image:
        palette = image.getpalette() or [] if image.mode in ("P", "PA") else []
        return image.mode in _COLOURS or palette[: 3 * len(classes)] == [value for t in classes for value in t.rgb]


def _check_palette(path: Path, palette: Sequence[int], classes: Sequence[TissueClass]) -> None:
    """Raise DataError if a palette shows a class in another's colour: then the classes are in another order."""
    for c, tissue in enumerate(classes):
        shown = tuple(palette[3 * c : 3 * c + 3])
        other = next((t for t in classes if t is not tissue and t.rgb == shown and shown != tissue.rgb), None)
        if other:
            raise DataError(
                f"{path}: number {c}, {tissue.name}, has the colour of {other.name}; are the classes in order?"
            )


def _labels_of_colours(
    path: Path, rgb: NDArray[np.uint8], classes: Sequence[TissueClass], clear: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    if len({tissue.rgb for tissue in classes}) < len(classes):
        raise DataError(f"{path}: an RGB mask, but two classes have one colour; give each its own")
    meaning = {(255, 255, 255): len(classes), (0, 0, 0): IGNORE} | {t.rgb: c for c, t in enumerate(classes)}
    codes = rgb.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    labels = np.full(codes.shape, IGNORE, np.uint8)
    known = clear.copy()
    for (red, green, blue), label in meaning.items():
        pixels = (codes == red * 65536 + green * 256 + blue) & ~clear
        labels[pixels], known = label, known | pixels
    if not known.all():
        colour = f"#{int(codes[~known][0]):06x}"
        legend = ", ".join(f"{tissue.name} {tissue.color}" for tissue in classes)
        raise DataError(f"{path}: colour {colour} is no class's; wanted {legend}, white background, black not counted")
    return labels


class MaskedImage(NamedTuple):
    """An image file with its mask file and the slide or patient it comes from."""

    image: Path
    mask: Path
    source: str


def masked_images(folder: Path, source: str = "") -> list[MaskedImage]:
    """Pair ``folder/img/*`` with ``folder/mask/*`` of the same stem, whatever the file types.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from napari_lpd import masked_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("img", "mask"):
        ...         Path(folder, part).mkdir()
        ...         Image.new("L", (64, 64)).save(Path(folder, part, "P1+3.png"))
        ...     [(pair.image.name, pair.source) for pair in masked_images(Path(folder))]
        [('P1+3.png', 'P1')]

    Args:
        folder: Folder with img and mask.
        source: Regular expression whose first group, in the stem, names the slide or patient; see `source_of`.

    Raises:
        DataError: a folder is missing, or an image or mask has no partner; the message names one.
    """
    images, masks = by_stem(folder / "img"), by_stem(folder / "mask")
    for files, partners, kind in ((images, masks, "mask"), (masks, images, "image")):
        unpaired = sorted(files.keys() - partners.keys())
        if unpaired:
            raise DataError(
                f"{files[unpaired[0]]}: no {kind} of the same name ({len(unpaired)} such files); rename or remove them"
            )
    sources = sources_of(list(images), source)
    return [MaskedImage(images[stem], masks[stem], slide) for stem, slide in zip(images, sources, strict=True)]


def by_stem(folder: Path) -> dict[str, Path]:
    """Map names without suffix to the image files of a folder, sorted.

    Raises:
        DataError: no such folder, no images, or two of one name.
    """
    files: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in files:
            raise DataError(f"{path}: {files[path.stem].name} has the same name; keep one of them")
        files[path.stem] = path
    return files


def sources_of(stems: Sequence[str], pattern: str = "") -> list[str]:
    """Apply `source_of` to every name.

    Raises:
        SettingsError: not a regular expression with a group, or one that matches none of the names.
    """
    sources = [source_of(stem, pattern) for stem in stems]
    if pattern and not any(re.search(pattern, stem) for stem in stems):
        raise SettingsError(f"source pattern {pattern!r}: matches none of {len(stems)} names, first {stems[0]}")
    return sources


def source_of(stem: str, pattern: str = "") -> str:
    """Return the slide or patient of a tile: the pattern's first group; without a match, the name before + or [.

    Raises:
        SettingsError: not a regular expression with a group.
    """
    if pattern:
        try:
            match = re.search(pattern, stem)
            name = match[1] if match else None
        except (re.error, IndexError) as error:
            raise SettingsError(f"source pattern {pattern!r}: wanted a regular expression with a group") from error
        if name:
            return name
    return re.split(r"[+\[]", stem, maxsplit=1)[0].strip()
