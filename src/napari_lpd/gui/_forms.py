"""A form for any settings class: labels, help, limits and types come from its fields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qtpy.QtWidgets import QCheckBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from napari_lpd.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

S = TypeVar("S", bound=Settings)


class SettingsForm(QWidget, Generic[S]):
    """One row per field; nested settings are laid out in place, names joined by dots."""

    def __init__(self, settings: S, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._base = settings
        self._rows: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for name, field, value in _leaves(settings):
            if (only and name not in only) or name in without:
                continue
            editor = _editor(field, value)
            editor.setToolTip(field.description or "")
            self._rows[name] = editor
            layout.addRow(name.rpartition(".")[2].replace("_", " "), editor)

    def changes(self) -> dict[str, Any]:
        """The rows' values, nested like the settings."""
        values: dict[str, Any] = {}
        for name, editor in self._rows.items():
            target = values
            *parents, leaf = name.split(".")
            for parent in parents:
                target = target.setdefault(parent, {})
            target[leaf] = _value(editor)
        return values

    def value(self) -> S:
        """The settings as the form stands.

        Raises:
            SettingsError: a value is out of its limits.
        """
        return type(self._base).build(merged(self._base.model_dump(), self.changes()))


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, nested dictionaries too."""
    result = dict(base)
    for name, value in changes.items():
        result[name] = merged(result[name], value) if isinstance(value, dict) else value
    return result


def _leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, field, value


def _editor(field: FieldInfo, value: Any) -> QWidget:
    if isinstance(value, bool):
        box = QCheckBox()
        box.setChecked(value)
        return box
    if isinstance(value, int):
        spin = QSpinBox()
        limits = {type(limit).__name__: limit for limit in field.metadata}
        spin.setRange(getattr(limits.get("Ge"), "ge", 0), getattr(limits.get("Le"), "le", 10**9))
        spin.setValue(value)
        return spin
    line = QLineEdit(value if isinstance(value, str) else json.dumps(value))
    line.setProperty("is_text", isinstance(value, str))
    return line


def _value(editor: QWidget) -> Any:
    if isinstance(editor, QCheckBox):
        return editor.isChecked()
    if isinstance(editor, QSpinBox):
        return editor.value()
    assert isinstance(editor, QLineEdit)
    if editor.property("is_text"):
        return editor.text()
    try:
        return json.loads(editor.text())
    except ValueError:
        return editor.text()  # Settings.build says what is wrong with it
