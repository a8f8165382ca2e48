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
    return FOLDER / "skin.safetensors"


def _slide_layer(path: Path) -> tuple[Any, dict[str, Any], str]:
    from napari_lpd.slide import open_slide

    slide = open_slide(path)
    options = {
        "name": slide.name,
        "rgb": True,
        "multiscale": len(slide.level_shapes) > 1,
        "scale": slide.mpp,
        "units": ("micrometer", "micrometer"),
        "metadata": {"napari_lpd": {"path": str(path), "mpp_source": slide.mpp_source}},
    }
    levels = slide.pyramid()
    return (levels if len(levels) > 1 else levels[0]), options, "image"


def skin() -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data of the skin slide."""
    return [_slide_layer(skin_slide_path())]


def small_region() -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data of CMU-1-Small-Region."""
    return [_slide_layer(small_region_path())]
