"""Documents that name files and functions name those that exist, and the table of the wings is that of the tests."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest
from test_imports import USES

import napari_lpd

ROOT = Path(__file__).parents[1]
SOURCE = Path(napari_lpd.__file__).parent
BENCHMARKS = ROOT / "benchmarks"
DOCUMENTS = {"docs/explanation/architecture.md": 60, "CONTRIBUTING.md": 25}
"""The documents, and how many names each has at least."""


def names_in(document: str) -> list[str]:
    """All that stands in backticks and is a folder, a file, or a name in a module."""
    found = re.findall(r"`([^`\s]+(?:/|\.py|\.toml|\.yaml)[^`\s]*)`", (ROOT / document).read_text(encoding="utf-8"))
    return sorted({name for name in found if "://" not in name and not name.startswith("..")})


def exists(name: str) -> bool:
    if any((folder / name).exists() for folder in (SOURCE, ROOT)):
        return True
    module, _, attributes = name.partition(".")
    if not (SOURCE / f"{module}.py").is_file() or not attributes:
        return False
    found = importlib.import_module(f"napari_lpd.{module.replace('/', '.')}")
    try:
        reduce(getattr, attributes.split("."), found)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_and_functions_that_a_document_names_exist(document):
    names = names_in(document)
    assert len(names) >= DOCUMENTS[document]
    assert not [name for name in names if not exists(name)]


def test_every_module_that_a_document_names_exists():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {name for document in documents for name in re.findall(r"`([\w/]+\.py)`", document.read_text("utf-8"))}
    assert len(named) > 20
    assert not [name for name in named if not any((folder / name).is_file() for folder in (SOURCE, ROOT, BENCHMARKS))]


@pytest.mark.parametrize("name", ["prediction/tiles.py", "models/cam.gat", "models/cam.gate.x", "nowhere/", "core/run"])
def test_a_name_that_is_wrong_is_noticed(name):
    assert not exists(name)


def test_the_table_of_wings_is_the_one_that_is_tested():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    shown = {}
    for wings, used in re.findall(r"^\| (`.*?`) \|.*\| (.*) \|$", page, re.MULTILINE):
        shown |= {wing: set(re.findall(r"\w+", used)) for wing in re.findall(r"\w+", wings)}
    assert shown.pop("cli") == shown.pop("gui") == {"all"}
    assert shown == {wing: used for wing, used in USES.items() if wing not in ("samples", "cli", "gui")}
