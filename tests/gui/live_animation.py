"""Make the animation of the live mask for the README from the real window, with mouse and keys.

    xvfb-run -a -s "-screen 0 1280x800x24" python tests/gui/live_animation.py OUT.gif [--pictures DIR]

Regions are drawn on the sample slide, and a frame is kept after each step: the mask follows, and the line below the
tissues says how right it is about regions that were held out. ``--pictures`` keeps the frames whole.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QSettings
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd import samples
from napari_lpd.core.classes import read_classes

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parent))
from hand import User, button, click

SIZE, WIDTH, COLOURS = (1280, 780), 860, 128
SHOWN_MS, LAST_MS, TIMEOUT_S = 900, 3000, 900
MIDDLE, ZOOM = (2960.0, 1500.0), 0.17  # of the view, µm and pixels per µm
DRAWN = [  # key of the tissue, box in µm: y, x, height, width
    ("2", 2090, 20, 450, 480),
    ("3", 3300, 1900, 300, 300),
    ("4", 2760, 2560, 390, 480),
    ("1", 3900, 40, 400, 230),
    ("3", 2050, 1330, 210, 210),
]
STROKE = "4", (3180, 1500), (3330, 1640)  # key, from, to


class Film:
    """The window, and pictures of it."""

    def __init__(self, pictures: Path | None) -> None:
        self.pictures, self.frames = pictures, list[Image.Image]()
        self.viewer = napari.Viewer(title="napari-lpd")
        self.viewer.window.resize(*SIZE)
        _, self.train = self.viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
        self.user = User(self.viewer)

    def take(self, name: str) -> None:
        """Keep a picture of the window."""
        for _ in range(3):
            QApplication.processEvents()
        image = Image.fromarray(self.viewer.window.screenshot(canvas_only=False, flash=False)[..., :3])
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            image.save(self.pictures / f"{len(self.frames):02}_{name}.png")
        self.frames.append(image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS))

    def wait(self, fact: Callable[[], bool]) -> None:
        """Let the window work until something is so."""
        deadline = time.monotonic() + TIMEOUT_S
        while not fact():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing happens any more: {self.train.live.line.text()}")
            QTest.qWait(50)

    def settle(self, checked: bool) -> None:
        """Wait until the mask is complete, and until nothing is to be checked any more."""
        live = self.train.live
        QTest.qWait(600)

        def is_complete() -> bool:
            if checked:
                return not live.runner.running and not live._engine.unchecked
            return not live.runner.running or live.follower.waits

        self.wait(is_complete)

    def save(self, path: Path) -> None:
        """Write the frames as an animation."""
        times = [SHOWN_MS] * (len(self.frames) - 1) + [LAST_MS]
        whole = Image.fromarray(np.concatenate([np.asarray(frame) for frame in self.frames]))
        palette = whole.quantize(COLOURS)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)


def draw(film: Film) -> None:
    """Draw regions of four tissues; the mask follows."""
    train, camera = film.train, film.viewer.scene.camera
    train.data.classes.set_classes(read_classes(samples.classes_path()))
    train.data.drawn.slides.open(samples.skin_slide_path())
    QTest.qWait(300)
    camera.center, camera.zoom = (0, *MIDDLE), ZOOM
    film.take("slide")
    click(button(train, "Draw regions"))
    for number, (key, y, x, height, width) in enumerate(DRAWN, start=1):
        film.user.key(key)
        film.user.key("r")
        film.user.drag((y, x), (y + height, x + width))
        film.take(f"drawn_{number}")
        if number > 1:
            film.settle(checked=number == len(DRAWN))
            film.take(f"mask_{number}")
    click(button(train, "Paint"))
    film.user.key(STROKE[0])
    film.user.drag(*STROKE[1:])
    film.take("painted")
    film.settle(checked=False)
    film.take("mask_painted")
    film.user.key("n")
    film.settle(checked=True)
    film.take("next_place")
    film.user.key("y")
    film.settle(checked=False)
    film.take("looks_right")
    camera.center, camera.zoom = (0, *MIDDLE), ZOOM
    film.settle(checked=True)
    click(train.live.hatched)
    film.take("hatched")


def main() -> int:
    """Parse the arguments and make the animation."""
    parser = argparse.ArgumentParser(description="Make the animation of the live mask from the real window.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=Path)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        QSettings.setPath(QSettings.Format.NativeFormat, QSettings.Scope.UserScope, folder)
        film = Film(options.pictures)
        draw(film)
        film.save(options.out)
        film.train.live.put_down()
        film.viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
