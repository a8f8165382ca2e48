"""Every command line that README, docs and CONTRIBUTING show is run, on small data: one that nobody runs is wrong soon.

The lines of a document run in order, in one folder, so that what one line writes, the next reads. Lines of ours run in
this process, others in their own. Three kinds are held to what they say without doing it: ``make`` says what it would
run (``--dry-run``), ``pip install`` is compared with the project's name and extras, ``git`` runs in a new repository.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import tifffile
import timm
import torch
from packaging.requirements import Requirement
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shown_commands import (
    DOCUMENTS,
    EXCEPTIONS,
    PLACEHOLDERS,
    ROOT,
    SCHEDULER,
    NotALineError,
    Shown,
    all_lines,
    arguments_of,
    lines_of,
    lines_of_help,
    options_named,
    placeholders_in,
    read,
)

from napari_lpd.cli.main import main
from napari_lpd.models.encoder import build_encoder

FEWEST_LINES = {
    "README.md": 2,
    "CONTRIBUTING.md": 4,
    "docs/explanation/comparing.md": 12,
    "docs/explanation/method.md": 6,
    "docs/explanation/performance.md": 8,
    "docs/explanation/results.md": 4,
    "docs/how-to/cite.md": 1,
    "docs/how-to/cluster.md": 4,
    "docs/how-to/encoder.md": 1,
    "docs/how-to/evaluate.md": 6,
    "docs/how-to/figure.md": 2,
    "docs/how-to/gpu.md": 2,
    "docs/how-to/install.md": 9,
    "docs/how-to/measure.md": 4,
    "docs/how-to/published-code.md": 3,
    "docs/how-to/qupath.md": 3,
    "docs/how-to/resolution.md": 2,
    "docs/how-to/resume.md": 3,
    "docs/how-to/shell-completion.md": 2,
    "docs/index.md": 3,
    "docs/reference/automation.md": 1,
    "docs/reference/commands.md": 14,
    "docs/reference/encoders.md": 1,
    "docs/reference/files.md": 5,
    "docs/reference/settings.md": 2,
    "docs/reference/slides.md": 1,
    "docs/tutorials/slide-to-mask.md": 2,
    "docs/tutorials/study.md": 4,
}
"""How many lines a document shows at least; a parser that finds fewer is broken. Other documents show none."""

EXAMPLES = "docs/reference/commands.md"

QUICK_DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/how-to/cite.md",
    "docs/how-to/install.md",
    "docs/how-to/shell-completion.md",
    "docs/index.md",
    "docs/reference/automation.md",
    "docs/reference/files.md",
    "docs/reference/settings.md",
    "docs/reference/slides.md",
)  # take less than ten seconds

TISSUES = ("tumour", "stroma", "lymphocytic infiltrate", "necrosis")  # the data set "bcss"
COLOURS = np.array([(90, 50, 130), (235, 150, 180), (50, 40, 150), (200, 90, 100)])
EDGE = 64


# Small data.


def painted(labels: np.ndarray, seed: int) -> np.ndarray:
    """Paint labels in the tissues' colours, with noise."""
    image = COLOURS[labels] + np.random.default_rng(seed).normal(0, 12, (*labels.shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def write_slide(path: Path, seed: int) -> None:
    """Write a slide of 512 × 256 pixels of 1 µm, a stripe of every tissue, as a tiled pyramid."""
    image = painted((np.arange(512)[None] // 128).repeat(256, 0), seed)
    options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, resolution=(1e4, 1e4), **options)
        tiff.write(image[::2, ::2], resolution=(5e3, 5e3), subfiletype=1, **options)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_polygons(path: Path, boxes: list[tuple[int, int, int, int, list[str]]]) -> None:
    """Write rectangles (x0, y0, x1, y1, tissues) as GeoJSON."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
            },
            "properties": {"tissues": tissues} if tissues else {},
        }
        for x0, y0, x1, y1, tissues in boxes
    ]
    write_json(path, {"type": "FeatureCollection", "features": features})


def write_slides(folder: Path) -> None:
    """Write slides, regions on them, and a project of two slides."""
    for seed, name in enumerate(("first.tiff", "second.tiff", "third.svs", "fourth.svs")):
        write_slide(folder / name, seed)
    stripes = [(128 * i + 2, 0, 128 * i + 126, 256, [name]) for i, name in enumerate(TISSUES)]
    write_polygons(folder / "regions.geojson", stripes)
    write_polygons(folder / "roi.geojson", [(20, 20, 200, 200, [])])
    write_polygons(folder / "tissue.geojson", [(0, 0, 300, 256, [])])
    held = [{"slide": f"{name}.tiff", "regions": "regions.geojson", "patient": name} for name in ("first", "second")]
    project = {"kind": "napari-lpd project", "format": 1, "classes": classes(), "slides": held}
    write_json(folder / "slides.lpd.json", project)
    write_json(folder / "roles.json", {"tumour": ["tumour"], "stroma": ["stroma"]})
    write_json(folder / "predict.json", {"mpp": 1.0, "tissue_only": False})


def classes() -> list[dict[str, str]]:
    return [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour)}
        for name, colour in zip(TISSUES, COLOURS.tolist(), strict=True)
    ]


def halves(left: int, right: int) -> np.ndarray:
    return np.repeat([[left, right]], EDGE // 2, axis=1).repeat(EDGE, 0)


def write_training_tiles(folder: Path) -> None:
    """Write tiles of four patients: each tissue alone, and two in one tile."""
    folder.mkdir(parents=True)
    pairs = [(0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (2, 3)]
    for i, (patient, pair) in enumerate((patient, pair) for patient in range(4) for pair in pairs):
        digits = "".join(str(int(tissue in pair)) for tissue in range(4))
        name = f"GLAS-train-p{patient}+{i}[{digits}].png"
        Image.fromarray(painted(halves(*pair), 100 + i)).save(folder / name)


def write_masked_tiles(folder: Path, seed: int) -> None:
    """Write images with masks of six patients."""
    for part in ("img", "mask"):
        (folder / part).mkdir(parents=True)
    for i in range(12):
        labels, name = halves(i % 4, (i + 1 + i // 4) % 4), f"GLAS-{folder.name}-p{i % 6}+{i}.png"
        Image.fromarray(painted(labels, seed + i)).save(folder / "img" / name)
        Image.fromarray(labels.astype(np.uint8)).save(folder / "mask" / name)


def train_model(path: Path) -> None:
    """Train on the small tiles, just long enough to label something."""
    here, out = path.parent, path.parent / "made" / path.stem
    quick = ["mpp=0.357", "max_steps=24", "batch=4", "max_regions=2", "threads=1"]
    settings = [word for setting in quick for word in ("--set", setting)]
    run_ours("train", "--data", here / "tissue4", "--classes", here / "classes.json", "--out", out, *settings)
    shutil.copy(out / "model.safetensors", path)


def nudge_model(path: Path) -> None:
    """Write model A once more, with its prototypes moved a little, so that both agree nearly everywhere."""
    with safe_open(path.with_stem("A"), "pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(path.with_stem("A"))
    moved = torch.from_numpy(np.random.default_rng(0).normal(0, 0.01, tensors["prototypes"].shape))
    save_file(tensors | {"prototypes": tensors["prototypes"] + moved.float()}, path, metadata)


def predict_first(path: Path) -> None:
    """Predict a slide with the sample model."""
    slide, quick = path.parents[1] / "first.tiff", ["--set", "tile=128", "--set", "overlap=32"]
    run_ours("predict", slide, "--out", path.parent, *quick)


def run_ours(*arguments: object) -> None:
    code, said = call_ours([str(argument) for argument in arguments])
    assert code == 0, said


def save_mit_b1(path: Path) -> None:
    torch.save(build_encoder("mit_b1").backbone.state_dict(), path)


def save_swin(path: Path) -> None:
    torch.save(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).state_dict(), path)


def save_published(path: Path) -> None:
    """Save random weights as the published code does: under its names, with its configuration."""
    encoder = build_encoder("mit_b0").backbone.state_dict()
    state = {f"encoder.{mit_name(name)}": value for name, value in encoder.items()}
    state["prototypes"] = torch.randn(2 * len(TISSUES), 256)
    for stage, width in enumerate((32, 64, 160, 256), 1):
        state[f"logit_scale{stage}"] = torch.ones(())
        for layer, shape in (("fc1", (128, 256)), ("fc2", (width, 128))):
            state[f"l_fc{stage}.{layer}.weight"] = torch.randn(shape)
            state[f"l_fc{stage}.{layer}.bias"] = torch.zeros(shape[0])
    configuration = {"dataset": {"name": "bcss"}, "model": {"backbone": {"config": "mit_b0"}}}
    torch.save({"model": state, "cfg": configuration, "iter": 1}, path)


def mit_name(name: str) -> str:
    """Turn timm's name of a weight into MiT's."""
    name = name.replace("patch_embed.", "patch_embed1.").replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
    name = re.sub(r"^stages_(\d)\.downsample\.", lambda match: f"patch_embed{int(match[1]) + 1}.", name)
    name = re.sub(r"^stages_(\d)\.blocks\.", lambda match: f"block{int(match[1]) + 1}.", name)
    return re.sub(r"^stages_(\d)\.norm\.", lambda match: f"norm{int(match[1]) + 1}.", name)


ON_DEMAND = {
    "A.safetensors": train_model,
    "B.safetensors": nudge_model,
    "made/first.zarr": predict_first,
    "mit_b1.pth": save_mit_b1,
    "swin_tiny.pth": save_swin,
    "published.pth": save_published,
}
"""Data that take time to make: only made for a document that names them."""


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """A folder with everything that placeholders stand for, but for what is made on demand."""
    folder = tmp_path_factory.mktemp("small_data")
    write_slides(folder)
    write_training_tiles(folder / "tissue4" / "train")
    write_masked_tiles(folder / "tissue4" / "valid", 300)
    write_masked_tiles(folder / "test", 400)
    write_json(folder / "classes.json", {"classes": classes()})
    write_json(folder / "tissue4" / "classes.json", {"classes": classes(), "mpp": 0.357})
    (folder / "sample_data").symlink_to(ROOT / "sample_data", target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def scheduler() -> str:
    """The address of a dask cluster with one worker."""
    distributed = pytest.importorskip("distributed")
    workers = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with distributed.LocalCluster(**workers, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def working_folder(data: Path, folder: Path, arguments: list[list[str]]) -> Path:
    """Fill `folder` with the small data, and with those on demand that the lines name."""
    named = " ".join(word for line in arguments for word in line)
    for name, make in ON_DEMAND.items():
        if name in named and not (data / name).exists():
            make(data / name)
    shutil.copytree(data, folder, copy_function=os.link, symlinks=True)
    return folder


# Running.


def call_ours(arguments: list[str]) -> tuple[int, str]:
    """Run a command of ours in this process; returns the exit code, and what it said."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
    return code, said.getvalue()


def call_other(arguments: list[str]) -> tuple[int, str]:
    """Run a program that lies beside this Python, or in the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which(arguments[0], path=path)
    if program is None:
        return 127, f"{arguments[0]}: no such program"
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run([program, *arguments[1:]], capture_output=True, text=True, check=False, env=kept, timeout=300)
    return done.returncode, done.stdout + done.stderr


def call_make(arguments: list[str]) -> tuple[int, str]:
    """Let ``make`` say what it would run for the target, in the repository."""
    return call_other(["make", "--dry-run", "--directory", str(ROOT), *arguments[1:]])


def call_git(arguments: list[str]) -> tuple[int, str]:
    """Run git in a new repository."""
    code, said = call_other(["git", "init", "--quiet", "repository"])
    return (code, said) if code else call_other(["git", "-C", "repository", *arguments[1:]])


def check_pip(arguments: list[str]) -> tuple[int, str]:
    """Compare ``pip install NAME[EXTRA]`` with the project's own name and extras."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    if arguments[-2:] == ["--index-url", "https://download.pytorch.org/whl/cpu"]:
        ours = {Requirement(line).name for line in project["dependencies"]}
        foreign = [name for name in arguments[2:-2] if name not in ours]
        return bool(foreign), f"not among our dependencies: {foreign}"
    wanted = Requirement(arguments[2])
    missing = wanted.extras - project["optional-dependencies"].keys()
    if arguments[:2] != ["pip", "install"] or len(arguments) != 3 or wanted.name != project["name"] or missing:
        return 1, f"not pip install {project['name']}[EXTRA], EXTRA one of {sorted(project['optional-dependencies'])}"
    return 0, ""


def run_line(arguments: list[str]) -> tuple[int, str]:
    """Run a line with its files' names filled in, as a shell does; returns the exit code, and what was said."""
    program, *others = arguments
    if program == "napari-lpd":
        return call_ours([name for argument in others for name in (sorted(glob(argument)) or [argument])])
    runners = {"make": call_make, "git": call_git, "pip": check_pip}
    return runners.get(program, call_other)(arguments)


def run_all(lines: list[Shown], replaced: dict[str, str]) -> None:
    """Run lines in order, and say which of them failed, and how."""
    for line in lines:
        arguments = arguments_of(line, replaced)
        shown = f"{line.place}: {line.text}\nrun as: {shlex.join(arguments)}"
        try:
            code, said = run_line(arguments)
        except Exception as error:
            error.add_note(shown)
            raise
        if code:
            pytest.fail(f"{shown}\nexit code {code}\n{said[-4000:]}", pytrace=False)


# The documents.


def run_lines_of(document: str) -> list[Shown]:
    """The lines of a document that are run; examples of the page of commands are run where another page shows them."""
    elsewhere = set(EXCEPTIONS)
    if document == EXAMPLES:
        elsewhere |= {line.text for line in all_lines(name for name in DOCUMENTS if name != EXAMPLES)}
    return [line for line in all_lines([document]) if line.text not in elsewhere]


@pytest.mark.parametrize(
    "document",
    [pytest.param(name, marks=() if name in QUICK_DOCUMENTS else pytest.mark.slow) for name in FEWEST_LINES],
)
def test_every_command_of_a_document_runs(document, small_data, tmp_path, monkeypatch, request):
    lines = run_lines_of(document)
    replaced = dict(PLACEHOLDERS)
    if any(SCHEDULER in line.text for line in lines):
        replaced[SCHEDULER] = request.getfixturevalue("scheduler")
    folder = working_folder(small_data, tmp_path / "here", [arguments_of(line, replaced) for line in lines])
    monkeypatch.chdir(folder)
    run_all(lines, replaced)


def help_of(command: str) -> str:
    code, page = call_ours([command, "--help"] if command else ["--help"])
    assert code == 0, page
    return page


def help_pages() -> dict[str, str]:
    """The main help page, and those of all commands that it lists."""
    first = help_of("")
    names = re.findall(r"^ {4}([a-z][a-z0-9]+)(?= |$)", first, re.MULTILINE)
    return {"": first} | {name: help_of(name) for name in names}


def test_every_help_page_opens_and_every_command_in_it_runs(small_data, tmp_path, monkeypatch):
    pages = help_pages()
    assert len(pages) >= 12
    assert all(page.startswith(f"usage: napari-lpd {name}".rstrip()) for name, page in pages.items())
    elsewhere = {line.text for line in all_lines()}  # run with their documents, as the examples of commands.md are
    lines = [line for name, page in pages.items() for line in lines_of_help(name, page) if line.text not in elsewhere]
    folder = working_folder(small_data, tmp_path / "here", [arguments_of(line) for line in lines])
    monkeypatch.chdir(folder)
    run_all(lines, PLACEHOLDERS)


def test_every_option_that_a_document_names_is_one_of_a_command():
    known = set(re.findall(r"--[a-z][a-z-]+", " ".join(help_pages().values())))
    named = {option: document for document in DOCUMENTS for option in options_named(read(document))}
    assert len(named) > 10
    assert not {option: document for option, document in named.items() if option not in known}


def test_no_document_lost_its_lines_and_few_are_not_run(capsys):
    found = Counter(line.document for line in all_lines())
    run = Counter(line.document for document in DOCUMENTS for line in run_lines_of(document))
    with capsys.disabled():
        counts = ", ".join(f"{document} {run[document]} of {found[document]}" for document in DOCUMENTS)
        sys.stdout.write(f"\nlines run: {counts}; on the list of exceptions: {len(EXCEPTIONS)}\n")
    assert FEWEST_LINES.keys() == found.keys()
    assert not {document: found[document] for document, fewest in FEWEST_LINES.items() if found[document] < fewest}
    run_somewhere = {line.text for document in DOCUMENTS for line in run_lines_of(document)}
    assert {line.text for line in all_lines()} - run_somewhere == EXCEPTIONS.keys()
    assert len(EXCEPTIONS) <= 4


def test_every_exception_is_still_shown_and_has_a_reason():
    assert EXCEPTIONS.keys() <= {line.text for line in all_lines()}
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_every_placeholder_of_the_table_is_still_shown():
    assert set(PLACEHOLDERS) == {name for line in all_lines() for name in placeholders_in(line)}


# The parser can fail.

PAGE = r"""
Run `make
test`, `napari-lpd compare` or `train --out`.

```
# first a comment, with an apostrophe: it's none of ours
napari-lpd train --data TILES --source 'a#b' \
    --out RUN      # as in: pip install "napari-lpd[onnx]"
python -c "print(1)
print('# 2')"
```

```json
{"napari-lpd": "is no command here"}
```
"""


def test_blocks_spans_continued_lines_and_comments_are_told_apart():
    assert [(line.number, line.text) for line in lines_of("page", PAGE)] == [
        (2, "make test"),
        (3, "napari-lpd compare --help"),
        (7, "napari-lpd train --data TILES --source 'a#b' --out RUN"),
        (8, 'pip install "napari-lpd[onnx]"'),
        (9, "python -c \"print(1)\nprint('# 2')\""),
    ]
    assert options_named(PAGE) == {"--out"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nfor each of A, B\n```", "page:2: no call of a known program"),
        ("```\nmake test \\\n```", "page:2: a line without an end"),
        ("`napari-lpd predict SLIDE --out NOWHERE`", "page:1: unknown placeholder NOWHERE; enter it in PLACEHOLDERS"),
        ("`napari-lpd predict SLIDES --out RESULTS`", "unknown placeholder SLIDES"),
        ("`napari-lpd predict …`", "nothing is known to stand for …"),
    ],
)
def test_what_cannot_be_run_is_named(text, message):
    with pytest.raises(NotALineError, match=re.escape(message)):
        [arguments_of(line) for line in lines_of("page", text)]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("napari-lpd predict absent.svs --out RESULTS", "absent.svs: no such file"),
        ("napari-lpd train --outt RUN", "unknown option --outt; did you mean --out?"),
        ("make nonsense", "nonsense"),
        ('pip install "napari-lpd[nonsense]"', "EXTRA one of"),
        ("python -c 'raise SystemExit(3)'", "exit code 3"),
    ],
)
def test_a_line_that_fails_is_shown_with_its_error(shown, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pytest.fail.Exception) as failed:
        run_all([Shown("page", 1, shown)], PLACEHOLDERS)
    assert str(failed.value).startswith(f"page:1: {shown}\n")
    assert said in str(failed.value)
