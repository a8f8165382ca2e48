"""What was applied last on each slide, to be taken back: the newest steps, within a bound of memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Box
    from napari_lpd.results.prediction import Prediction

MOST_MB = 64  # of all steps, packed; a step of usual size takes a few kB
MOST = 1000  # steps


class Step(NamedTuple):
    """What was stored in a box of a result before it was corrected there.

    Attributes:
        prediction: The result.
        box: (y0, x0, y1, x1), in pixels of the result.
        packed: The values of `Corrections.stored_labels`, compressed.
    """

    prediction: Prediction
    box: Box
    packed: bytes

    @classmethod
    def around(
        cls,
        prediction: Prediction,
        origin: tuple[int, int],
        stored: NDArray[np.uint8],
        changed: NDArray[np.bool_],
    ) -> Step:
        """Keep what is stored (h, w) from `origin` (y, x) around the pixels that are `changed`."""
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
        box = origin[0] + top, origin[1] + left, origin[0] + bottom, origin[1] + right
        return cls(prediction, box, zlib.compress(np.ascontiguousarray(stored[top:bottom, left:right]).tobytes()))

    def stored(self) -> NDArray[np.uint8]:
        """Return the values (h, w)."""
        y0, x0, y1, x1 = self.box
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(y1 - y0, x1 - x0)


class Steps:
    """Steps of all slides, oldest first; the oldest are forgotten when there are too many."""

    def __init__(self, most_bytes: int = MOST_MB * 2**20) -> None:
        self._most, self._steps = most_bytes, list[Step]()

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def size(self) -> int:
        """Bytes that the steps take."""
        return sum(len(step.packed) for step in self._steps)

    def add(self, step: Step) -> None:
        """Keep a step, the newest."""
        self._steps.append(step)
        while self._steps and (self.size > self._most or len(self) > MOST):
            del self._steps[0]

    def last(self, slide: str) -> Step | None:
        """Return the newest step of a slide, by its fingerprint; None where there is none."""
        return next((step for step in reversed(self._steps) if step.prediction.card.slide_hash == slide), None)

    def remove(self, step: Step) -> None:
        """Forget a step that was taken back."""
        self._steps = [each for each in self._steps if each is not step]
