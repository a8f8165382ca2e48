"""Base of all settings: frozen, checked when built, read from files and flags."""

from __future__ import annotations

import copy
import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_lpd.core.errors import SettingsError, one_line
from napari_lpd.core.files import mark_of, write_text
from napari_lpd.core.reading import parse_json, read_json
from napari_lpd.core.settings.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

S = TypeVar("S", bound="Settings")
KIND = "kind"  # in a settings file: that it is one


class Settings(BaseModel):
    """Base of the settings: frozen, no unknown names."""

    RUNTIME_SETTINGS: ClassVar[frozenset[str]] = frozenset()  # those that change how fast a job is, not its result

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def build(cls: type[S], values: dict[str, Any], source: Path | None = None) -> S:
        """Check `values`, of the file `source` where there is one, and build the settings.

        Raises:
            SettingsError: one line that names the file, the setting, the value and its limits.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError((f"{source}: " if source else "") + cls._contradiction(error.errors()[0])) from error

    @classmethod
    def _contradiction(cls, first: Mapping[str, Any]) -> str:
        """Say what pydantic's first error is, in one line."""
        name, message = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = cls.names()
            close = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
            close = close or get_close_matches(name, known, 1)
            message = f"did you mean {close[0]}?" if close else f"known settings: {', '.join(known)}"
            return f"there is no setting {one_line(name, 60)}; {message}"
        if first["type"] == "tuple_type":
            message += f"; write a list: {name}=[…]"
        if not isinstance(first["input"], dict):  # else a contradiction of several settings, which names them
            message = f"setting {name}={one_line(repr(first['input']), 60)}: {message}"
        return message

    @classmethod
    def names(cls, prefix: str = "") -> list[str]:
        """List all settings by name, nested ones with dots."""
        names: list[str] = []
        for name, field in cls.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, Settings):
                names += nested.names(f"{prefix}{name}.")
            else:
                names.append(prefix + name)
        return names


def read_settings(cls: type[S], path: Path | None, overrides: list[str], preset: str = "default") -> S:
    """Build settings from a JSON file, a preset, then ``name=value`` (dots reach into nested settings).

    Raises:
        SettingsError: a file that is not JSON or contradicts the preset, an unknown name or a value out of its limits.
    """
    values: dict[str, Any] = {} if path is None else read_json(path, SettingsError, "settings", dict)
    values.pop(KIND, None)
    _merge(values, copy.deepcopy(PRESETS[preset]), f"{path}: its %s contradicts preset {preset}; leave one of them out")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: wanted NAME=VALUE")
        target = values
        *parents, leaf = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise SettingsError(f"--set {override}: {parent} has no parts")
        try:
            target[leaf] = parse_json(text)
        except ValueError:
            target[leaf] = text
    return cls.build(values, path)


def write_settings(path: Path, settings: Settings) -> Path:
    """Write settings as JSON atomically, for `read_settings`; only settings of the same kind are replaced.

    Raises:
        ExportError: the file cannot be written, or is another one.
    """
    kind = mark_of(type(settings).__name__)
    content = {KIND: kind, **settings.model_dump(mode="json")}
    return write_text(path, json.dumps(content, indent=1) + "\n", mark=kind)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by name, with dots.

    Examples:
        >>> flat({"epochs": 3, "model": {"necks": 1}})
        {'epochs': 3, 'model.necks': 1}
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        result.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by name, with dots, as the nested dictionaries of which `Settings.build` makes settings."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *parents, leaf = name.split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = value
    return result


def _merge(values: dict[str, Any], changes: dict[str, Any], contradiction: str) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value, contradiction)
        elif name in values and json.dumps(values[name]) != json.dumps(value):
            raise SettingsError(contradiction % name)
        else:
            values[name] = value
