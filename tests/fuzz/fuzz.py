"""Read thousands of damaged files of every kind, and count what comes of it.

    python tests/fuzz/fuzz.py                          120 seconds over all kinds
    python tests/fuzz/fuzz.py --count 20000            so many files, as long as it takes
    python tests/fuzz/fuzz.py --only result.zarr --seed 7 --keep FOLDER    keep what went wrong

Every file is damaged as its number says and read in a child process; one that ends or does not answer in 10 seconds is
counted and replaced. Of a crash, a hang, another exception than an `LpdError`, a line that does not name the file, more
than 1 GB of memory, and of other values from a format that lets one see damage, kind and number are printed: they make
the same file again. The exit code says whether there were any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from subjects import SUBJECTS

from napari_lpd.core.errors import LpdError, described

SECONDS = 10  # for one file
START_SECONDS = 120  # for a process to import and to read a sound file
OUTCOMES = ("clear line", "read", "read as before", "bad line", "other exception", "crash", "hang", "memory", "silent")
FAULTS = OUTCOMES[3:]
CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
if CONTEXT.get_start_method() == "forkserver":  # what takes seconds to import is imported once
    CONTEXT.set_forkserver_preload(
        ["subjects", "napari_lpd.models.checkpoint", "napari_lpd.results.measures.areas", "zarr"]
    )


def serve(pipe: Connection, kind: str, folder: str) -> None:
    """Read one damaged file after the other: number → (outcome, what was said)."""
    warnings.simplefilter("ignore")
    subject = SUBJECTS[kind]
    sound = subject.make(Path(folder, f"sound.{kind}"))
    before = subject.use(sound)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        path = Path(folder, kind)
        remove(path)
        (shutil.copytree if sound.is_dir() else shutil.copyfile)(sound, path)
        subject.damage(path, random.Random(number))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome, said = read(kind, path, before)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory > 2**20:
            outcome, said = "memory", "more than 1 GB"
        pipe.send((outcome, said))


def read(kind: str, path: Path, before: object) -> tuple[str, str]:
    """Use a damaged file, and say what came of it."""
    subject = SUBJECTS[kind]
    try:
        values = subject.use(path)
    except LpdError as error:
        said = described(error)
        return "clear line" if path.name in said else "bad line", said
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "other exception",
            f"{type(error).__name__}: {str(error)[:100]!r} ({Path(last.filename).name}:{last.lineno})",
        )
    if values == before:
        return "read as before", ""
    return "silent" if subject.checked else "read", ""


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class Reader:
    """A child process that reads damaged files of one kind, and is replaced when it ends or hangs."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.process: multiprocessing.Process | None = None

    def outcome(self, number: int) -> tuple[str, str]:
        """Read the damaged file of this number."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send(number)
            if not self.pipe.poll(SECONDS):
                self.stop()
                return "hang", f"no answer in {SECONDS} s"
            return self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            code, self.process = self.process.exitcode, None
            return "crash", f"exit code {code}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def _start(self) -> None:
        for path in self.folder.iterdir():
            remove(path)
        self.pipe, child = multiprocessing.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(child, self.kind, str(self.folder)), daemon=True)
        self.process.start()
        child.close()
        if not self.pipe.poll(START_SECONDS):
            raise RuntimeError(f"{self.kind}: the sound file was not read in {START_SECONDS} s")
        self.pipe.recv()


def fuzz(
    kinds: list[str], folder: Path, seed: int = 0, count: int = 0, seconds: float = 120, keep: Path | None = None
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Read damaged files, `count` of all kinds or as many as `seconds` allow: outcomes per kind, and faults."""
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    faults: list[str] = []
    for kind, found in outcomes.items():
        reader = Reader(kind, folder / kind)
        until, number = time.monotonic() + seconds / len(kinds), seed * 10**6
        while found.total() * len(kinds) < count if count else time.monotonic() < until:
            outcome, said = reader.outcome(number)
            found[outcome] += 1
            if outcome in FAULTS:
                faults.append(f"{kind} {number}: {outcome}: {said}")
                if keep:
                    keep_file(folder / kind / kind, keep / f"{number}.{kind}")
            number += 1
        reader.stop()
    return outcomes, faults


def keep_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(target)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def table(outcomes: dict[str, Counter[str]]) -> str:
    """Write the outcomes as a Markdown table."""
    rows = [["what", "tried", *OUTCOMES]]
    for kind, found in [*outcomes.items(), ("all", sum(outcomes.values(), Counter()))]:
        rows.append([kind, str(found.total()), *(str(found[outcome]) for outcome in OUTCOMES)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, default=list(SUBJECTS), help="kinds of file")
    parser.add_argument("--seed", type=int, default=0, help="other files for another seed")
    parser.add_argument("--count", type=int, default=0, help="files; 0: as many as --seconds allow")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, faults = fuzz(given.only, Path(folder), given.seed, given.count, given.seconds, given.keep)
    print(table(outcomes))
    print("\n".join(faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
