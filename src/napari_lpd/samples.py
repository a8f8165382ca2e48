"""The sample slides, regions and model that come with the package, and the napari samples made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "sample_data"


def skin_slide_path() -> Path:
    """H&E skin with a naevus: a pyramidal crop of CMU-1 (CC0)."""
    return FOLDER / "CMU-1_skin.tiff"


def small_region_path() -> Path:
    """CMU-1-Small-Region.svs, a small Aperio slide (CC0)."""
    return FOLDER / "CMU-1-Small-Region.svs"


def regions_path(part: str) -> Path:
    """Weak regions on the skin slide; `part` is ``train`` or ``check``."""
    return FOLDER / f"CMU-1_skin_{part}.geojson"


def classes_path() -> Path:
    """The tissue classes of the skin slide."""
    return FOLDER / "classes.json"


def model_path() -> Path:
    """The model that was trained on the skin slide's training regions."""
    return FOLDER / "skin_model" / "model.safetensors"


def is_sample(slide: Path) -> bool:
    """Whether a slide came with the package, beside which nothing is to be written."""
    return slide.resolve().is_relative_to(FOLDER.resolve())


def slide_layer_data(path: Path) -> tuple[Any, dict[str, Any], str]:
    """A slide as napari layer data: lazy pyramid, scale in µm where the resolution is known, else in pixels.

    Raises:
        SlideError: the file cannot be opened.
    """
    from napari_lpd.slides.formats import open_slide

    slide = open_slide(path)
    levels = slide.pyramid()
    options = {
        "name": slide.name,
        "rgb": True,
        "multiscale": len(levels) > 1,
        "scale": slide.mpp if slide.has_mpp else (1.0, 1.0),
        "units": ("micrometer",) * 2 if slide.has_mpp else ("pixel",) * 2,
        "metadata": {"napari_lpd": {"kind": "slide", "path": str(path), "mpp_source": slide.mpp_source}},
    }
    return (levels if len(levels) > 1 else levels[0]), options, "image"


def skin() -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data of the skin slide."""
    return [slide_layer_data(skin_slide_path())]


def small_region() -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data of CMU-1-Small-Region."""
    return [slide_layer_data(small_region_path())]
