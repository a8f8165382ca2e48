"""The tables of docs/reference/slides.md are what opening the files gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_of_formats_are_up_to_date():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "formats_table.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/formats_table.py"
