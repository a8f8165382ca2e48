"""From what a user has (a slide with regions, several of them, or labelled tiles) to a training set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.data.images import masked_images, part_of
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.project import read_project
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import read_regions
from napari_lpd.data.summary import save_sheet, summarise, tile_sheet
from napari_lpd.data.tileset import TileSet, training_colours, why_none_is_held_out
from napari_lpd.slides.formats import open_slide
from napari_lpd.training.validation import mask_validation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.project import AnnotatedSlide
    from napari_lpd.training.validation import Validation

SUMMARY, SHEET = "summary.json", "tiles.png"


class TrainingSet(NamedTuple):
    """Tiles to learn from, what chooses the best epoch where there are masks, and the settings that fit the tiles."""

    tiles: TileSet
    validation: Validation | None
    settings: TrainSettings

    def summary(self) -> dict[str, Any]:
        """Counts, split and warnings; see `summary.summarise`."""
        tiles, settings = self.tiles, self.settings
        kept, held = (tiles, None) if self.validation else tiles.hold_out(settings.valid_share, settings.seed)
        masks = f"{len(self.validation.files)} images with masks" if self.validation else ""
        edge = f"{tiles.edge} pixels, {tiles.edge * settings.mpp:.4g} µm at {settings.mpp:g} µm per pixel"
        why = "" if held or masks else why_none_is_held_out(tiles, settings.valid_share)
        return summarise(tiles, kept, held, masks, why) | {"tile edge": edge}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the summary (JSON) and a sheet of tiles (PNG) into `folder`; returns the summary.

        Raises:
            DataError: the folder cannot be written, or a tile cannot be read.
        """
        found = self.summary()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SUMMARY).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{folder / SUMMARY}: cannot be written ({error.strerror or error})") from error
        shown, before = self.tiles, None
        if self.settings.stain_normalisation == "slide":
            shown, before = shown.with_colours(training_colours(shown)), shown
        save_sheet(tile_sheet(shown, before), folder / SHEET)
        return found


def from_slides(
    slides: Sequence[AnnotatedSlide], classes: tuple[TissueClass, ...], settings: TrainSettings
) -> TrainingSet:
    """Tiles cut from the regions of one or several slides.

    Raises:
        SlideError: a slide cannot be read.
        DataError: regions that cannot be read or fit no tile; fewer than two classes.
    """
    names = [tissue.name for tissue in classes]
    sets = []
    for held in slides:
        regions = read_regions(held.regions, names)
        with open_slide(held.slide, held.mpp) as slide:
            sets.append(tiles_from_regions(slide, regions, classes, settings, held.patient))
    source = sets[0].source if len(sets) == 1 else f"{len(sets)} slides"
    return TrainingSet(TileSet.joined(sets, source), None, settings)


def from_project(path: Path, settings: TrainSettings) -> TrainingSet:
    """`from_slides` of a project file, with its classes."""
    project = read_project(path)
    return from_slides(project.slides, project.classes, settings)


def from_labelled(
    data: Path, classes: tuple[TissueClass, ...], settings: TrainSettings, source: str = ""
) -> TrainingSet:
    """Labelled tiles in files; images with masks in ``valid/`` beside them choose the best epoch.

    Raises:
        SettingsError: the tiles' resolution is not set.
        DataError: as `labelled_tiles`; tiles of a size that cannot be trained on.
    """
    if "mpp" not in settings.model_fields_set:
        raise SettingsError(f"{data}: tiles do not say their resolution; pass --set mpp= (µm per pixel)")
    tiles = labelled_tiles(data, classes, source)
    if not 64 <= tiles.edge <= 1024:
        raise DataError(f"{data}: tiles of {tiles.edge} pixels; wanted 64 to 1024")
    settings = settings.model_copy(update={"tile": tiles.edge})
    valid = part_of(data, "valid")
    if not (valid / "img").is_dir():
        return TrainingSet(tiles, None, settings)
    return TrainingSet(tiles, mask_validation(masked_images(valid, source), classes), settings)
