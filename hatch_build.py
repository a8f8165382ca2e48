"""Build hook: what the package index shows is README.md with links that work there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")
WITHOUT = "\n\nThe documents and pictures that are named here lie in the source distribution, in `docs/`.\n"


def description(readme: str, repository: str | None) -> str:
    """Make relative links absolute, in the repository where one is public; else leave their text, and no picture."""
    if repository:
        base = repository.rstrip("/")

        def absolute(link: re.Match[str]) -> str:
            return f"{link[1]}[{link[2]}]({base}/{'raw' if link[1] else 'blob'}/HEAD/{link[3]})"

        return LINK.sub(absolute, readme)
    return LINK.sub(lambda link: "" if link[1] else link[2], readme).rstrip() + WITHOUT


class DescriptionHook(MetadataHookInterface):
    """Fills ``readme`` of the project's metadata; `project.urls.Repository` is where links lead."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(text, repository)}
