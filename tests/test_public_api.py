"""The public names: all are found, described and shown, and their examples and the documents' run as they stand."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import napari_lpd
from napari_lpd.results.prediction import Prediction

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_sorted_and_shown():
    assert napari_lpd.__all__ == sorted(napari_lpd.__all__)
    assert set(napari_lpd.__all__) <= set(dir(napari_lpd))


def test_type_checkers_see_the_names_that_are_imported():
    tree = ast.parse(Path(napari_lpd.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    places = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            places |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = {name: getattr(napari_lpd, name) for name in napari_lpd.__all__}
    imported = {each.__name__: f"{each.__module__}.{each.__name__}" for each in found.values()}
    assert places == imported
    assert [name for name, each in found.items() if each.__name__ != name] == ["train"]


def test_no_public_name_is_that_of_a_module():
    modules = {module.name for module in pkgutil.iter_modules(napari_lpd.__path__)}
    assert "samples" in modules
    assert not modules & set(napari_lpd.__all__)


@pytest.mark.parametrize(
    "module", ["training.fit", "evaluation.evaluate", "comparison.compare", "results.export.export"]
)
def test_a_public_name_stays_what_it_is_when_a_module_of_its_name_is_imported(module):
    name = {"fit": "train"}.get(word := module.rpartition(".")[2], word)
    importlib.import_module(f"napari_lpd.{module}")
    assert callable(getattr(napari_lpd, name))


def test_a_module_is_imported_from_the_package_as_from_any():
    code = "from napari_lpd import samples, evaluation; print(samples.model_path().name, evaluation.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["model.safetensors", "napari_lpd.evaluation"]


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'napari_lpd' has no attribute 'evaluat'"):
        napari_lpd.evaluat  # noqa: B018


@pytest.mark.parametrize("name", napari_lpd.__all__)
def test_the_description_of_a_public_name_begins_with_a_sentence(name):
    first = getattr(napari_lpd, name).__doc__.splitlines()[0]
    assert re.fullmatch(r"[A-Z][a-z]+ .*[^.]\.", first)


@pytest.mark.parametrize("name", napari_lpd.__all__)
def test_the_example_of_a_public_name_runs(name):
    public = getattr(napari_lpd, name)
    module = sys.modules[public.__module__]
    (example,) = doctest.DocTestFinder(recurse=False).find(public, name, module=module)
    assert example.examples
    said: list[str] = []
    doctest.DocTestRunner().run(example, out=said.append)
    assert not said


def test_the_reference_describes_all_public_names_and_no_other():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    public = {f"{each.__module__}.{each.__name__}" for each in map(napari_lpd.__getattr__, napari_lpd.__all__)}
    assert sorted(re.findall(r"^::: (\S+)$", page, re.MULTILINE)) == sorted(public)


@pytest.mark.slow
def test_the_example_of_the_reference_trains_predicts_measures_and_shows(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    shorter = lines.replace("max_steps=8)  # 8:", "max_steps=2)  # 2:")
    assert shorter != lines
    exec(compile(shorter, "python.md", "exec"), {})
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    result = Prediction.open(tmp_path / "skin.zarr")
    areas = result.area_mm2() | {"unsure": result.unsure_mm2, "unlabelled": 0.0, "tissue": result.tissue_mm2}
    assert printed == {name: f"{area:.2f} mm²" for name, area in areas.items()}
    assert result.tissue_mm2 > 1
    with Image.open(tmp_path / "skin.png") as picture:
        assert picture.size[0] > 500
