"""Every file that a training leaves in its run folder, by name, and the runs that can be resumed or compared."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lpd.core.classes import read_classes
from napari_lpd.core.errors import DataError, ModelError, writing
from napari_lpd.core.files import write_text
from napari_lpd.core.locks import holder, inside
from napari_lpd.core.reading import read_header, read_json, visible
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import read_project
from napari_lpd.data.training_set import FLAGS, TrainingSource
from napari_lpd.models.card import model_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.classes import TissueClass

# What a training leaves in its folder, beside `data.training_set.SUMMARY` and `SHEET`, written before it starts.
MODEL_NAME = "model.safetensors"  # the best epoch; its card as .json beside it
LAST_NAME = "last.safetensors"  # the last epoch, or the last good state before a loss that is no number
HISTORY = "history.csv"  # a row per epoch
PREVIEWS = "previews"  # folder of sheets, one per epoch
STATE_NAME = "training_state.safetensors"  # to resume from; there while the training is not over
STATE_KEY = "training_state"
# What the window adds for its child process.
ARGUMENTS = "arguments.json"  # of the command line; with them it resumes
SETTINGS, CLASSES = "settings.json", "classes.json"
COUNTERPART = "counterpart_of.txt"  # in a counterpart's folder: the run whose counterpart it is


def run_files() -> dict[str, str]:
    """Return the files that a training replaces, by name, with what tells ours from others."""
    return {**model_files(MODEL_NAME), **model_files(LAST_NAME), HISTORY: "epoch,step"}


def new_run_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name-001`` or the next free number, so that no model is ever overwritten.

    Raises:
        DataError: the place cannot be written.
    """
    number = 1
    while (folder := parent / f"{name}-{number:03d}").exists():
        number += 1
    with writing(folder, DataError):
        folder.mkdir(parents=True)
    return folder


def write_run(
    run: Path, source: TrainingSource, settings: TrainSettings, classes: Sequence[TissueClass] | Path | None
) -> list[str]:
    """Write what the child needs into a run folder; returns its arguments.

    Args:
        run: The folder.
        source: What is trained on.
        settings: How.
        classes: The tissue classes, a file of them, or None where the data bring them.

    Raises:
        DataError: the folder cannot be written.
    """
    arguments = ["train", *source.arguments(), "--settings", str(run / SETTINGS), "--out", str(run)]
    if classes is not None:
        arguments += ["--classes", str(classes if isinstance(classes, Path) else run / CLASSES)]
    changed = settings.model_dump(exclude_defaults=True) | {"mpp": settings.mpp}
    texts = {SETTINGS: changed, ARGUMENTS: arguments}
    if classes is not None and not isinstance(classes, Path):
        texts[CLASSES] = {"classes": [tissue.model_dump() for tissue in classes]}
    for name, content in texts.items():
        write_text(run / name, json.dumps(content, indent=1), error=DataError)
    return arguments


def counterpart_of(run: Path) -> list[str]:
    """Prepare the counterpart's run beside `run`: all the same, but the other kind of prototypes.

    Clustered prototypes (PBIP) for a model whose prototypes were learned, learned ones (LPD) for any other.

    Raises:
        DataError: the run's files are gone, or the place cannot be written.
    """
    arguments = read_arguments(run)
    settings = read_settings(TrainSettings, run / SETTINGS, [])
    values = settings.model_dump()
    bank = values["model"]["bank"]
    if bank in ("learned", "seeded"):
        other = PRESETS["pbip"]
        values = values | {name: value for name, value in other.items() if name != "model"}
        values["model"] = values["model"] | other["model"]
    else:
        plain = TrainSettings()
        values = values | {"diversity": plain.diversity, "warm_up": plain.warm_up}
        values["contrast_weight"] = values["contrast_weight"] or plain.contrast_weight
        values["model"] = values["model"] | {"bank": "learned"}
        values["model"]["prototypes_per_class"] = max(
            values["model"]["prototypes_per_class"], plain.model.prototypes_per_class
        )
    other_settings = TrainSettings.build(values)
    counterpart = new_run_folder(run.parent, f"{run.name}-{other_settings.model.bank}")
    write_text(counterpart / COUNTERPART, str(run), error=DataError)
    classes = run / CLASSES if "--classes" in arguments else None
    return write_run(counterpart, TrainingSource.parse(arguments), other_settings, classes)


