"""Training sets, from a slide with regions, a project of several slides, or labelled tiles."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from napari_lpd.core.errors import DataError, SettingsError, one_line
from napari_lpd.core.files import told_apart, write_text
from napari_lpd.data.geojson import Frame
from napari_lpd.data.images import masked_images, part_of
from napari_lpd.data.labelled_tiles import add_masks, labelled_tiles
from napari_lpd.data.project import AnnotatedSlide, read_project
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.regions import read_regions
from napari_lpd.data.summary import TILE_SHEET, save_sheet, summarise, tile_sheet, too_few_to_cluster
from napari_lpd.data.tileset import TileSet, training_colours, why_none_is_held_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.images import MaskedImage
    from napari_lpd.data.regions import Region

SUMMARY, SHEET = "summary.json", "tiles.png"
CLUSTERS = ("learned", "seeded", "clustered")  # banks of models that are clustered, or whose counterpart is
SUMMARY_FILES = {SUMMARY: '"tile edge"', SHEET: TILE_SHEET}  # and what tells them from others
FLAGS = {
    "slide": "--slide",
    "regions": "--regions",
    "slide_mpp": "--slide-mpp",
    "origin": "--origin",
    "override_mpp": "--override-mpp",
    "image": "--image",
    "project": "--project",
    "data": "--data",
    "source_pattern": "--source",
    "masks": "--masks",
    "masks_as": "--masks-as",
}


class TrainingSet(NamedTuple):
    """Training tiles, images with masks that select the best epoch, and settings that fit the tiles."""

    tiles: TileSet
    validation_images: Sequence[MaskedImage]
    settings: TrainSettings

    def summary(self) -> dict[str, Any]:
        """Return counts, split and warnings; see `summary.summarise`."""
        tiles, settings = self.tiles, self.settings
        split = (tiles, None) if self.validation_images else tiles.hold_out(settings.valid_share, settings.seed)
        masks = f"{len(self.validation_images)} images with masks" if self.validation_images else ""
        edge = f"{tiles.edge} pixels, {tiles.edge * settings.mpp:.4g} µm at {settings.mpp:g} µm per pixel"
        cause = "" if split[1] or masks else why_none_is_held_out(tiles, settings.valid_share)
        resolutions = {"resolution": tiles.resolutions} if tiles.resolutions else {}
        summary = summarise(tiles, *split, masks, cause) | {"tile edge": edge} | resolutions
        if settings.model.bank in CLUSTERS:
            clusters = settings.model.prototypes_per_class
            summary["warnings"] += too_few_to_cluster(split[0], clusters, settings.white_limit)
        return summary

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the summary (JSON) and a sheet of tiles (PNG) into `folder`; return the summary.

        Raises:
            DataError: the folder cannot be written, or a tile cannot be read.
        """
        summary = self.summary()
        write_text(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False), error=DataError)
        tiles, before = self.tiles, None
        if self.settings.stain_normalisation == "slide":
            tiles, before = tiles.with_colours(training_colours(tiles)), tiles
        save_sheet(tile_sheet(tiles, before), folder / SHEET)
        return summary


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """Source of training data: a slide with regions, a project of several, or labelled tiles.

    Every run stores it as arguments of the command line (`arguments`), from which `parse` restores it.

    Examples:
        >>> from napari_lpd import TrainSettings, TrainingSource, read_classes, samples
        >>> source = TrainingSource(slide=samples.skin_slide_path(), regions=samples.regions_path("train"))
        >>> tiles, _, settings = source.load(read_classes(samples.classes_path()), TrainSettings(tile_step=128))
        >>> tiles[0][0].shape, len(tiles) > 100
        ((3, 128, 128), True)

    Attributes:
        slide: A slide on which `regions` are outlined.
        regions: GeoJSON in level-0 pixels of the slide.
        slide_mpp: The slide's µm per pixel where its file gives none.
        origin: Where the regions' coordinates begin: at the slide's "bounds", as in QuPath, or at the "slide".
        override_mpp: The slide's µm per pixel in place of what its file says.
        image: Number of the image in the slide's file, from 1; None: the biggest.
        project: A project file of several annotated slides, with its own classes.
        data: A folder or table of labelled tiles.
        source_pattern: Regular expression that finds the slide or patient in a tile's name.
        masks: A folder of masks of some of the labelled tiles.
        masks_as: What is learned from them: their "pixels", or the "shares" of the classes.
    """

    slide: Path | None = None
    regions: Path | None = None
    slide_mpp: float | None = None
    origin: Literal["bounds", "slide"] = "bounds"
    override_mpp: float | None = None
    image: int | None = None
    project: Path | None = None
    data: Path | None = None
    source_pattern: str = ""
    masks: Path | None = None
    masks_as: Literal["pixels", "shares"] = "pixels"

    @classmethod
    def parse(cls, arguments: Sequence[str], folders: Sequence[Path] = ()) -> TrainingSource:
        """Read the source from arguments of ``train``; other arguments are ignored.

        Args:
            arguments: Arguments of the command line.
            folders: Folders of relative paths: the first in which a path exists counts, else the first of all.
        """

        def locate(text: str) -> Path:
            candidates = [folder / text for folder in folders] or [Path(text)]
            return next((candidate for candidate in candidates if candidate.exists()), candidates[0])

        parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
        for name, flag in FLAGS.items():
            known = {"slide_mpp": float, "override_mpp": float, "image": int, "origin": str, "source_pattern": str}
            known["masks_as"] = str
            read = known.get(name, locate)
            parser.add_argument(flag, dest=name, type=read, default=getattr(cls, name))
        try:
            return cls(**vars(parser.parse_known_args(arguments)[0]))
        except argparse.ArgumentError as error:
            raise DataError(f"the arguments of a training are damaged ({one_line(error, 150)})") from error

    @classmethod
    def of(cls, options: argparse.Namespace) -> TrainingSource:
        """Build the source from parsed options of ``train``."""
        return cls(**{name: getattr(options, flag[2:].replace("-", "_")) for name, flag in FLAGS.items()})

    def arguments(self) -> list[str]:
        """List the arguments of ``train`` that name this source."""
        values = {flag: getattr(self, name) for name, flag in FLAGS.items()}
        values = {flag: value for flag, value in values.items() if value not in (None, "", "bounds", "pixels")}
        return [text for flag, value in values.items() for text in (flag, str(value))]

    def paths(self) -> list[Path]:
        """List the files and folders that are read."""
        of_slide = (self.slide, self.regions) if self.slide and self.regions else ()
        return [path for path in (self.project, self.data, self.masks, *of_slide) if path]

    def check(self) -> None:
        """Raise DataError unless the fields make one source; name the option that is missing or in excess."""
        if sum(origin is not None for origin in (self.data, self.slide, self.project)) != 1:
            raise DataError("train needs one of --slide with --regions, --project, or --data")
        for_slide = [name for name in ("regions", "slide_mpp", "override_mpp", "image") if self.slide is None]
        for_tiles = [name for name in ("source_pattern", "masks") if self.data is None]
        for name in for_slide + for_tiles:
            if getattr(self, name):
                raise DataError(f"{FLAGS[name]} goes with {'--data' if name in for_tiles else '--slide'} only")
        if self.masks_as != "pixels" and self.masks is None:
            raise DataError("--masks-as goes with --masks only")
        if self.slide is not None and self.regions is None:
            raise DataError(f"{self.slide}: no regions; pass --regions GEOJSON")

    def annotated(self) -> AnnotatedSlide:
        """Return the slide with its regions; of a source that is a slide."""
        assert self.slide is not None and self.regions is not None  # as checked
        return AnnotatedSlide(
            slide=self.slide,
            regions=self.regions,
            mpp=self.slide_mpp,
            override_mpp=self.override_mpp,
            image=self.image,
            origin=self.origin,
        )

    def load(self, classes: tuple[TissueClass, ...], settings: TrainSettings) -> TrainingSet:
        """Load the training set: read its tiles, or cut them from regions.

        Args:
            classes: The tissue classes; a project has its own.
            settings: Size, step and resolution of the tiles.

        Raises:
            SlideError: a slide cannot be read.
            SettingsError: the resolution of labelled tiles is not set.
            DataError: the source is incomplete or damaged, or gives too few tiles.
        """
        self.check()
        if self.project:
            project = read_project(self.project)
            return _from_slides(project.slides, project.classes, settings)
        if self.data:
            found = _from_labelled(self.data, classes, settings, self.source_pattern)
            if self.masks is not None:
                add_masks(found.tiles, self.masks, self.masks_as == "shares")
            return found
        return _from_slides([self.annotated()], classes, settings)


