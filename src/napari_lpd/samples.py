"""The sample slides, regions and model that come with the package, and the napari samples made of them."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
FOLDER = _PACKAGE / "sample_data"  # as the wheel has it
if not FOLDER.is_dir():
    FOLDER = _PACKAGE.parents[1] / "sample_data"  # as the repository and the source distribution have it


def skin_slide_path() -> Path:
    """Return the path of H&E skin with a naevus: a pyramidal crop of CMU-1 (CC0)."""
    return FOLDER / "CMU-1_skin.tiff"


def small_region_path() -> Path:
    """Return the path of CMU-1-Small-Region.svs, a small Aperio slide (CC0)."""
    return FOLDER / "CMU-1-Small-Region.svs"


def regions_path(part: str) -> Path:
    """Return the path of weak regions on the skin slide; `part` is ``train`` or ``check``."""
    return FOLDER / f"CMU-1_skin_{part}.geojson"


def classes_path() -> Path:
    """Return the path of the skin slide's tissue classes."""
    return FOLDER / "classes.json"


def model_path() -> Path:
    """Return the path of the model that was trained on the skin slide's training regions."""
    return FOLDER / "skin_model" / "model.safetensors"


def is_sample(slide: Path) -> bool:
    """Tell whether a slide came with the package, beside which nothing is to be written."""
    return slide.resolve().is_relative_to(FOLDER.resolve())
