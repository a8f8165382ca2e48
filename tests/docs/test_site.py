"""The site is built without a warning: all pages in the navigation, no link, anchor or picture that leads nowhere."""

from __future__ import annotations

import os
import re
import shutil
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
    assert all((tmp_path / page / "index.html").is_file() for page in pages if page.name != "index")


def test_what_leads_nowhere_is_named(tmp_path):
    for name in ("docs", "mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    wrong = ("[a](tutorials/nowhere.md)", "[a](reference/files.md#nowhere)", "![a](images/nowhere.png)")
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n" + "\n\n".join(wrong), encoding="utf-8")
    (tmp_path / "docs" / "alone.md").write_text("# Alone\n", encoding="utf-8")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode
    said = [line for line in done.stderr.splitlines() if line.startswith("WARNING") or line.startswith("  - ")]
    for name in ("tutorials/nowhere.md", "reference/files.md#nowhere", "images/nowhere.png", "alone.md"):
        assert any(name in line for line in said), name


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_of_a_document_beside_the_site_lead_to_files(document):
    """GitHub and the hub show them as they are."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", read(document))
    assert links or document != "README.md"
    assert not [link for link in links if not (ROOT / link).is_file()]
