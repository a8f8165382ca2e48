"""Make CMU-1_skin.tiff from a 10240 x 10240 crop of CMU-1 (OpenSlide's test slide, CC0), halved to 0.998 µm/px.

    python make_sample.py CMU-1_crop_x27712_y3584_10240.tiff

Writes a tiled JPEG pyramid with resolution tags beside this script. Each level is the 2 x 2 mean of the one before.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile

SOURCE_MPP = 0.499
LEVELS = 4
QUALITY = 75


def halved(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (H/2, W/2, 3): mean of 2 x 2 pixels."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    mean: np.ndarray = np.rint(blocks.mean((1, 3), dtype=np.float32)).astype(np.uint8)
    return mean


def main(source: Path) -> None:
    image = halved(tifffile.imread(source, level=0))
    with tifffile.TiffWriter(Path(__file__).with_name("CMU-1_skin.tiff")) as tiff:
        for level in range(LEVELS):
            per_cm = 1e4 / (SOURCE_MPP * 2 ** (level + 1))
            tiff.write(
                image,
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                subfiletype=int(level > 0),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            image = halved(image)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
