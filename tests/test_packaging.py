"""The manifest and the sample data are found in an editable install and in the built wheel."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from npe2 import PluginManager, PluginManifest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from napari_lpd import samples

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
import licences  # noqa: E402
from hatch_build import description  # noqa: E402  the build hook, which no package holds

BANNED = ("pyqt5", "pyqt6", "pyside", "opencv", "albumentations", "stainx", "lightning", "napari[")


def test_npe2_discovers_the_installed_plugin():
    manager = PluginManager()
    manager.discover()
    manifest = manager.get_manifest("napari-lpd")
    assert [widget.display_name for widget in manifest.contributions.widgets] == [
        "Train",
        "Predict",
        "Several slides",
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
    base = [line.lower() for line in PROJECT["dependencies"]]
    assert base
    assert not [line for line in base if line.startswith(BANNED)]
    assert PROJECT["optional-dependencies"].keys() == {"all", "cluster", "crf", "dicom", "dev", "onnx"}


def test_what_the_base_brings_along_may_be_passed_on():
    packages = licences.base_packages()
    assert {"napari", "torch", "openslide-bin", "zarr"} <= packages.keys()
    assert not {"pyqt6", "mkdocs"} & packages.keys()
    found = {name: licences.licence_of(name, package.metadata) for name, package in packages.items()}
    assert not {name: licence for name, licence in found.items() if licences.refused(licence)}


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("MIT", False),
        ("", True),
        ("GPL-3.0-only", True),
        ("AGPL-3.0", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("GNU Library or Lesser General Public License (LGPL)", False),
        ("LGPL-2.1-only AND (BSD-3-Clause OR GPL-2.0-only)", False),
        ("MIT AND (BSD-3-Clause OR GPL-2.0-only) AND GPL-2.0-only", True),
        ("CC-BY-NC-4.0", True),
    ],
)
def test_a_licence_that_the_base_must_not_have_is_known(licence, refused):
    assert licences.refused(licence) == refused


def imported(folder):
    """Top-level names of all modules that the sources in a folder import, also inside functions."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names)


def test_every_package_that_the_base_declares_is_imported_or_loaded_by_name():
    loaded_by_name = {"openslide-bin", "imagecodecs", "npe2"}  # OpenSlide's library; tifffile's codecs; the manifest
    providers = importlib.metadata.packages_distributions()
    used = {canonicalize_name(found) for name in imported(ROOT / "src") for found in providers.get(name, [])}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert declared - used == loaded_by_name


@pytest.mark.parametrize(
    ("folder", "own"), [("src", {"napari_lpd"}), ("tests", {"napari_lpd", "hatch_build", "licences"})]
)
def test_every_package_that_is_imported_is_declared(folder, own):
    """Not only brought along by another one, as pydicom by highdicom."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    local = {path.stem for path in (ROOT / folder).rglob("*.py")}
    providers = importlib.metadata.packages_distributions()
    missing = {
        name: providers.get(name)
        for name in imported(ROOT / folder) - own - local
        if not declared & {canonicalize_name(found) for found in providers.get(name, [name])}
    }
    assert not missing


def test_every_version_of_python_has_a_numba_that_knows_it():
    lines = [Requirement(line) for line in PROJECT["dependencies"] if line.startswith("numba")]
    for python, wanted in (("3.11", "0.61"), ("3.13", "0.61"), ("3.14", "0.63"), ("3.15", "0.63")):
        [line] = [line for line in lines if line.marker.evaluate({"python_version": python})]
        assert str(line.specifier) == f">={wanted}"


README = """![A picture](docs/images/demo.png)
[Method](docs/explanation/method.md), [there](https://napari.org) and [here](#install).
"""


def test_links_of_the_description_are_absolute_or_gone():
    assert description(README, "https://example.org/lpd/") == (
        "![A picture](https://example.org/lpd/raw/HEAD/docs/images/demo.png)\n"
        "[Method](https://example.org/lpd/blob/HEAD/docs/explanation/method.md), [there](https://napari.org)"
        " and [here](#install).\n"
    )
    without = description(README, None)
    assert without.startswith("\nMethod, [there](https://napari.org) and [here](#install).\n")
    assert "source distribution" in without


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution, and a wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_source_distribution_is_whole(built):
    """All that is in the repository, so that its tests and make run; nothing twice."""
    with tarfile.open(built[0]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("the tests do not lie in a git repository")
    assert {name for name in tracked.stdout.splitlines() if '"' not in name} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_description_of_the_wheel_has_no_relative_link(built):
    with zipfile.ZipFile(built[1]) as wheel:
        [path] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        text = wheel.read(path).decode()
    assert "Segments the tissues of H&E slides" in text
    assert not re.findall(r"\]\((?!https?:|#)[^)]+\)", text)


@pytest.mark.slow
def test_the_wheel_brings_the_licences_of_what_is_in_it(built):
    with zipfile.ZipFile(built[1]) as wheel:
        texts = {
            name.rpartition("/")[2]: wheel.read(name).decode() for name in wheel.namelist() if "/licenses/" in name
        }
    assert texts.keys() == {"LICENSE", "README.md", "Apache-2.0.txt", "CC0-1.0.txt"}
    assert "Version 2.0, January 2004" in texts["Apache-2.0.txt"]
    assert "skin_model/model.safetensors" in texts["README.md"]


@pytest.mark.slow
def test_the_wheel_holds_manifest_and_samples_once(built):
    names = zipfile.ZipFile(built[1]).namelist()
    assert len(names) == len(set(names))
    assert names.count("napari_lpd/napari.yaml") == names.count("napari_lpd/icon.svg") == 1
    shipped = {path.relative_to(samples.FOLDER).as_posix() for path in samples.FOLDER.rglob("*") if path.is_file()}
    in_wheel = {name.removeprefix("napari_lpd/sample_data/") for name in names if "/sample_data/" in name}
    assert {name for name in shipped if "__pycache__" not in name} == in_wheel


@pytest.mark.slow
def test_npe2_finds_the_manifest_in_the_installed_wheel(built, tmp_path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(built[1])]
    subprocess.run(pip, check=True)
    done = subprocess.run(
        [sys.executable, "-c", SEEN, str(target)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(target / "napari_lpd" / "__init__.py"), "2", "4", "True", "True"]


SEEN = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib import import_module
from importlib.resources import files
import napari_lpd
from napari_lpd import samples
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("napari-lpd")
for command in manifest.contributions.commands:
    module, _, name = command.python_name.partition(":")
    found = getattr(import_module(module), name)
    assert sys.modules[found.__module__].__file__.startswith(sys.argv[1]), found
package, _, icon = manifest.icon.partition(":")
print(napari_lpd.__file__, len(manifest.contributions.sample_data), len(manifest.contributions.widgets),
      samples.model_path().is_file(), files(package).joinpath(icon).is_file())
"""  # what a program sees of the wheel in the folder that it is given: samples, widgets, model, icon
