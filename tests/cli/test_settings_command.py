"""All settings are printed, and the page of the documents is what is printed; options are explained and documented."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from napari_lpd.cli.main import main
from napari_lpd.cli.parser import commands_parser
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.reference import COMMANDS, UNITS, setting_rows

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def test_the_reference_page_is_what_the_command_prints(capsys):
    assert main(["settings", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")


def test_every_setting_of_every_command_is_printed_once_with_its_help(capsys):
    assert main(["settings"]) == 0
    text = capsys.readouterr().out
    names = [name for cls, _ in COMMANDS.values() for name in cls.names()]
    assert len(names) >= 124
    assert re.findall(r"^  ([\w.]+)=", text, re.MULTILINE) == names
    assert all(row.text for cls, _ in COMMANDS.values() for row in setting_rows(cls))


def test_a_setting_is_printed_with_default_unit_limits_and_presets(capsys):
    assert main(["settings", "train", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    rows = {row["name"]: row for row in json.loads(line)["train"]}
    assert rows["mpp"] == {
        "name": "mpp",
        "default": "1.0",
        "unit": "µm per pixel",
        "limits": "≥ 0.05, ≤ 20",
        "presets": "",
        "text": "Resolution of the training tiles, in µm per pixel.",
    }
    assert rows["epochs"]["presets"] == "fast: 6, paper: 10, pbip-paper: 10"
    assert rows["model.bank"]["limits"] == "learned, seeded, clustered, random, linear, supervised"
    assert (rows["stage_weights"]["default"], rows["augment"]["limits"]) == ("[0.0,0.1,1.0,1.0]", "true, false")
    assert main(["settings", "evaluate"]) == 0
    assert '  gates=["predicted","none","truth"]  (a list of predicted, none, truth)' in capsys.readouterr().out


def test_every_value_of_a_preset_is_in_the_reference():
    named = {row.name: row.presets for row in setting_rows(COMMANDS["train"][0])}

    def leaves(values, prefix=""):
        for name, value in values.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    for preset, values in PRESETS.items():
        assert all(re.search(rf"(^|, ){preset}: ", named[name]) for name in leaves(values))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_a_unit_or_is_said_to_have_none(command):
    fields = COMMANDS[command][0].model_json_schema()
    kinds = [fields, *fields.get("$defs", {}).values()]
    numbers = {
        name
        for kind in kinds
        for name, field in kind.get("properties", {}).items()
        if field.get("type") in ("integer", "number")
    }
    assert numbers
    assert numbers <= UNITS.keys()


@pytest.mark.parametrize("command", commands_parser().subparsers())
def test_every_option_has_help_and_stands_in_a_document(command):
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    for action in commands_parser().subparsers()[command]._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        assert action.help, action.dest
        for name in action.option_strings:
            assert re.search(rf"{re.escape(name)}(?![\w-])", text), f"{command} {name} is in no document"
