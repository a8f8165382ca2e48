"""A magicgui form for any settings class: labels, help, limits and types come from its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args, get_origin

from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit, SpinBox
from qtpy.QtWidgets import QComboBox, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_lpd.core.reading import parse_json
from napari_lpd.core.settings.base import Settings, flat, nested
from napari_lpd.core.settings.reference import help_text, leaves_of, limits_of, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

S = TypeVar("S", bound=Settings)
MAX_INTEGER = 10**9
SEARCHED = 12  # rows from which on a form has a search field


class SettingsForm(QWidget, Generic[S]):
    """A form with one row per field, a heading per nested class, a mark on what was changed and a button to reset it.

    Args:
        settings: The initial values; their class gives rows, help and limits.
        only: Names of the rows to show, nested ones joined by dots; empty means all.
        without: Names of the rows to leave out.
    """

    def __init__(self, settings: S, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._type = type(settings)
        self._values = flat(settings.model_dump(mode="json"))
        self._rows: dict[str, Any] = {}
        self._labels: dict[str, str] = {}
        self._hidden: set[str] = set()
        self._headings: dict[str, QLabel] = {}
        self.search = QLineEdit(placeholderText="Search the settings", clearButtonEnabled=True)
        self.reset = QPushButton()
        groups: dict[str, list[Any]] = {}
        for name, field in leaves_of(self._type):
            if (not only or name in only) and name not in without:
                group, _, leaf = name.rpartition(".")
                self._labels[name] = field.title or leaf.replace("_", " ")
                self._rows[name] = _editor(field, self._values[name], help_text(name, field))
                groups.setdefault(group, []).append(self._rows[name])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.search)
        for group, rows in sorted(groups.items()):
            if group and len(groups) > 1:
                self._headings[group] = QLabel(f"<b>{group.replace('.', ' · ')}</b>")
                layout.addWidget(self._headings[group])
            container = Container(widgets=rows, labels=True)
            container.margins = (0, 0, 0, 0)
            layout.addWidget(container.native)
        layout.addWidget(self.reset)
        self.search.setVisible(len(self._rows) >= SEARCHED)
        self.search.textChanged.connect(self._show)
        self.reset.clicked.connect(lambda: self.set_value(self._type.build(nested(self._values))))
        for editor in self._rows.values():
            editor.changed.connect(self._mark)
        self.set_value(settings)

    def show_rows(self, names: Sequence[str], visible: bool) -> None:
        """Show or hide rows; hidden rows keep their values."""
        self._hidden = self._hidden - set(names) if visible else self._hidden | set(names)
        self._show()

    def _show(self) -> None:
        """Show the rows and headings that are not hidden and whose name or help has all words of the search."""
        words = self.search.text().lower().split()
        shown = {name for name, row in self._rows.items() if all(w in f"{name} {row.tooltip}".lower() for w in words)}
        shown -= self._hidden
        for name, row in self._rows.items():
            row.visible = name in shown
        for group, heading in self._headings.items():
            heading.setVisible(any(name.rpartition(".")[0] == group for name in shown))

    def changes(self) -> dict[str, Any]:
        """Return the values of all rows by name, nested ones with dots."""
        return {name: _read(editor, isinstance(self._values[name], str)) for name, editor in self._rows.items()}

    def value(self) -> S:
        """Return the settings in the form.

        Raises:
            SettingsError: a value is out of its limits.
        """
        return self._type.build(nested(self._values | self.changes()))

    def set_value(self, settings: S) -> None:
        """Show `settings`, from which changes are marked and to which *Reset* returns."""
        self._values = flat(settings.model_dump(mode="json"))
        for name, editor in self._rows.items():
            with editor.changed.blocked():  # all are marked at the end: a label takes magicgui a while
                editor.value = _shown(editor, self._values[name])
        self._mark()

    def _mark(self) -> None:
        """Put a dot before the changed rows and count them on the button."""
        changed = [name for name, row in self._rows.items() if row.value != _shown(row, self._values[name])]
        for name, row in self._rows.items():
            label = f"{'• ' if name in changed else ''}{self._labels[name]}"
            if row.label != label:
                row.label = label
                if isinstance(row, CheckBox):  # whose text is its label
                    row.text = label
        self.reset.setText(f"Reset {len(changed)} changed")
        self.reset.setToolTip(f"Return to the values of before: {', '.join(changed)}")
        self.reset.setVisible(bool(changed))


def _editor(field: FieldInfo, value: Any, tooltip: str) -> Any:
    """Make the magicgui widget for a field; numbers such as 5e-5, and lists, are text that JSON reads."""
    if get_origin(field.annotation) is Literal:
        box = ComboBox(choices=get_args(field.annotation), tooltip=tooltip)
        box.native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        box.native.setMinimumContentsLength(6)  # its width does not depend on its entries
        return box
    if isinstance(value, bool):
        return CheckBox(tooltip=tooltip)
    if isinstance(value, int):
        limits = {"ge": 0, "le": MAX_INTEGER} | limits_of(field)
        return SpinBox(value=value, min=int(limits["ge"]), max=int(limits["le"]), tooltip=tooltip)
    return LineEdit(tooltip=tooltip)


def _shown(editor: Any, value: Any) -> Any:
    """Return what the widget shows for a value."""
    return written(value) if isinstance(editor, LineEdit) else value


def _read(editor: Any, is_text: bool) -> Any:
    if not isinstance(editor, LineEdit) or is_text:
        return editor.value
    try:
        return parse_json(editor.value)
    except ValueError:
        return editor.value  # Settings.build reports what is wrong
