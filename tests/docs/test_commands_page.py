"""The page of all commands is made of their parsers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_commands_is_up_to_date():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "commands_page.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/commands_page.py"
