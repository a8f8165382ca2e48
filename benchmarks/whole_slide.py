"""Prediction of whole slides: peak memory, and time as a ratio to that of the bare model on as many tiles.

``python benchmarks/whole_slide.py [EDGE ...]`` makes tiled JPEG pyramids of EDGE x EDGE pixels (20,000 and 100,000)
from the tissue of the sample slide, sparse on glass, and predicts each in a process of its own. The bare model scores
tiles that lie ready in memory, in the same process, before and after: as PyTorch comes, and with freed memory kept as
predictions keep it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from imagecodecs import jpeg8_encode

from napari_lpd import samples
from napari_lpd.config import PredictSettings
from napari_lpd.formats import open_slide

EDGES = (20_000, 100_000)
TILE = 1024
SHRINK = 4
MPP = 0.2495  # scanned at 40x; the levels are 1, 4, 16…, as in Aperio's files
BARE_TILES = 24


def tissue_tiles() -> list[np.ndarray]:
    """Tissue of the sample slide, in pieces of 1024 px."""
    with open_slide(samples.skin_slide_path()) as slide:
        places = [(y, x) for y in (100, 1500, 2600) for x in (100, 500)] + [(3800, 1200), (3800, 2400)]
        return [slide.read(place, (TILE, TILE), MPP * 4) for place in places]


def layout(count: int) -> np.ndarray:
    """(count, count) number of the tissue on each tile, -1 = glass: a strip from side to side, one down, and pieces."""
    rng = np.random.default_rng(0)
    kinds = np.full((count, count), -1)
    tissue = np.zeros((count, count), bool)
    tissue[count // 3 : count // 3 + 2] = True
    tissue[:, count // 2] = True
    for y, x in rng.integers(0, count - 2, (6, 2)):
        tissue[y : y + 3, x : x + 3] = True
    kinds[tissue] = rng.integers(0, 8, tissue.sum())
    return kinds


def make_slide(path: Path, edge: int) -> None:
    """Write a pyramid whose tiles repeat."""
    tiles = tissue_tiles()
    count = -(-edge // TILE)
    kinds = layout(count)
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        step = 1
        while True:
            encoded: dict[bytes, bytes] = {}
            small = [tile[::step, ::step] for tile in tiles]
            grid = -(-count // step)

            def pieces(step=step, small=small, grid=grid, encoded=encoded):
                for y in range(grid):
                    for x in range(grid):
                        part = kinds[y * step : (y + 1) * step, x * step : (x + 1) * step]
                        key = part.tobytes() + bytes(part.shape)
                        if key not in encoded:
                            image = np.full((TILE, TILE, 3), 244, np.uint8)
                            n = TILE // step
                            for (i, j), kind in np.ndenumerate(part):
                                if kind >= 0:
                                    image[i * n : (i + 1) * n, j * n : (j + 1) * n] = small[kind][:n, :n]
                            encoded[key] = jpeg8_encode(
                                image, level=85, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
                            )
                        yield encoded[key]

            size = -(-edge // step)
            resolution = (1e4 / MPP / step,) * 2
            tiff.write(pieces(), shape=(size, size, 3), dtype=np.uint8, resolution=resolution,
                       resolutionunit="CENTIMETER", subfiletype=int(step > 1), **options)  # fmt: skip
            if size <= 4 * TILE or step * SHRINK > TILE:
                return
            step *= SHRINK


def measure(path: Path) -> None:
    """In a process of its own: predict, then time the bare model; print the figures as JSON."""
    import torch

    from napari_lpd.inference import TileScorer
    from napari_lpd.memory import freed_memory_is_kept
    from napari_lpd.model import load_model
    from napari_lpd.predict import predict_slide, tile_grid

    model, settings = load_model(samples.model_path(), "cpu"), PredictSettings(device="cpu")
    scorer, grid = TileScorer(model, settings), tile_grid(settings, 8)
    ready = np.stack([tile[: grid.tile, : grid.tile] for tile in tissue_tiles()])[:, None]

    @torch.inference_mode()
    def bare() -> float:
        scorer(ready[0])
        again = time.perf_counter()
        for i in range(BARE_TILES):
            scorer(ready[i % len(ready)])
        return (time.perf_counter() - again) / BARE_TILES

    plain = bare()
    with freed_memory_is_kept():
        before = bare()
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tiles, started = 0, None
        for progress in predict_slide(slide, model, settings, Path(folder, "a.zarr")):
            if progress.total and started is None:
                started = time.perf_counter()
            tiles = progress.total
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with freed_memory_is_kept():
        tuned = (before + bare()) / 2
    print(
        json.dumps(
            {
                "seconds": seconds,
                "tissue": (started or began) - began,
                "tiles": tiles,
                "plain": (plain + bare()) / 2,
                "tuned": tuned,
                "GiB": memory,
            }
        )
    )


def main() -> None:
    """Make, predict and report one slide after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edges", nargs="*", type=int, default=EDGES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        for edge in options.edges:
            path = Path(folder, f"{edge}.tiff")
            make_slide(path, edge)
            command = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            plain, tuned = (found["tiles"] * found[name] for name in ("plain", "tuned"))
            print(
                f"{edge} x {edge} px ({path.stat().st_size / 2**20:.0f} MiB): {found['seconds']:.0f} s for"
                f" {found['tiles']} tiles ({found['tissue']:.1f} s of them looking for tissue);"
                f" bare model {plain:.0f} s, ratio {found['seconds'] / plain:.2f}; bare model with our way of keeping"
                f" memory {tuned:.0f} s, ratio {found['seconds'] / tuned:.2f}; peak memory {found['GiB']:.2f} GiB",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    main()
