"""Boxes (y0, x0, y1, x1) of pixels: the first row and column, and those after the last."""

from __future__ import annotations

from typing import Any

Box = tuple[int, int, int, int]


def common(one: Box, other: Box) -> Box:
    """What two boxes have in common; empty where they do not touch."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def is_empty(box: Box) -> bool:
    """Whether a box holds no pixel."""
    return box[0] >= box[2] or box[1] >= box[3]


def multiplied(box: Box, stride: int) -> Box:
    """A box of map pixels in pixels."""
    y0, x0, y1, x1 = box
    return y0 * stride, x0 * stride, y1 * stride, x1 * stride


def divided(box: Box, stride: int) -> Box:
    """The map pixels that a box of pixels touches."""
    y0, x0, y1, x1 = box
    return y0 // stride, x0 // stride, -(-y1 // stride), -(-x1 // stride)


def within(outer: Box, inner: Box) -> tuple[Any, ...]:
    """Index of a box in an array (..., h, w) of another that holds it."""
    top, left = outer[:2]
    return (..., slice(inner[0] - top, inner[2] - top), slice(inner[1] - left, inner[3] - left))
