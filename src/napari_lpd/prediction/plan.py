"""What a batch of slides is to become, kept in its folder: window and command line go on with each other's work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from napari_lpd.core.errors import DataError
from napari_lpd.core.reading import visible
from napari_lpd.core.settings.base import Settings, read_settings, write_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction.batch import SlideTask, result_names
from napari_lpd.results.export.ome_tiff import is_labelled
from napari_lpd.slides.dicom import dicom_series, is_dicom
from napari_lpd.slides.formats import is_slide

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN, TABLE = "batch.json", "summary.csv"  # in the folder of the results


class BatchPlan(Settings):
    """Slides that are predicted alike; with the options of ``predict``, as `SlideTask` has them.

    Attributes:
        slides: The files, in the order in which they are predicted; absolute.
        scheduler: Address of a dask cluster; "": this computer.
    """

    slides: tuple[Path, ...] = Field(min_length=1)
    model: Path
    settings: PredictSettings = PredictSettings()
    mpp: float | None = None
    icc: bool = False
    replace: bool = False
    override_mpp: float | None = None
    image: int | None = None
    origin: Literal["bounds", "slide"] = "bounds"
    scheduler: str = ""

    @classmethod
    def read(cls, out: Path) -> BatchPlan:
        """Read the plan of a folder of results.

        Raises:
            DataError: none is there.
            SettingsError: it cannot be read.
        """
        if not (out / PLAN).exists():
            raise DataError(f"{out}: no batch was begun there (no {PLAN}): name the slides")
        return read_settings(cls, out / PLAN, [])

    def joined(self, out: Path) -> BatchPlan:
        """Return this plan after the slides of the one in a folder, where that is the same otherwise."""
        if not (out / PLAN).exists():
            return self
        before = BatchPlan.read(out)
        slides = tuple(dict.fromkeys((*before.slides, *self.slides)))
        joined = self.model_copy(update={"slides": slides})
        return joined if joined == before.model_copy(update={"slides": slides}) else self

    def write(self, out: Path) -> None:
        """Keep the plan in a folder of results.

        Raises:
            ExportError: it cannot be written, or another file is in its place.
        """
        write_settings(out / PLAN, self)

    def tasks(self, out: Path) -> list[SlideTask]:
        """Return the slides as tasks, whose results go into `out`, named apart."""
        return [
            SlideTask(
                slide,
                self.model,
                out.absolute(),
                self.settings,
                self.mpp,
                self.icc,
                replace=self.replace,
                override_mpp=self.override_mpp,
                image=self.image,
                origin=self.origin,
                others=self.slides,
                name=name,
            )
            for slide, name in zip(self.slides, result_names(self.slides), strict=True)
        ]


def slides_in(folder: Path, inside: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Find the slides in a folder and those in it: of a DICOM series its first file; no mask, nothing in a result.

    Args:
        folder: The folder.
        inside: The folders that it is in, which links may lead back to.

    Raises:
        SlideError: a folder with DICOM files cannot be read.
        OSError: another cannot.
    """
    if (here := folder.resolve()) in inside:
        return
    files = [path for path in visible(folder.iterdir()) if path.suffix != ".zarr"]
    series: set[Path] = set()
    for path in files:
        if path.is_dir():
            yield from slides_in(path, inside | {here})
        elif path not in series and is_slide(path) and not is_labelled(path):
            series |= set(dicom_series(path)) if is_dicom(path) else set()
            yield path
