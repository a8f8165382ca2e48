"""Who may import whom: core without Qt, torch only where tensors are, widgets that open without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import napari_lpd

SOURCE = Path(napari_lpd.__file__).parent
CORE = sorted(path.stem for path in SOURCE.glob("*.py") if path.stem not in ("__init__", "__main__"))
WITH_TORCH = {"encoder", "model", "bank", "cam", "losses", "data", "train", "predict", "prototypes", "validate"}
WITH_TORCH |= {"importer", "objective", "labelled", "reproduce", "segmenter", "training_state"}
WITH_TORCH |= {"lattice_torch", "augmentation", "scoring", "training_set", "watch"}
WITH_TORCH |= {"inference", "distributed", "optimisation", "step"}
WITH_TORCH |= {"bank_statistics", "observation", "prototype_cards", "controls", "compare"}
WITH_TORCH |= {"stages", "blocks", "tiles"}
GUI = sorted(path.stem for path in (SOURCE / "gui").glob("*.py") if path.stem != "__init__")
QT = ("qtpy", "PyQt6", "PyQt5", "PySide6", "napari", "magicgui", "superqt", "pyqtgraph", "vispy")


def loaded_by(module: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter that imported `module`."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sorted(set(CORE) - WITH_TORCH))
def test_the_core_loads_neither_qt_nor_torch(name):
    assert not loaded_by(f"napari_lpd.{name}") & {"torch", "torchvision", "timm", *QT}


def test_the_core_with_tensors_loads_no_qt():
    assert set(CORE) > WITH_TORCH
    modules = ", ".join(f"napari_lpd.{name}" for name in sorted(WITH_TORCH))
    assert not loaded_by(modules) & set(QT)


def test_the_package_itself_loads_nothing_heavy():
    assert not loaded_by("napari_lpd") & {"torch", "numpy", *QT}


def test_opening_the_widgets_loads_no_torch():
    modules = ", ".join(f"napari_lpd.gui.{name}" for name in GUI)
    assert not loaded_by(modules) & {"torch", "torchvision", "timm"}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", CORE)
def test_nothing_imports_gui_or_the_command_line(name):
    assert not [
        found for found in imports_of(SOURCE / f"{name}.py") if found.startswith(("napari_lpd.gui", "napari_lpd.cli"))
    ]


@pytest.mark.parametrize("name", GUI)
def test_no_widget_imports_another(name):
    if name == "demo":  # puts the widgets side by side
        return
    others = {f"napari_lpd.gui.{widget}" for widget in ("train", "predict", "explore") if widget != name}
    assert not imports_of(SOURCE / "gui" / f"{name}.py") & others
