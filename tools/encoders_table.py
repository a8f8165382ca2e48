"""Write the table of published encoders into docs/reference/encoders.md.

python tools/encoders_table.py          write the table
python tools/encoders_table.py --check  end with 1 if it is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from napari_lpd.models.backbones.known import PUBLISHED
from napari_lpd.models.backbones.source import NOTHING_GIVEN, architecture_of
from napari_lpd.models.backbones.weights import build

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "encoders.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"
COLUMNS = ("`--encoder`", "timm's network", "arguments", "patch", "mean; deviation", "GB", "licence", "repository")


def row(name: str) -> list[str]:
    """Describe a published encoder, with the memory of its weights in float32."""
    import torch

    known, architecture = PUBLISHED[name], architecture_of(name, "random", NOTHING_GIVEN)
    with torch.device("meta"):
        network = build(architecture)
    size = sum(tensor.numel() for tensor in network.parameters()) * 4 / 1e9
    patch = str(network.patch_embed.patch_size[0]) if hasattr(network, "patch_embed") else "–"
    arguments = ", ".join(f"{key}={value}" for key, value in known.arguments.items())
    mean, std = (", ".join(f"{value:g}" for value in part) for part in known.statistics)
    place = known.hub + ("" if known.timm else " (by file)") if known.hub else "timm's"
    licence = f"**{known.licence}**" if "non-commercial" in known.licence else known.licence
    return [f"`{name}`", f"`{known.name}`", arguments, patch, f"{mean}; {std}", f"{size:.2f}", licence, place]


def table() -> str:
    """Return the table as Markdown."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(row(name) for name in PUBLISHED)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    new = before + BEGIN + table() + END + rest.split(END)[1]
    if "--check" in sys.argv:
        sys.exit(int(new != text))
    DOCUMENT.write_text(new, encoding="utf-8", newline="\n")
