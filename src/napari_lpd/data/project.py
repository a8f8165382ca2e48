"""Regions over several slides that form one training set: a JSON file that people can read and edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from napari_lpd.core.classes import TissueClass, check_classes
from napari_lpd.core.errors import DataError, SettingsError, reason
from napari_lpd.core.files import write_text
from napari_lpd.core.settings.base import Settings

SUFFIX = ".lpd.json"
KIND = "napari-lpd project"


class AnnotatedSlide(Settings):
    """A slide with the regions outlined on it."""

    slide: Annotated[Path, Field(description="Slide file; relative to the project file, or absolute.")]
    regions: Annotated[Path, Field(description="GeoJSON in level-0 pixels.")]
    mpp: Annotated[float | None, Field(gt=0, description="µm per pixel where the file gives none.")] = None
    patient: Annotated[str, Field(description="Slides of one patient are never split between training and test.")] = ""


class Project(Settings):
    """Annotated slides and the tissue classes of their regions."""

    kind: str = KIND
    format: int = 1
    classes: tuple[TissueClass, ...]
    slides: Annotated[tuple[AnnotatedSlide, ...], Field(min_length=1)]


def regions_beside(slide: Path) -> Path:
    """Where the regions of a slide are kept: ``NAME.svs.regions.geojson`` beside it."""
    return slide.with_name(f"{slide.name}.regions.geojson")


def read_project(path: Path) -> Project:
    """Read a project; its slides and regions come back as absolute paths.

    Raises:
        DataError: no such file, no project, a slide or regions file that is gone; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise DataError(f'{path}: no project of napari-lpd (no "kind": "{KIND}" in it)')
        project = Project.build(content)
    except (OSError, ValueError, SettingsError) as error:
        raise DataError(f"{path}: not readable as a project ({reason(error)})") from error
    check_classes(project.classes, str(path))
    folder = path.absolute().parent
    slides = tuple(
        held.model_copy(update={"slide": folder / held.slide, "regions": folder / held.regions})
        for held in project.slides
    )
    for held in slides:
        for file, what in ((held.slide, "slide"), (held.regions, "regions")):
            if not file.exists():
                raise DataError(f"{path}: its {what} {file} is gone; put it back, or take it out of the project")
    names = [str(held.slide) for held in slides]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise DataError(f"{path}: {twice} is in it twice")
    return project.model_copy(update={"slides": slides})


def write_project(path: Path, project: Project) -> Path:
    """Write a project, whole or not at all; paths below its folder are written relative to it.

    Raises:
        ExportError: the place cannot be written.
    """
    folder = path.absolute().parent

    def relative(file: Path) -> Path:
        return file.relative_to(folder) if file.is_relative_to(folder) else file

    slides = tuple(
        held.model_copy(update={"slide": relative(held.slide), "regions": relative(held.regions)})
        for held in project.slides
    )
    text = project.model_copy(update={"slides": slides}).model_dump_json(indent=1, exclude_defaults=False)
    return write_text(path, text + "\n")
