"""The manifest and the sample data are found in an editable install and in the built wheel."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from npe2 import PluginManager, PluginManifest

from napari_lpd import samples

ROOT = Path(__file__).parents[1]
BANNED = ("pyqt5", "pyqt6", "pyside", "opencv", "albumentations", "stainx", "lightning", "napari[")


def test_npe2_discovers_the_installed_plugin():
    manager = PluginManager()
    manager.discover()
    manifest = manager.get_manifest("napari-lpd")
    assert [widget.display_name for widget in manifest.contributions.widgets] == [
        "Train",
        "Predict",
        "Explore prototypes",
    ]
    assert manifest.package_version == importlib.metadata.version("napari-lpd")


def test_every_command_of_the_manifest_exists():
    manifest = PluginManifest.from_file(ROOT / "napari.yaml")
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_sample_data_is_found_and_small():
    paths = [samples.skin_slide_path(), samples.small_region_path(), samples.classes_path(), samples.model_path()]
    paths += [samples.regions_path("train"), samples.regions_path("check")]
    assert all(path.is_file() for path in paths)
    files = [path for path in samples.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6


def test_the_base_dependencies_bring_no_qt_binding():
    required = importlib.metadata.requires("napari-lpd")
    base = [line.lower() for line in required if "extra ==" not in line]
    assert base
    assert not [line for line in base if line.startswith(BANNED)]
    extras = {re.search(r"extra == [\"'](\w+)[\"']", line)[1] for line in required if "extra ==" in line}
    assert extras == {"all", "cluster", "crf", "dicom", "dev", "onnx"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel that was built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_manifest_and_samples_once(built):
    names = zipfile.ZipFile(built).namelist()
    assert len(names) == len(set(names))
    assert names.count("napari_lpd/napari.yaml") == 1
    shipped = {path.relative_to(samples.FOLDER).as_posix() for path in samples.FOLDER.rglob("*") if path.is_file()}
    in_wheel = {name.removeprefix("napari_lpd/sample_data/") for name in names if "/sample_data/" in name}
    assert {name for name in shipped if "__pycache__" not in name} == in_wheel


@pytest.mark.slow
def test_npe2_finds_the_manifest_in_the_installed_wheel(built, tmp_path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(built)]
    subprocess.run(pip, check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r});"
        "import napari_lpd; from napari_lpd import samples; from npe2 import PluginManifest;"
        "manifest = PluginManifest.from_distribution('napari-lpd');"
        "print(napari_lpd.__file__, len(manifest.contributions.sample_data), samples.model_path().is_file())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(target / "napari_lpd" / "__init__.py"), "2", "True"]
