"""Reference of all settings: name, default, unit, limits, presets and help, as rows, text and Markdown."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from napari_lpd.core.settings.base import Settings, flat
from napari_lpd.core.settings.evaluation import CompareSettings, EvaluateSettings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.presets import ABOUT, PRESETS
from napari_lpd.core.settings.results import ExportSettings, MeasureSettings
from napari_lpd.core.settings.training import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

COMMANDS: dict[str, tuple[type[Settings], str]] = {
    "train": (TrainSettings, "also of reproduce and stage2"),
    "predict": (PredictSettings, ""),
    "evaluate": (EvaluateSettings, "also of reproduce, with --evaluate-set"),
    "compare": (CompareSettings, ""),
    "measure": (MeasureSettings, ""),
    "export": (ExportSettings, ""),
}
"""Command → its settings, and where else they count."""

UNITS = {
    "mpp": "µm per pixel",
    **dict.fromkeys(("tile", "tile_step", "region_size", "blur_jitter", "overlap", "block"), "pixels"),
    **dict.fromkeys(("gaussian_sigma", "bilateral_sigma"), "pixels or µm"),
    "colour_sigma": "grey levels",
    **dict.fromkeys(("simplify_um", "histogram_um", "smooth_um"), "µm"),
    **dict.fromkeys(("smallest_um2", "holes_um2"), "µm²"),
    **dict.fromkeys(("min_cover", "region_threshold", "white_limit", "valid_share", "presence"), "share"),
    **dict.fromkeys(("warm_up", "lr_warm_up"), "share of the run"),
    **dict.fromkeys(("stain_jitter", "size_jitter"), "share"),
    "boundary_share": "share of the diagonal",
    **dict.fromkeys(("feature_dropout", "presence_dropout", "self_training_confidence"), "share"),
    "self_training": "share of the run",
    "necks": "necks",
    **dict.fromkeys(("neck_width", "presence_width"), "channels"),
    "places": "places",
    "hidden_ratio": "share of prototype_dim",
    "sure": "share",
    "head_lr_factor": "times lr",
    **dict.fromkeys(("epochs", "patience"), "epochs"),
    "max_steps": "steps",
    **dict.fromkeys(("batch", "cluster_members", "training_tiles", "slide_tiles", "stability_tiles"), "tiles"),
    **dict.fromkeys(("nearest", "nearest_places", "nearest_per_source"), "patches"),
    "prototypes_per_class": "prototypes",
    "prototype_dim": "numbers",
    "max_regions": "pairs",
    "bootstrap": "resamplings",
    "iterations": "iterations",
    **dict.fromkeys(("workers",), "processes"),
    "threads": "threads",
    **dict.fromkeys(("lr", "weight_decay", "lr_power", "seed", "background_power"), ""),
    **dict.fromkeys(("contrast_weight", "contrast_background", "area_weight", "diversity_weight"), ""),
    **dict.fromkeys(("presence_weight", "pixel_weight", "share_weight", "share_tolerance"), ""),
    **dict.fromkeys(("gaussian_weight", "bilateral_weight"), ""),
    **dict.fromkeys(("contrast_temperature", "diversity_temperature", "temperature"), ""),
}
"""Unit of every setting that is a number, by its last name; "" for a plain number."""

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
COLUMNS = ("setting", "default", "unit", "limits", "presets", "what it sets")


class SettingRow(NamedTuple):
    """One setting, as a user is told of it."""

    name: str
    default: str
    unit: str
    limits: str
    presets: str
    text: str


def limits_of(field: FieldInfo) -> dict[str, float]:
    """Return the limits of a field: some of ge, gt, le, lt."""
    return {
        name: getattr(limit, name)
        for limit in field.metadata
        for name in SIGNS
        if getattr(limit, name, None) is not None
    }


def limits_text(field: FieldInfo) -> str:
    """Write the limits of a field; "" where it has none."""
    return ", ".join(f"{SIGNS[name]} {limit:g}" for name, limit in limits_of(field).items())


def help_text(name: str, field: FieldInfo) -> str:
    """Write what a setting sets, its unit and its limits, in a line."""
    about = "; ".join(part for part in (UNITS.get(name.rpartition(".")[2]), limits_text(field)) if part)
    return f"{field.description or ''}{f' ({about})' if about else ''}"


def setting_rows(cls: type[Settings]) -> list[SettingRow]:
    """List all settings of a kind, nested ones with dots."""
    presets = {name: flat(values) for name, values in PRESETS.items()} if cls is TrainSettings else {}
    rows = []
    for name, field in leaves_of(cls):
        default = field.get_default(call_default_factory=True)
        changed = [f"{preset}: {written(values[name])}" for preset, values in presets.items() if name in values]
        unit = UNITS.get(name.rpartition(".")[2], "")
        limits = limits_text(field) or _choices(field)
        rows.append(SettingRow(name, written(default), unit, limits, ", ".join(changed), field.description or ""))
    return rows


def settings_text(commands: Mapping[str, list[SettingRow]]) -> str:
    """Format settings for a terminal."""
    parts = []
    for command, rows in commands.items():
        parts.append(_title(command))
        for row in rows:
            about = [part for part in (row.unit, row.limits) if part]
            parts.append(f"  {row.name}={row.default}" + (f"  ({'; '.join(about)})" if about else ""))
            lines = [row.text, *([f"Presets: {row.presets}."] if row.presets else [])]
            parts += [textwrap.indent(textwrap.fill(line, 100, break_on_hyphens=False), "      ") for line in lines]
        parts.append("")
    return "\n".join(parts)


def settings_page(commands: Mapping[str, list[SettingRow]]) -> str:
    """Format settings as a page of Markdown."""
    lines = [
        "# Settings",
        "",
        "Every setting of every command, as `napari-lpd settings` prints them; this page is what",
        "`napari-lpd settings --markdown` prints. Change one with `--set NAME=VALUE`, several with a file,",
        "`--settings FILE.json`; the widgets' forms are made of the same. Lists are written `[1,1,1,1]`, nested",
        "settings with a dot. Shares are 0 to 1.",
        "",
    ]
    for command, rows in commands.items():
        lines += [f"## {_title(command)}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for row in rows:
            cells = [f"`{row.name}`", f"`{row.default}`", *row[2:]]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
        if command == "train":
            lines += [
                "Presets, `train --preset NAME`:",
                "",
                *(f"- `{name}`: {text}" for name, text in ABOUT.items()),
                "",
            ]
    return "\n".join(lines)


def _title(command: str) -> str:
    also = COMMANDS[command][1]
    return f"Settings of {command}" + (f" ({also})" if also else "")


def leaves_of(cls: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """List the fields of settings by name, nested ones with dots."""
    for name, field in cls.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from leaves_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def written(value: Any) -> str:
    """Write a value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _choices(field: FieldInfo) -> str:
    """List the values that a field of names may have: one of them, or a list of some."""
    kind = field.annotation
    if kind is bool:
        return "true, false"
    names, several = get_args(kind), False
    if get_origin(kind) is tuple and names and get_origin(names[0]) is Literal:
        names, several = get_args(names[0]), True
    elif get_origin(kind) is not Literal:
        return ""
    return ("a list of " if several else "") + ", ".join(map(str, names))
