"""The command lines that the documents show: found, and turned into lines that can be run on small data.

A line is taken as it stands. Only its placeholders are replaced (`PLACEHOLDERS`, `LEFT_OUT`), and settings that make
it quick are added at its end (`QUICK`).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)
PROGRAMS = ("napari-lpd", "make", "pip", "python", "torchrun", "git", "vips")
SHELLS = ("", "sh", "bash", "console", "shell")

EXCEPTIONS = {
    "napari-lpd demo": "its window stays open; tests/cli/test_demo.py runs it and takes a picture",
    "vips tiffsave IN OUT.tif --tile --pyramid": "libvips is another program, which is not installed with ours",
    "python tools/encoders_table.py": "tests/docs/test_encoders_table.py runs it with --check",
    "python tools/mutation.py": "runs the tests themselves again and again, for much longer than a test may take",
}
"""Lines that are not run, each with the reason."""

SCHEDULER = "tcp://HOST:8786"

PLACEHOLDERS = {
    # Data: the file or folder that the test makes, where the lines of a document run.
    "SLIDE ...": "first.tiff second.tiff",
    "SLIDE.svs": "third.svs",
    "SLIDE.zarr": "first.zarr",
    "SLIDE": "first.tiff",
    "REGIONS.geojson": "regions.geojson",
    "ROI.geojson": "roi.geojson",
    "CHECK.geojson": "regions.geojson",
    "TISSUE.geojson": "tissue.geojson",
    "CLASSES.json": "classes.json",
    "SLIDES.lpd.json": "slides.lpd.json",
    "ROLES.json": "roles.json",
    "--settings FILE": "--settings predict.json",
    "TILES": "tissue4",
    "DATASET": "tissue4",
    "--data DIR": "--data tissue4",
    "TEST": "test",
    "MODEL": "A.safetensors",
    "A.safetensors": "A.safetensors",
    "B.safetensors": "B.safetensors",
    "CHECKPOINT.pth": "published.pth",
    "CKPT.pth": "published.pth",
    "NAME.zarr": "made/first.zarr",
    SCHEDULER: SCHEDULER,  # the test puts the address of a cluster in its place
    # What one line writes and later ones read.
    **{name: name for name in ("RUN", "RUN2", "FAST", "FAST2", "LPD", "PBIP", "A", "B", "CODE", "PAPER")},
    **{name: name for name in ("STAGE2", "IMPORTED", "REPORT2")},
    **{name: name for name in ("RESULTS", "RESULTS2", "RESULTS3", "REPORT", "COMPARISON", "COMPARISON2", "EVAL_A")},
    **{name: name for name in ("MASK.geojson", "AREAS.csv", "FIGURE.png", "OBJECTS.csv", "OBJECTS.geojson")},
    "--to FILE": "--to mask.ome.tif",
    "--out DIR": "--out written",
    # Choices.
    "--preset NAME": "--preset default",
    "TABLE": "table1",
    "SEED": "1",
    "bench_out/NAME.json": "bench_out/reading.json",
    # Capitals that are meant literally.
    **{name: name for name in ("TRAIN=1", "CMU-1", "GLAS-")},
}
"""What stands for what in the lines of all documents."""

LEFT_OUT = {
    "train": "--data tissue4 --set mpp=0.357 --classes classes.json --out left_out",
    "reproduce": "--data tissue4",
}
"""What … stands for, per command of ours."""

QUICK = {
    "train": "--set max_steps=6 --set batch=4 --set tile=64 --set tile_step=48 --set max_regions=2 --set threads=1",
    "predict": "--set presence=0.01 --set tile=128 --set overlap=32 --set block=128 --set threads=1",
    "evaluate": "--set bootstrap=10 --set threads=1",
    "compare": "--set bootstrap=10 --set slide_tiles=24 --set training_tiles=12 --set stability_tiles=2"
    " --set threads=1",
    "stage2": "--set max_steps=1 --set batch=4 --set threads=1",
    "reproduce": "--seeds 1 --set max_steps=1 --set batch=4 --set max_regions=4 --set threads=1"
    " --set model.encoder=test_efficientnet --set model.encoder_weights=random"
    """ --evaluate-set bootstrap=10 --evaluate-set refiners='["none"]' --evaluate-set threads=1""",
    "torchrun": "--set max_steps=1",
}
"""What is added to a line so that it takes seconds, per command of ours and per program."""


class Shown(NamedTuple):
    """A command line of a document: without comment, in one row unless a quoted argument has several."""

    document: str
    number: int
    text: str

    @property
    def program(self) -> str:
        """The program that it calls."""
        return self.text.split()[0]

    @property
    def command(self) -> str:
        """The command of ours that it calls, under torchrun too; else nothing."""
        found = re.search(r"(?:^|-m )napari[-_]lpd ([a-z0-9]+)", self.text)
        return found[1] if found else ""

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.document}:{self.number}"


class NotALineError(Exception):
    """What a document shows cannot be run; the message says where it stands and what to do."""


def lines_of(document: str, text: str) -> list[Shown]:
    """Find the command lines of Markdown `text`: in fenced blocks, and in code spans that are a whole line.

    Raises:
        NotALineError: a block for the shell holds something that is neither a comment nor the call of a known program.
    """
    found: list[Shown] = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```|`([^`]+)`", text, re.MULTILINE | re.DOTALL):
        number = text.count("\n", 0, match.start()) + 1
        if match[3] is not None:
            found += _lines_of_span(document, number, match[3])
        elif match[1] in SHELLS:
            found += _lines_of_block(document, number + 1, match[2])
    return found


def all_lines(documents: Iterable[str] = DOCUMENTS) -> list[Shown]:
    """Find the command lines of all documents, in order."""
    return [line for document in documents for line in lines_of(document, read(document))]


def read(document: str) -> str:
    """Read a document by its path in the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def lines_of_help(command: str, page: str) -> list[Shown]:
    """Find the command lines of a help page: the call of the page itself, and what stands in it below its usage."""
    called = " ".join(["napari-lpd", command, "--help"]).replace("  ", " ")
    below = page.partition("\n\n")[2]
    found = re.findall(r"(?:^\s*|[`'])((?:napari-lpd|pip install) [^`'\n]+)", below, re.MULTILINE)
    return [Shown("help", 0, called), *(Shown(called, 0, text.strip()) for text in found)]


