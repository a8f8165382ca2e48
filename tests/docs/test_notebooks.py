"""The notebooks run from the first cell to the last, each in a folder of its own, and are kept without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ("train_and_predict", "measure_a_cohort", "compare_banks", "plug_in_an_encoder")


def code_of(name: str) -> list[str]:
    book = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "clear the outputs"
    return ["".join(cell["source"]) for cell in cells]


def run_cell(name: str, number: int, code: str, names: dict[str, object]) -> object:
    """Run a cell as a notebook does; return the value of its last line, if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    place = f"{name}, cell {number}"
    exec(compile(tree, place, "exec"), names)
    return eval(compile(ast.Expression(last.value), place, "eval"), names) if last else None


SHOWN = {
    "train_and_predict": lambda values: (
        values[1] == list(values[2]) == ["epidermis", "naevus nests", "collagen", "fat"]
    ),
    "measure_a_cohort": lambda values: list(values[0].index) == ["A", "B"] and values[1]["tissue"].eq(100).all(),
    "compare_banks": lambda values: (
        values[0] == [("sample", "model"), ("random in sample's space", "random")]
        and values[1]["sample"]["effective_number"] < values[1]["random in sample's space"]["effective_number"]
        and len(values[2]) > 0
    ),
    "plug_in_an_encoder": lambda values: "0.485" in values[0] and values[1] > 5e6,
}
"""What the cells of a notebook must show, in order."""


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES) == set(SHOWN)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    names: dict[str, object] = {}
    try:
        shown = [run_cell(name, number, code, names) for number, code in enumerate(code_of(name), 1)]
    finally:
        torch.set_num_threads(threads)
    assert SHOWN[name]([value for value in shown if value is not None])
