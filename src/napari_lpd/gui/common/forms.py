"""A form for any settings class: labels, help, limits and types come from its fields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, get_origin

from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from napari_lpd.core.reading import parse_json
from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.reference import limits_of, limits_text
from napari_lpd.gui.common.layout import chooser

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

S = TypeVar("S", bound=Settings)
MAX_INTEGER = 10**9


class SettingsForm(QWidget, Generic[S]):
    """A form with one row per field; names of nested settings are joined by dots.

    Args:
        settings: The initial values; their class gives rows, help and limits.
        only: Names of the rows to show; empty means all.
        without: Names of the rows to leave out.
    """

    def __init__(self, settings: S, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._base = settings
        self._rows: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        for name, field, value in _leaves(settings):
            if (only and name not in only) or name in without:
                continue
            editor = self._rows[name] = _editor(field, value)
            layout.addRow(field.title or name.rpartition(".")[2].replace("_", " "), editor)
            for widget in (editor, layout.labelForField(editor)):
                widget.setToolTip(_help(field))

    def show_rows(self, names: Sequence[str], visible: bool) -> None:
        """Show or hide rows; hidden rows keep their values."""
        layout = self.layout()
        assert isinstance(layout, QFormLayout)
        for name in names:
            editor = self._rows[name]
            for widget in (editor, layout.labelForField(editor)):
                widget.setVisible(visible)

    def changes(self) -> dict[str, Any]:
        """Return the values of all rows, nested like the settings."""
        values: dict[str, Any] = {}
        for name, editor in self._rows.items():
            target = values
            *parents, leaf = name.split(".")
            for parent in parents:
                target = target.setdefault(parent, {})
            target[leaf] = _read(editor)
        return values

    def value(self) -> S:
        """Return the settings in the form.

        Raises:
            SettingsError: a value is out of its limits.
        """
        return type(self._base).build(merged(self._base.model_dump(), self.changes()))

    def set_value(self, settings: S) -> None:
        """Show `settings`."""
        self._base = settings
        for name, _, value in _leaves(settings):
            if name in self._rows:
                _write(self._rows[name], value)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `base` updated with `changes`, nested dictionaries too."""
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


def _help(field: FieldInfo) -> str:
    limits = limits_text(field)
    return f"{field.description or ''}{f' ({limits})' if limits else ''}"


def _editor(field: FieldInfo, value: Any) -> QWidget:
    editor: QWidget
    if get_origin(field.annotation) is Literal:
        editor = chooser(get_args(field.annotation))
    elif isinstance(value, bool):
        editor = QCheckBox()
    elif isinstance(value, int):
        editor = QSpinBox()
        limits = limits_of(field)
        editor.setRange(int(limits.get("ge", 0)), int(limits.get("le", MAX_INTEGER)))
    else:  # numbers as text, for learning rates such as 5e-5, and lists
        editor = QLineEdit()
        editor.setProperty("is_text", isinstance(value, str))
    _write(editor, value)
    return editor


def _write(editor: QWidget, value: Any) -> None:
    if isinstance(editor, QCheckBox):
        editor.setChecked(value)
    elif isinstance(editor, QComboBox):
        editor.setCurrentText(value)
    elif isinstance(editor, QSpinBox):
        editor.setValue(value)
    elif isinstance(editor, QLineEdit):
        editor.setText(value if isinstance(value, str) else json.dumps(value))
        editor.setCursorPosition(0)  # show the start of a long text


def _read(editor: QWidget) -> Any:
    if isinstance(editor, QCheckBox):
        return editor.isChecked()
    if isinstance(editor, QComboBox):
        return editor.currentText()
    if isinstance(editor, QSpinBox):
        return editor.value()
    assert isinstance(editor, QLineEdit)
    if editor.property("is_text"):
        return editor.text()
    try:
        return parse_json(editor.text())
    except ValueError:
        return editor.text()  # Settings.build reports what is wrong
