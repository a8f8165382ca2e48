"""Figures that are drawn once, and written as pixels (PNG, PDF) or as shapes, letters and pictures (SVG)."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from PIL import Image, ImageDraw, ImageFont

from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Point = tuple[float, float]

FINEST = 2  # pixels per unit: what a picture keeps in SVG, and what is written as PNG and PDF
JPEG_QUALITY = 92
FORMATS = (".png", ".svg", ".pdf")
Align = Literal["left", "middle", "right"]
_PILLOW: dict[Align, str] = {"left": "ls", "middle": "ms", "right": "rs"}
_SVG: dict[Align, str] = {"left": "start", "middle": "middle", "right": "end"}


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class _Part(Protocol):
    """Something that is drawn."""

    def paint(self, picture: Image.Image, draw: ImageDraw.ImageDraw, scale: int) -> None:
        """Draw it with `scale` pixels per unit."""

    def svg(self) -> str:
        """It as an element."""


class _Text(NamedTuple):
    start: Point  # on the base line
    text: str
    size: int
    colour: str
    align: Align

    def paint(self, picture: Image.Image, draw: ImageDraw.ImageDraw, scale: int) -> None:
        place = (self.start[0] * scale, self.start[1] * scale)
        draw.text(place, self.text, self.colour, _font(self.size * scale), anchor=_PILLOW[self.align])

    def svg(self) -> str:
        return (
            f"<text x='{self.start[0]:g}' y='{self.start[1]:g}' font-size='{self.size}' fill='{self.colour}'"
            f" text-anchor='{_SVG[self.align]}'>{escape(self.text)}</text>"
        )


class _Line(NamedTuple):
    ends: tuple[Point, Point]
    colour: str
    width: float

    def paint(self, picture: Image.Image, draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.line([(x * scale, y * scale) for x, y in self.ends], self.colour, round(self.width * scale))

    def svg(self) -> str:
        (x1, y1), (x2, y2) = self.ends
        return (
            f"<line x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}' stroke='{self.colour}'"
            f" stroke-width='{self.width:g}'/>"
        )


class _Polygon(NamedTuple):
    corners: tuple[Point, ...]
    fill: str
    outline: str

    def paint(self, picture: Image.Image, draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.polygon([(x * scale, y * scale) for x, y in self.corners], self.fill, self.outline, scale)

    def svg(self) -> str:
        corners = " ".join(f"{x:g},{y:g}" for x, y in self.corners)
        return f"<polygon points='{corners}' fill='{self.fill}' stroke='{self.outline}'/>"


class _Disc(NamedTuple):
    middle: Point
    radius: float
    fill: str
    outline: str

    def paint(self, picture: Image.Image, draw: ImageDraw.ImageDraw, scale: int) -> None:
        (x, y), r = (self.middle[0] * scale, self.middle[1] * scale), self.radius * scale
        draw.ellipse((x - r, y - r, x + r, y + r), self.fill, self.outline, scale)

    def svg(self) -> str:
        x, y = self.middle
        return f"<circle cx='{x:g}' cy='{y:g}' r='{self.radius:g}' fill='{self.fill}' stroke='{self.outline}'/>"


class _Picture(NamedTuple):
    picture: Image.Image
    corner: tuple[int, int]
    size: tuple[int, int]

    def _resized(self, scale: int) -> Image.Image:
        size = (self.size[0] * scale, self.size[1] * scale)
        return self.picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)

    def paint(self, picture: Image.Image, draw: ImageDraw.ImageDraw, scale: int) -> None:
        picture.paste(self._resized(scale), (self.corner[0] * scale, self.corner[1] * scale))

    def svg(self) -> str:
        file = io.BytesIO()
        self._resized(FINEST).save(file, "JPEG", quality=JPEG_QUALITY)
        (x, y), (width, height) = self.corner, self.size
        data = base64.b64encode(file.getvalue()).decode()
        return f"<image x='{x}' y='{y}' width='{width}' height='{height}' href='data:image/jpeg;base64,{data}'/>"


class Drawing:
    """A white sheet; what is drawn later lies on top. Units are pixels of the screen, x to the right and y down.

    Attributes:
        width: In units.
        height: In units.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._parts: list[_Part] = []

    def text(self, at: Point, text: str, size: int = 12, colour: str = "black", align: Align = "left") -> None:
        """One line of letters whose top is at `at`, to its right, around it or to its left."""
        self._parts.append(_Text((at[0], at[1] + size), text, size, colour, align))

    def line(self, ends: tuple[Point, Point], colour: str, width: float = 1) -> None:
        """A straight line."""
        self._parts.append(_Line(ends, colour, width))

    def polygon(self, corners: Sequence[Point], fill: str, outline: str) -> None:
        """A filled shape."""
        self._parts.append(_Polygon(tuple(corners), fill, outline))

    def disc(self, middle: Point, radius: float, fill: str, outline: str) -> None:
        """A filled circle."""
        self._parts.append(_Disc(middle, radius, fill, outline))

    def paste(self, picture: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> None:
        """A picture, brought to `size`."""
        self._parts.append(_Picture(picture, corner, size))

    def pixels(self, scale: int = 1) -> Image.Image:
        """The sheet with `scale` pixels per unit."""
        picture = Image.new("RGB", (self.width * scale, self.height * scale), "white")
        draw = ImageDraw.Draw(picture)
        for part in self._parts:
            part.paint(picture, draw, scale)
        return picture

    def svg(self) -> str:
        """The sheet as SVG; pictures are inside."""
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{self.width}' height='{self.height}'"
            f" viewBox='0 0 {self.width} {self.height}' font-family='Helvetica,Arial,sans-serif'>"
        )
        white = "<rect width='100%' height='100%' fill='white'/>"
        return "\n".join([head, white, *(part.svg() for part in self._parts), "</svg>\n"])

    def encoded(self, suffix: str) -> bytes:
        """The content of a file whose name ends in `suffix`, one of `FORMATS`."""
        if suffix == ".svg":
            return self.svg().encode()
        file = io.BytesIO()
        self.pixels(FINEST).save(file, suffix[1:].upper(), resolution=72 * FINEST)
        return file.getvalue()

    def write(self, path: Path) -> None:
        """Write a file, in place of one that is there; its name says the format.

        Raises:
            ExportError: another ending than those of `FORMATS`, or the place cannot be written.
        """
        suffix = path.suffix.lower()
        if suffix not in FORMATS:
            raise ExportError(f"{path.name}: figures are written as {', '.join(FORMATS)}; end the name in one of these")
        with written_whole(path, overwrite=True) as partial:
            partial.write_bytes(self.encoded(suffix))