def options_named(text: str) -> set[str]:
    """Find the options that the code spans of Markdown `text` name, those of whole command lines aside."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    parts = [span for span in spans if span.split()[0] not in PROGRAMS]
    return {option for span in parts for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}


def arguments_of(line: Shown, replaced: Mapping[str, str] = PLACEHOLDERS) -> list[str]:
    """Make the arguments that `line` is run with: placeholders replaced, what makes it quick added.

    Raises:
        NotALineError: a word in capitals is no known placeholder, or nothing is known to stand for ….
    """
    text = line.text
    if "…" in text and line.command not in LEFT_OUT:
        raise NotALineError(f"{line.place}: nothing is known to stand for … here; enter it in LEFT_OUT: {text}")
    text = text.replace("…", LEFT_OUT.get(line.command, ""))
    known = _placeholders(replaced)
    if unknown := re.findall(r"(?<![a-z])[A-Z][A-Z0-9_]*(?![a-z])", known.sub(" ", text)):
        raise NotALineError(f"{line.place}: unknown placeholder {unknown[0]}; enter it in PLACEHOLDERS: {line.text}")
    arguments = shlex.split(known.sub(lambda match: replaced[match[0]], text))
    quick = [] if {"--help", "--resume"} & {*arguments} else [QUICK.get(line.command, ""), QUICK.get(line.program, "")]
    return arguments + shlex.split(" ".join(quick))


def placeholders_in(line: Shown) -> set[str]:
    """Find the entries of `PLACEHOLDERS` that `line` uses."""
    return set(_placeholders(PLACEHOLDERS).findall(line.text))


def _placeholders(replaced: Mapping[str, str]) -> re.Pattern[str]:
    """A pattern of whole placeholders, the longer first."""
    names = "|".join(re.escape(name) for name in sorted(replaced, key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z0-9_])(?:{names})(?![A-Za-z0-9])")


def _lines_of_span(document: str, number: int, text: str) -> list[Shown]:
    """The line of a code span. ``napari-lpd COMMAND`` alone names a command, and its help is asked for."""
    words = text.split()
    if len(words) < 2 or words[0] not in PROGRAMS:
        return []
    asked = ["--help"] if words[0] == "napari-lpd" and len(words) == 2 else []
    return [Shown(document, number, " ".join([*words, *asked]))]


def _lines_of_block(document: str, first: int, block: str) -> Iterator[Shown]:
    """The lines of a fenced block, and those that a comment in it ends with."""
    begun, start = "", first
    for number, row in enumerate(block.splitlines(), first):
        start = start if begun else number
        text, comment = _without_comment(begun + row)
        if _goes_on(text):
            begun = text.removesuffix("\\") if text.endswith("\\") else text + "\n"
            continue
        begun = ""
        if text.strip():
            yield _checked(Shown(document, start, text.strip() if "\n" in text else " ".join(text.split())))
        if shown := re.search(rf"(?:^|: )((?:{'|'.join(PROGRAMS)}) .+)$", comment):
            yield Shown(document, number, shown[1])
    if begun:
        raise NotALineError(f"{document}:{start}: a line without an end: {begun}")


def _without_comment(row: str) -> tuple[str, str]:
    """A row without the comment at its end, and the comment."""
    quote = ""
    for i, letter in enumerate(row):
        if letter in "\"'" and quote in ("", letter):
            quote = "" if quote else letter
        elif letter == "#" and not quote and not row[:i][-1:].strip():
            return row[:i].rstrip(), row[i + 1 :].strip()
    return row.rstrip(), ""


def _goes_on(text: str) -> bool:
    """Whether a line goes on in the next row: after a backslash, or inside quotes."""
    try:
        shlex.split(text.removesuffix("\\"))
    except ValueError:
        return True
    return text.endswith("\\")


def _checked(line: Shown) -> Shown:
    if line.program not in PROGRAMS:
        raise NotALineError(f"{line.place}: no call of a known program ({', '.join(PROGRAMS)}): {line.text}")
    return line
