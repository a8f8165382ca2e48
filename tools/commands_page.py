"""Write the page of all commands, made of their parsers, into docs/reference/commands.md.

python tools/commands_page.py          write the page
python tools/commands_page.py --check  end with 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from napari_lpd.cli.parser import EXAMPLES, GROUPS, commands_parser

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
HEAD = """# Commands

What `napari-lpd --help` and the help of every command say; made by `tools/commands_page.py`. Words in capitals stand
for your files and folders. All settings of `--set` and `--settings` are listed in [Settings](settings.md), what is
written where in [Files](files.md), what a command ends with and prints in [Exit codes and JSON lines](automation.md).
[Shell completion](../how-to/shell-completion.md) fills in commands, options and files.

Every command also has `--help`, `--json` (print JSON lines instead of text), `-v` or `--verbose` (log messages, and
tracebacks of errors, too) and `-q` or `--quiet` (only the result, warnings and errors).
"""
COMMON = ("help", "json", "verbose", "quiet")  # options of every command, by their names in the code


def page() -> str:
    """Write the page."""
    parser = commands_parser()
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in names:
            parts.append(section(name, parser.subparsers()[name]))
    return "\n".join(parts)


def section(name: str, parser: argparse.ArgumentParser) -> str:
    """Describe a command: what it does, its examples, its arguments and options."""
    rows = [row(action) for action in parser._actions if action.help != argparse.SUPPRESS and action.dest not in COMMON]
    table = ["| argument, option | what it does |", "|---|---|", *rows]
    lines = [f"### {name}", "", str(parser.description), "", "```", *EXAMPLES[name], "```", ""]
    return "\n".join([*lines, *((*table, "") if rows else ())])


def row(action: argparse.Action) -> str:
    """Describe an argument or option in a row: its names with the value, choices, whether it has to be given."""
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
    shown = ", ".join(f"`{name}`" for name in names)
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    notes = [", ".join(f"`{choice}`" for choice in action.choices)] if action.choices else []
    notes += ["required"] if action.option_strings and action.required else []
    notes += ["one or more"] if action.nargs in ("+", "*") else []
    about = f"{text[:1].upper()}{text[1:]}" + "".join(f"; {note}" for note in notes)
    return f"| {shown} | {about.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        sys.exit(int(PAGE.read_text(encoding="utf-8") != text))
    PAGE.write_text(text, encoding="utf-8", newline="\n")
