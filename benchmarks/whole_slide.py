"""Prediction of whole slides against the bare model on as many tiles: throughput, flatness, memory and a cluster.

``python benchmarks/whole_slide.py [PART ...] [--json FILE] [--device cuda]`` makes tiled JPEG pyramids from the tissue
of the sample slide and predicts them with the embedded model. The bare model scores tiles that lie ready in memory, in
the same process, with the same threads and freed memory kept in the same way. Parts:

- ``ratio``: a slide of 20,000 px, with one thread of torch and with all; bare runs before, between and after.
- ``sweep``: 1, 10 and 100 pieces of tissue of 1 mm² on glass, each slide in a process of its own.
- ``cluster``: slides per hour of two dask workers against one, the model limited to one thread each.

Figures are printed as they come.

On a GPU the baseline of ``ratio`` is the encoder alone, in the precision that suits the card, on tiles that lie on it.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from figures import Figure, against, parser, report
from imagecodecs import jpeg8_encode

from napari_lpd import samples
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.slides.formats import open_slide

if TYPE_CHECKING:
    from collections.abc import Iterator

EDGE = 20_000
SWEEP = {1: 4, 10: 1, 100: 1}  # pieces of tissue, each 4 x 4 tiles of the file: 1.04 mm²; slides, in different places
PIECE, PITCH = 4, 6
UNITS = {"mm²": "tissue mm²", "tile": "tiles"}
TILE = 1024
SHRINK = 4
MPP = 0.2495  # scanned at 40x; the levels are 1, 4, 16…, as in Aperio's files
BARE_TILES = 16
REPEATS = 3
CLUSTER_SLIDES, CLUSTER_EDGE = 6, 8_000


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


def pieces(number: int, shift: int) -> np.ndarray:
    """`number` pieces of tissue of 1 mm² on glass, row by row in a square, moved by `shift` tiles; as for `layout`."""
    rng, side = np.random.default_rng(0), math.isqrt(number - 1) + 1
    kinds = np.full((side * PITCH + 1 + shift,) * 2, -1)
    for i in range(number):
        y, x = (place * PITCH + 1 + shift for place in divmod(i, side))
        kinds[y : y + PIECE, x : x + PIECE] = rng.integers(0, 8, (PIECE, PIECE))
    return kinds


def make_slide(path: Path, kinds: np.ndarray) -> None:
    """Write a pyramid whose tiles repeat; `kinds` as `layout` gives it."""
    tiles = tissue_tiles()
    count = len(kinds)
    edge = count * TILE
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        step = 1
        while True:
            encoded: dict[bytes, bytes] = {}
            small = [tile[::step, ::step] for tile in tiles]
            grid = -(-count // step)

            def parts(step=step, small=small, grid=grid, encoded=encoded):
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
            tiff.write(parts(), shape=(size, size, 3), dtype=np.uint8, resolution=resolution,
                       resolutionunit="CENTIMETER", subfiletype=int(step > 1), **options)  # fmt: skip
            if size <= 4 * TILE or step * SHRINK > TILE:
                return
            step *= SHRINK


class Bench:
    """A model, and tiles that lie ready for it."""

    def __init__(self, device: str, threads: int) -> None:
        import torch

        from napari_lpd.models.checkpoint import load_model
        from napari_lpd.models.compute import GPU_BATCH, choose_precision
        from napari_lpd.prediction.tile_scorer import TileScorer

        torch.set_num_threads(threads)
        self.model = load_model(samples.model_path(), device)
        self.settings = PredictSettings(device=device, threads=threads)
        self.scorer = TileScorer(self.model, self.settings)
        edge = self.settings.tile
        self.ready = np.stack([tile[:edge, :edge] for tile in tissue_tiles()])[:, None]
        self.cuda = self.model.device.type == "cuda"
        if self.cuda:
            self.model.network.encoder.precision = choose_precision("auto", self.model.device)
            many = np.concatenate([self.ready[i % 8] for i in range(GPU_BATCH)])
            self.images = torch.from_numpy(many).to(self.model.device).permute(0, 3, 1, 2).float() / 255

    def bare(self, side_by_side: bool) -> float:
        """Seconds per tile of the bare model: on a CPU by the pipeline's threads, or by torch's own on every tile."""
        import torch

        from napari_lpd.prediction.pipeline import keep_freed_memory, worker_pools

        if self.cuda:
            return self._encoder_alone()
        with keep_freed_memory():
            if not side_by_side:
                torch.set_num_threads(self.settings.threads)
                self._score(0)
                began = time.perf_counter()
                for i in range(BARE_TILES):
                    self._score(i)
                return (time.perf_counter() - began) / BARE_TILES
            with worker_pools(self.model.device, self.settings.threads) as at:
                list(at.scorers.map(self._score, range(at.scoring)))
                began = time.perf_counter()
                list(at.scorers.map(self._score, range(BARE_TILES)))
                return (time.perf_counter() - began) / BARE_TILES

    def _score(self, index: int) -> None:
        self.scorer(self.ready[index % len(self.ready)])

    def _encoder_alone(self) -> float:
        import torch

        with torch.inference_mode():
            for number in (3, 30):
                torch.cuda.synchronize()
                began = time.perf_counter()
                for _ in range(number):
                    self.model.network.encoder(self.images)
                torch.cuda.synchronize()
        return (time.perf_counter() - began) / number / len(self.images)

    def predict(self, path: Path) -> dict[str, float]:
        """Predict a slide: seconds in all, those before the first tile, tiles, and mm² of tissue."""
        from napari_lpd.prediction.predict import predict_slide
        from napari_lpd.results.prediction import Prediction

        with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
            began, started, tiles = time.perf_counter(), 0.0, 0
            for progress in predict_slide(slide, self.model, self.settings, Path(folder, "a.zarr")):
                if progress.total and not started:
                    started = time.perf_counter() - began
                tiles = progress.total
            seconds = time.perf_counter() - began
            mm2 = Prediction.open(Path(folder, "a.zarr")).tissue_mm2
        return {"seconds": seconds, "until first tile": started, "tiles": tiles, "tissue mm²": mm2}


def measure_ratio(path: Path, device: str, threads: int) -> dict[str, Any]:
    """In a process of its own: bare model and prediction by turns."""
    bench = Bench(device, threads)
    bench.predict(path)
    shared, own, whole = [bench.bare(True)], [], []
    for _ in range(REPEATS):
        whole.append(bench.predict(path))
        shared.append(bench.bare(True))
        own.append(bench.bare(False))
    return {
        "tiles": whole[0]["tiles"],
        "rates": [run["tiles"] / run["seconds"] for run in whole],
        "bare": [2 / (before + after) for before, after in pairwise(shared)],
        "own": [1 / seconds for seconds in own],
        "GiB": peak(),
    }


def measure_sweep(path: Path, device: str, threads: int) -> dict[str, Any]:
    """In a process of its own: a slide, after a small one that loads what is loaded once."""
    bench = Bench(device, threads)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.tiff")
        make_slide(small, np.zeros((2, 2), int))
        bench.predict(small)
    return {**bench.predict(path), "GiB": peak()}


def peak() -> float:
    """Peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def child(what: str, path: Path, device: str, threads: int) -> dict[str, Any]:
    """Run a measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, str(path), "--device", device, "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def ratio(folder: Path, device: str, threads: int) -> Iterator[Figure]:
    """Throughput of the whole over that of the bare model."""
    path = folder / "slide.tiff"
    make_slide(path, layout(-(-EDGE // TILE)))
    cuda = device.startswith("cuda")
    for number in [threads] if cuda else sorted({1, threads}):
        found = child("ratio", path, device, number)
        what = f"slide of {EDGE} px, {found['tiles']} tiles, {number} thread{'s' if number > 1 else ''}"
        bare, wanted = ("encoder alone on the GPU", ">= 0.7") if cuda else ("the bare model", ">= 0.85")
        figure = against(what, found["rates"], bare, found["bare"], "tiles/s", wanted)
        yield replace(figure, note=f"{found['GiB']:.2f} GiB at the peak")
        if not cuda and number > 1:
            yield against(what, found["rates"], "the bare model, torch's threads on each tile", found["own"], "tiles/s")


def sweep(folder: Path, device: str, threads: int) -> Iterator[Figure]:
    """Time per mm² and per tile from 1 to 100 mm² of tissue, against the smallest.

    How many tiles a small piece of tissue touches depends on where it lies, so there are several small slides.
    """
    first: dict[str, list[float]] = {}
    for number, slides in SWEEP.items():
        rows = []
        for shift in range(slides):
            path = folder / f"{number} {shift}.tiff"
            make_slide(path, pieces(number, shift))
            rows.append(child("sweep", path, device, threads))
            path.unlink()
        each = {unit: [row["seconds"] / row[key] for row in rows] for unit, key in UNITS.items()}
        first = first or each
        tiles, seconds, most = ([row[key] for row in rows] for key in ("tiles", "seconds", "GiB"))
        note = f"{list_of(seconds)} s, {list_of(tiles)} tiles, {max(most):.2f} GiB at the peak (wanted: 2 GB)"
        for unit, values in each.items():
            what = f"slide of {rows[0]['tissue mm²']:.3g} mm² of tissue, per {unit}"
            base = (f"1 mm², {len(first[unit])} slides", first[unit], "s", "0.9–1.1" if unit == "mm²" else "")
            yield replace(against(what, values, *base), note=note)


def list_of(values: list[float]) -> str:
    """Numbers in words."""
    return ", ".join(f"{value:.4g}" for value in values)


def cluster(folder: Path, device: str, threads: int) -> Iterator[Figure]:
    """Slides per hour of two workers over that of one; the model has one thread in each."""
    from distributed import Client, LocalCluster

    del device, threads
    slides = [folder / f"slide{i}.tiff" for i in range(CLUSTER_SLIDES)]
    make_slide(slides[0], layout(-(-CLUSTER_EDGE // TILE)))
    for path in slides[1:]:
        path.write_bytes(slides[0].read_bytes())
    rates: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(REPEATS):
        for workers in rates:
            how = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            with LocalCluster(**how) as at, Client(at) as client:
                out = folder / f"{turn} {workers}"
                slides_per_hour(slides[:2], out / "warm", at.scheduler_address)  # every worker loads the model
                before = sum(client.run(time.process_time).values())
                rates[workers].append(slides_per_hour(slides, out / "timed", at.scheduler_address))
                spent = sum(client.run(time.process_time).values()) - before
                cores[workers].append(spent * rates[workers][-1] / 3600 / len(slides))
    what = f"{CLUSTER_SLIDES} slides of {CLUSTER_EDGE} px on two workers of dask, one thread each"
    figure = against(what, rates[2], "one worker", rates[1], "slides/h", ">= 1.8")
    one, two = (statistics.median(busy) for busy in cores.values())
    yield replace(figure, note=f"{one:.2f} cores busy with one worker, {two:.2f} with two")


def slides_per_hour(slides: list[Path], out: Path, address: str) -> float:
    """Predict slides on the cluster at `address`."""
    from napari_lpd.prediction.batch import SlideTask, on_cluster

    settings = PredictSettings(device="cpu", threads=1)
    tasks = [SlideTask(path, samples.model_path(), out, settings) for path in slides]
    began = time.perf_counter()
    rows = list(on_cluster(tasks, address))
    seconds = time.perf_counter() - began
    if failed := [row["error"] for row in rows if "error" in row]:
        raise SystemExit(failed[0])
    return 3600 * len(slides) / seconds


PARTS = {"ratio": ratio, "sweep": sweep, "cluster": cluster}


def figures(options: argparse.Namespace) -> Iterator[Figure]:
    """Measure the parts that are asked for."""
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            yield from PARTS[part](Path(folder), options.device, options.threads)


def main() -> None:
    """Measure, print and write JSON."""
    import torch

    made = parser(__doc__)
    made.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    made.add_argument("--device", default="cpu")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.measure:
        what, path = options.measure
        found = {"ratio": measure_ratio, "sweep": measure_sweep}[what](Path(path), options.device, options.threads)
        print(json.dumps(found))
        return
    if not torch.cuda.is_available():
        print("no GPU here: `--device cuda ratio` measures against the encoder alone on one")
    report(figures(options), options.json)


if __name__ == "__main__":
    main()
