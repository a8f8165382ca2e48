"""Projects: several slides with regions that form one training set, in a JSON file that people can edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from napari_lpd.core.classes import TissueClass, check_classes
from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.files import write_text
from napari_lpd.core.reading import located, read_json
from napari_lpd.core.settings.base import Settings
from napari_lpd.slides.formats import open_slide

if TYPE_CHECKING:
    from napari_lpd.slides.slide import Slide

SUFFIX = ".lpd.json"
KIND = "napari-lpd project"


class AnnotatedSlide(Settings):
    """A slide with the regions outlined on it."""

    slide: Path = Field(description="Slide file; relative to the project file, or absolute.")
    regions: Path = Field(description="GeoJSON in level-0 pixels.")
    mpp: float | None = Field(default=None, gt=0, description="µm per pixel where the file gives none.")
    override_mpp: float | None = Field(default=None, gt=0, description="µm per pixel in place of what the file says.")
    image: int | None = Field(
        default=None, ge=1, description="Number of the image in the file, where it holds several."
    )
    patient: str = Field(default="", description="Slides of one patient are never split between training and test.")
    origin: Literal["bounds", "slide"] = Field(
        default="bounds",
        description="Where the regions' coordinates begin: at the slide's scanned part, as in QuPath, or at the slide.",
    )
    fingerprint: str = Field(default="", description="The slide's content when it was added; another's is refused.")

    @property
    def place(self) -> tuple[Path, int | None]:
        """What is another for every slide of a project: the file, and the image in it."""
        return self.slide.resolve(), self.image

    def open(self) -> Slide:
        """Open the slide.

        Raises:
            SlideError: as `open_slide`.
        """
        return open_slide(self.slide, self.mpp, override_mpp=self.override_mpp, image=self.image)


class Project(Settings):
    """Annotated slides and the tissue classes of their regions."""

    kind: str = KIND
    format: int = 1
    classes: tuple[TissueClass, ...]
    slides: tuple[AnnotatedSlide, ...] = Field(
        min_length=1, description="Slides of one patient are never split between training and test."
    )


def regions_beside(slide: Path, image: int | None = None) -> Path:
    """Name the regions beside a slide, ``NAME.svs.regions.geojson``; those of another `image` with its number."""
    return slide.with_name(f"{slide.name}{'' if image is None else f', image {image}'}.regions.geojson")


def read_project(path: Path) -> Project:
    """Read a project; its slides and regions come back as absolute paths.

    Raises:
        DataError: the file is no project, or it, a slide or a regions file is missing; the message names it.
    """
    content = read_json(path, DataError, "a project", dict)
    if content.get("kind") != KIND:
        raise DataError(f'{path}: not a project of napari-lpd (no "kind": "{KIND}" in it)')
    try:
        project = Project.build(content)
    except SettingsError as error:
        raise DataError(f"{path}: not readable as a project ({error})") from error
    check_classes(project.classes, str(path))
    folder = path.absolute().parent
    slides = tuple(
        annotated.model_copy(
            update={"slide": located(folder, annotated.slide), "regions": located(folder, annotated.regions)}
        )
        for annotated in project.slides
    )
    for annotated in slides:
        for file, what in ((annotated.slide, "slide"), (annotated.regions, "regions")):
            if not file.exists():
                raise DataError(f"{path}: its {what} {file} is missing; put it back, or remove it from the project")
    places = [annotated.place for annotated in slides]
    if repeated := next((place for place in places if places.count(place) > 1), None):
        raise DataError(f"{path}: {repeated[0]} is in it twice")
    return project.model_copy(update={"slides": slides})


def write_project(path: Path, project: Project) -> Path:
    """Write a project atomically; paths below its folder become relative to it.

    Raises:
        ExportError: the file cannot be written.
    """
    folder = path.absolute().parent

    def relative(file: Path) -> Path:
        return file.relative_to(folder) if file.is_relative_to(folder) else file

    slides = tuple(
        annotated.model_copy(update={"slide": relative(annotated.slide), "regions": relative(annotated.regions)})
        for annotated in project.slides
    )
    text = project.model_copy(update={"slides": slides}).model_dump_json(indent=1, exclude_defaults=False)
    return write_text(path, text + "\n", mark=KIND)