def _from_slides(
    slides: Sequence[AnnotatedSlide], classes: tuple[TissueClass, ...], settings: TrainSettings
) -> TrainingSet:
    """Cut tiles from the regions of one or several slides, of which each may lack classes that others hold.

    Raises:
        SlideError: a slide cannot be read.
        DataError: regions that cannot be read or fit no tile; all slides together lack a class; a slide is not the
            one that was added to the project.
    """
    names = [tissue.name for tissue in classes]
    sets, resolutions = [], []
    for annotated, name in zip(slides, _slide_names(slides), strict=True):
        with annotated.open() as slide:
            regions = read_regions(annotated.regions, names, Frame.of(slide, annotated.origin))
            sets.append(cut_tiles(slide, regions, classes, settings, name, annotated.patient))
            resolutions.append(slide.resolution)
    source = sets[0].description if len(sets) == 1 else f"{len(sets)} slides"
    tiles = TileSet.joined(sets, source)
    tiles.resolutions = resolutions
    return TrainingSet(tiles, (), settings)


def read_annotated(annotated: AnnotatedSlide, names: Sequence[str]) -> list[Region]:
    """Read the regions of a project's slide, in level-0 pixels.

    Raises:
        SlideError: the slide cannot be read.
        DataError: as `read_regions`.
    """
    with annotated.open() as slide:
        return read_regions(annotated.regions, names, Frame.of(slide, annotated.origin))


