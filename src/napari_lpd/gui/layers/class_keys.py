"""Number keys that mean the same whatever layer is active, and the class in hand, shown on the canvas.

napari looks for a key in the keymap of the active layer first, where numbers choose its tools: the transform tool of
an image, the eraser of labels. So the keys are bound to every layer of the viewer, and to the viewer itself.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Protocol

from napari.components.overlays import TextOverlay
from qtpy.QtGui import QColor

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer
    from napari.utils.events import Event

OVERLAY = "napari_lpd_class"
BRIGHT = 0.179  # relative luminance from which black text has more contrast than white text
_all: dict[int, ClassKeys] = {}


class Tool(Protocol):
    """What takes a class in hand: drawing regions, correcting a mask."""

    def on_number(self, number: int) -> None:
        """Take a class in hand, from 1; 0: none of the classes. Nothing that is drawn changes."""

    def on_control_number(self, number: int) -> None:
        """Change what is selected."""


class ClassKeys:
    """Keys 0 to 9 of one viewer, alone and with Ctrl, which the tool that was taken last receives."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = weakref.ref(viewer)
        self._tools: list[weakref.ref[Tool]] = []
        self._in_hand: weakref.WeakKeyDictionary[Tool, tuple[str, str]] = weakref.WeakKeyDictionary()
        viewer.layers.events.inserted.connect(self._on_inserted)
        weakref.finalize(viewer, _all.pop, id(viewer), None)

    @classmethod
    def of(cls, viewer: napari.Viewer) -> ClassKeys:
        """Return the keys of a viewer, for which napari hands a proxy to each of our widgets."""
        viewer = getattr(viewer, "__wrapped__", viewer)
        return _all.get(id(viewer)) or _all.setdefault(id(viewer), cls(viewer))

    def take(self, tool: Tool) -> None:
        """Give a tool the keys."""
        self._tools = [*self._others(tool), weakref.ref(tool)]
        self._update()

    def show(self, tool: Tool, text: str, color: str) -> None:
        """Show what a tool has in hand while it has the keys: a text on a colour; "" hides it."""
        self._in_hand[tool] = (text, color)
        self._update()

    def drop(self, tool: Tool) -> None:
        """Give the keys back to the tool that was taken before, or to napari."""
        self._tools = self._others(tool)
        self._update()

    def _others(self, tool: Tool) -> list[weakref.ref[Tool]]:
        return [other for other in self._tools if other() not in (tool, None)]

    def _top(self) -> Tool | None:
        return self._tools[-1]() if self._tools else None

    def _update(self) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        for target in (viewer, *viewer.layers):
            self._bind(target)
        tool = self._top()
        text, color = self._in_hand.get(tool, ("", "")) if tool is not None else ("", "")
        if OVERLAY not in viewer.canvas.overlays:
            viewer.canvas.overlays[OVERLAY] = TextOverlay(box=True, font_size=11, position="top_left")
        overlay = viewer.canvas.overlays[OVERLAY]
        if text:
            overlay.text, overlay.box_color, overlay.color = text, color, text_color(color)
        overlay.visible = bool(text)

    def _on_inserted(self, event: Event) -> None:
        self._bind(event.value)

    def _bind(self, target: napari.Viewer | Layer) -> None:
        for number in range(10):
            for key, control in ((f"{number}", False), (f"Control-{number}", True)):
                if self._tools:
                    target.bind_key(key, lambda _, n=number, c=control: self._press(n, c), overwrite=True)
                else:
                    target.bind_key(key, None)

    def _press(self, number: int, control: bool) -> None:
        tool = self._top()
        if tool is not None:
            (tool.on_control_number if control else tool.on_number)(number)


def bind_everywhere(viewer: napari.Viewer, key: str, action: Callable[[], None]) -> None:
    """Bind a key to a method of an object that lives as long as its widget, whatever layer is active."""
    viewer, method = getattr(viewer, "__wrapped__", viewer), weakref.WeakMethod(action)

    def press(_: object) -> None:
        bound = method()
        if bound is not None:
            bound()

    def bind(event: Event) -> None:
        event.value.bind_key(key, press, overwrite=True)

    for target in (viewer, *viewer.layers):
        target.bind_key(key, press, overwrite=True)
    viewer.layers.events.inserted.connect(bind)


def text_color(background: str) -> str:
    """Return black or white, whichever has more contrast on a colour (WCAG 2: at least 4.5)."""
    parts = [QColor(background).redF(), QColor(background).greenF(), QColor(background).blueF()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > BRIGHT else "#ffffff"
