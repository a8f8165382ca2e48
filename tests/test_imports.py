"""Who may import whom: the wings and what each may use, torch only where tensors are, widgets that open without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import napari_lpd

SOURCE = Path(napari_lpd.__file__).parent
FOUNDATION = {"core", "slides", "data"}
USES = {
    "samples": set(),
    "core": set(),
    "slides": {"core"},
    "data": {"core", "slides"},
    "models": FOUNDATION,
    "results": FOUNDATION,
    "evaluation": FOUNDATION | {"models"},
    "training": FOUNDATION | {"models", "evaluation"},
    "comparison": FOUNDATION | {"models", "evaluation"},
    "prediction": FOUNDATION | {"models", "results"},
}
USES |= {face: {*USES} for face in ("cli", "gui")}
GUI_USES = {
    "layers": set(),
    "contributions": {"layers"},
    "common": {"layers", "contributions"},
    "trust": {"layers", "contributions", "common"},
    "maps": {"layers", "common"},
    "live": {"layers", "contributions", "common", "trust"},
    "train": {"layers", "contributions", "common", "live", "trust"},
    "predict": {"layers", "contributions", "common", "maps"},
    "explore": {"layers", "contributions", "common", "maps", "trust"},
    "batch": {"layers", "contributions", "common", "predict"},
    "demo": {"layers", "contributions", "common", "train", "predict", "explore"},
}
TORCH = {"torch", "torchvision", "timm"}
WITH_TORCH = ("models", "evaluation", "training", "comparison", "prediction")
WITHOUT_TORCH = (
    "models.card",
    *("training.runs.folder", "training.runs.training_tiles"),
    *("evaluation.metrics", "evaluation.calibration", "evaluation.report", "evaluation.page", "evaluation.regions"),
    *("comparison.metrics", "comparison.result", "comparison.tiles"),
    *("comparison.report.tables", "comparison.report.writer", "comparison.report.figures"),
    *("prediction.batch", "prediction.plan", "prediction.relabel"),
)
QT = {"qtpy", "PyQt6", "PyQt5", "PySide6", "napari", "magicgui", "superqt", "pyqtgraph", "vispy"}


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in sorted(SOURCE.rglob("*.py")) if path.name != "__main__.py"}
CORE = sorted(name for name in MODULES if name and name.split(".")[0] not in ("gui", "cli"))


def imported_by(path: Path) -> set[str]:
    """Dotted names below napari_lpd of what a module imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("napari_lpd.") for name in names if name.startswith("napari_lpd.")}


def loaded_by(modules: list[str], whole: bool = False) -> set[str]:
    """Top-level names, or `whole` ones, in sys.modules of a fresh interpreter that imported `modules`."""
    code = f"import {', '.join(f'napari_lpd.{name}' for name in modules)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    return names if whole else {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_module_imports_only_what_its_wing_may_use(name):
    wing = name.split(".")[0]
    used = {found.split(".")[0] for found in imported_by(MODULES[name])} - {wing, "__version__"}
    assert used <= USES[wing]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("gui.")])
def test_no_widget_imports_another(name):
    room = name.split(".")[1]
    used = {found.split(".")[1] for found in imported_by(MODULES[name]) if found.startswith("gui.")} - {room}
    assert used <= GUI_USES[room]


def test_the_map_of_the_wings_is_whole():
    assert {name.split(".")[0] for name in MODULES if name} == set(USES)
    assert {name.split(".")[1] for name in MODULES if name.startswith("gui.")} == set(GUI_USES)
    assert set(WITHOUT_TORCH) <= set(MODULES)


def test_wings_without_tensors_load_neither_torch_nor_qt():
    light = [name for name in CORE if name.split(".")[0] not in WITH_TORCH or name in WITHOUT_TORCH]
    assert not loaded_by(light) & (TORCH | QT)


def test_wings_with_tensors_load_neither_qt_nor_torch_s_compiler():
    """The compiler brings sympy and triton along, and takes as long to load as torch itself."""
    assert not loaded_by(CORE) & (QT | {"sympy", "triton"})


def test_a_prediction_and_a_training_load_nothing_that_only_others_need():
    names = loaded_by(["prediction.predict", "training.fit"], whole=True)
    assert "torch" in names
    assert not names & {"torch._dynamo", "dask", "scipy.stats", "sklearn", "skimage", "pandas", "matplotlib"}


def test_the_package_itself_loads_nothing_heavy():
    code = "import napari_lpd, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (TORCH | QT | {"numpy"})


def test_opening_the_widgets_loads_no_torch():
    assert not loaded_by([name for name in MODULES if name.startswith("gui")]) & TORCH


def test_folders_and_modules_stay_small_enough_to_read():
    folders = {path.parent for path in MODULES.values()}
    crowded = {dotted(folder / "__init__.py"): len(modules) for folder in folders
               if len(modules := [path for path in folder.glob("*.py") if path.name != "__init__.py"]) > 9}  # fmt: skip
    assert not crowded
    long = {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long
