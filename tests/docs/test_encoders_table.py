"""The table of published encoders in docs/reference/encoders.md is what the program knows of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_encoders_is_up_to_date():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "encoders_table.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/encoders_table.py"