def _slide_names(slides: Sequence[AnnotatedSlide]) -> list[str]:
    """Name slides for people: two slides never alike, a slide that is there under two names alike.

    Raises:
        DataError: a slide is not the one that was added to the project.
    """
    names, fingerprints = [], []
    for annotated in slides:
        with annotated.open() as slide:
            names.append(slide.name)
            fingerprints.append(slide.fingerprint)
        if annotated.fingerprint not in ("", fingerprints[-1]):
            raise DataError(
                f"{annotated.slide}: is not the slide that was added to the project; put that back, or add this one"
            )
    patients = {annotated.patient for annotated in slides}
    paths = told_apart(
        [annotated.slide.absolute().with_name(name) for annotated, name in zip(slides, names, strict=True)]
    )
    apart = [path if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]
    apart = [str(each.slide) if name in patients else name for name, each in zip(apart, slides, strict=True)]
    return [apart[fingerprints.index(fingerprint)] for fingerprint in fingerprints]


def _from_labelled(
    data: Path, classes: tuple[TissueClass, ...], settings: TrainSettings, source: str = ""
) -> TrainingSet:
    """Read labelled tiles; images with masks in ``valid/`` beside them select the best epoch.

    Raises:
        SettingsError: the tiles' resolution is not set.
        DataError: as `labelled_tiles`; tiles of a size that cannot be trained on.
    """
    if "mpp" not in settings.model_fields_set:
        raise SettingsError(f"{data}: tiles do not state their resolution; pass --set mpp= (µm per pixel)")
    tiles = labelled_tiles(data, classes, source)
    if not 64 <= tiles.edge <= 1024:
        raise DataError(f"{data}: tiles of {tiles.edge} pixels; wanted 64 to 1024")
    settings = settings.model_copy(update={"tile": tiles.edge})
    valid = part_of(data, "valid")
    images = masked_images(valid, source) if (valid / "img").is_dir() else ()
    return TrainingSet(tiles, images, settings)