def trained_counterpart(run: Path) -> Path | None:
    """Find the trained model of a run's counterpart, or of the run whose counterpart it is."""
    runs = _counterparts(run)
    if (run / COUNTERPART).exists():
        runs.append(Path((run / COUNTERPART).read_text(encoding="utf-8")))
    trained = [folder / MODEL_NAME for folder in runs if not (folder / STATE_NAME).exists()]
    return next((path for path in trained if path.is_file()), None)


def check_has_counterpart(run: Path) -> None:
    """Raise DataError unless a counterpart of a run's model can be trained, or is trained already."""
    if not (run / ARGUMENTS).exists() and trained_counterpart(run) is None:
        raise DataError(
            f"{run}: its model was not trained in this window's Train, so its data are not known; train it there, or"
            " its counterpart on the command line (--preset pbip), and choose it as second model"
        )


def counterpart_arguments(run: Path) -> list[str]:
    """Return the arguments that train a run's counterpart, or resume one that was stopped.

    Raises:
        DataError: the run was not trained in napari, its files are gone, or the place cannot be written.
    """
    check_has_counterpart(run)
    begun = [counterpart for counterpart in _counterparts(run) if (counterpart / STATE_NAME).exists()]
    running = next((counterpart for counterpart in begun if holder(inside(counterpart))), None)
    if running is not None:
        raise DataError(f"{running}: the counterpart is being trained ({holder(inside(running))}): wait for it")
    stopped = next(iter(begun), None)
    return read_arguments(stopped) if stopped else counterpart_of(run)


def _counterparts(run: Path) -> list[Path]:
    """List the runs that were started as counterparts of `run`, newest first."""
    marks = {each: each / COUNTERPART for each in visible(run.parent.iterdir())[::-1] if (each / COUNTERPART).is_file()}
    return [each for each, mark in marks.items() if Path(mark.read_text(encoding="utf-8")).resolve() == run.resolve()]


def unfinished_run(parent: Path) -> Path | None:
    """Find the run in `parent` that was stopped last, if any; runs that are going on, in any process, do not count."""
    folders = visible(parent.iterdir()) if parent.is_dir() else []
    runs = [folder for folder in folders if (folder / STATE_NAME).exists() and (folder / ARGUMENTS).exists()]
    runs = [run for run in runs if not holder(inside(run))]
    return max(runs, key=lambda run: (run / STATE_NAME).stat().st_mtime, default=None)


def read_arguments(run: Path) -> list[str]:
    """Read the arguments of the child process that trained in `run`.

    Raises:
        DataError: they are gone or damaged, or are those of something else than a training into this folder.
    """
    arguments = [str(argument) for argument in read_json(run / ARGUMENTS, DataError, "arguments of a training", list)]
    command, *options = arguments or [""]
    known = {*FLAGS.values(), "--settings", "--classes", "--out"}
    if command != "train" or len(options) % 2 or not known.issuperset(options[::2]) or options[::2].count("--out") != 1:
        raise DataError(f"{run / ARGUMENTS}: not the arguments of a training in this window; train anew")
    if out_of(arguments).resolve() != run.resolve():
        raise DataError(f"{run}: its arguments are those of {out_of(arguments)}; was it moved? Train anew")
    return arguments


def run_classes(arguments: Sequence[str]) -> tuple[TissueClass, ...]:
    """Read the tissue classes of the training that arguments start.

    Raises:
        DataError: the run's files, or a slide of its project, are gone.
    """
    for name, read in (("--classes", read_classes), ("--project", lambda path: read_project(path).classes)):
        if name in arguments:
            return read(Path(arguments[arguments.index(name) + 1]))
    raise DataError(f"{out_of(arguments)}: its arguments name no tissue classes; train anew")


def out_of(arguments: Sequence[str]) -> Path:
    """Return the run folder that arguments name."""
    return Path(arguments[arguments.index("--out") + 1])


def as_command(arguments: Sequence[str]) -> str:
    """Arguments as a line for a shell."""
    return "napari-lpd " + shlex.join(arguments)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the ``identity`` and ``place`` of a folder's unfinished training; None where there is none.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        about: dict[str, Any] | None = read_header(path, STATE_KEY)
        if about is None or not isinstance(about.get("identity"), dict) or not isinstance(about.get("place"), dict):
            raise ValueError("it says nothing of a training")
    except ValueError as error:
        raise ModelError(f"{path}: damaged ({error}); delete it to train anew") from error
    return about
