"""The site is built without a warning: all pages in the navigation, no link, anchor or picture that leads nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shown_commands import ROOT, read


def built(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the documents in `folder`, as ``make docs`` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_site_is_built_without_a_warning(tmp_path):
    done = built(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 10
    assert all((tmp_path / f"{page}.html").is_file() for page in pages)


def test_what_leads_nowhere_is_named(tmp_path):
    """With the rules of our site, on two pages."""
    rules = read("mkdocs.yml").partition("\nvalidation:")[2].partition("\nnav:")[0]
    assert "anchors: warn" in rules
    text = f"site_name: small\nplugins: []\nnav:\n  - index.md\n  - other.md\nvalidation:{rules}\n"
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    for name in ("index.md", "other.md", "alone.md"):
        (tmp_path / "docs" / name).write_text("# Page\n\n[a](other.md#page)\n", encoding="utf-8")
    wrong = ("nowhere.md", "other.md#nowhere", "nowhere.png")
    links = "".join(f"![a]({name})\n" if name.endswith("png") else f"[a]({name})\n" for name in wrong)
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{links}", encoding="utf-8")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode
    said = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "  - "))]
    assert all(any(name in line for line in said) for name in (*wrong, "alone.md")), said
    assert len(said) == 5  # these four, and the heading above alone.md


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_of_a_document_beside_the_site_lead_to_files(document):
    """GitHub and the hub show them as they are."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", read(document))
    assert links or document != "README.md"
    assert not [link for link in links if not (ROOT / link).is_file()]
