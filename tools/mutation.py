"""Change the core rules one operator or number at a time, and count the changes that the tests notice.

    python tools/mutation.py                  a sample of 200 changes, spread over the modules of tools/mutation.toml
    python tools/mutation.py -n 40 cam tiling  40 changes of these modules

cosmic-ray makes the changes, in a copy of the tree: nothing is changed here. Of each module, the places that can be
changed are drawn at random, and a change at each; the same seed draws the same ones. Every change is tried in a fork of
a process in which PyTorch and the like are imported already; it needs a system that can fork, and runs on one core.
What is not changed: annotations, imports, decorators, and `==` to `is`, which small numbers and texts do not show.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    *("dask.array", "hypothesis", "numba", "openslide", "pandas", "pydantic", "pytest", "scipy.ndimage", "shapely"),
    *("skimage.draw", "sklearn.cluster", "tifffile", "timm", "torch", "torchvision", "zarr"),
)
OPTIONS = (
    *("-x", "-q", "-m", "not slow", "--tb=no", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin"),
    *("--hypothesis-seed=0", "-W", "ignore::pytest.PytestConfigWarning", "-W", "ignore::SyntaxWarning"),
)
WANTED = 0.9  # share of the changes that tests ought to notice
Position = tuple[int, int]


class Mutant(NamedTuple):
    """One change of a module: an operator of cosmic-ray, and which of its places."""

    module: str
    operator: str
    occurrence: int


def skipped(tree: ast.Module, functions: list[str]) -> list[tuple[Position, Position]]:
    """List the spans (first, end), each (line, column), not to be changed: annotations, imports, decorators."""
    nodes: list[ast.AST] = []
    for node in ast.walk(tree):
        nodes += [part for name in ("annotation", "returns") if (part := getattr(node, name, None))]
        nodes += getattr(node, "decorator_list", [])
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.append(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            nodes.append(node)
    if functions:
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        named = [("", node) for node in tree.body if node not in classes]
        named += [(f"{outer.name}.", node) for outer in classes for node in outer.body]
        nodes += [node for prefix, node in named if prefix + getattr(node, "name", "") not in functions]
    return [span(node) for node in nodes]


def span(node: Any) -> tuple[Position, Position]:
    """Return where a node begins, its decorators included, and where it ends."""
    first = min((each.lineno, 0) for each in node.decorator_list) if getattr(node, "decorator_list", None) else None
    return first or (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def places_of(entry: dict[str, Any], source: str) -> dict[Position, list[Mutant]]:
    """List what can be changed in a module, by place."""
    spans = skipped(ast.parse(source), entry.get("functions", []))
    parsed, found = get_ast(source), defaultdict(list)
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments() or name.endswith(("_Is", "_IsNot")):
            continue
        operator = kind()
        starts = [start for node in ast_nodes(parsed) for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(starts):
            if not any(first <= start < end for first, end in spans):
                found[start].append(Mutant(entry["path"], name, occurrence))
    return dict(found)


def drawn(entries: list[dict[str, Any]], sources: dict[str, str], count: int, seed: int) -> list[Mutant]:
    """Draw `count` changes at random places, as many of every module as there are."""
    generator, queues = random.Random(seed), []
    for entry in entries:
        places = places_of(entry, sources[entry["path"]])
        queues.append([generator.choice(places[p]) for p in generator.sample(sorted(places), len(places))])
    chosen: list[Mutant] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            chosen += [queue.pop()] if queue and len(chosen) < count else []
    return sorted(chosen, key=lambda mutant: mutant.module)


def copied(folder: Path) -> Path:
    """Copy what the tests need to `folder`."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "napari.yaml", "sample_data"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def notices(tests: list[str], tree: Path, limit_s: int, keep_bytecode: bool = False) -> bool:
    """Tell whether the tests fail, or take more of a processor's time than the limit, in a fork of this process."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))  # whatever else the machine does
        sys.dont_write_bytecode = not keep_bytecode
        with open(tree / "log.txt", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = importlib.import_module("pytest").main([*OPTIONS, *(str(tree / "tests" / test) for test in tests)])
        os._exit(int(code))
    end = time.monotonic() + 20 * limit_s  # for tests that wait
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def tried(mutant: Mutant, tests: list[str], tree: Path, limit_s: int) -> tuple[bool, str]:
    """Tell whether tests notice a change, and show the change as a diff."""
    path = tree / "src" / "napari_lpd" / mutant.module
    source = path.read_text(encoding="utf-8")
    stat = path.stat()
    changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    diff = difflib.unified_diff(source.splitlines(), changed.splitlines(), mutant.module, mutant.operator, "", "", 0)
    try:
        path.write_text(changed, encoding="utf-8")
        return notices(tests, tree, limit_s), "\n".join(line for line in diff if line.strip() not in ("---", "+++"))
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its bytecode stays valid


def table(results: dict[Mutant, bool], names: list[str]) -> str:
    """Count changes, noticed and survived, per module and in all."""
    rows = [("module", "changes", "noticed", "survived")]
    for name in [*names, "all"]:
        own = [noticed for mutant, noticed in results.items() if name in (mutant.module, "all")]
        rows.append((name, str(len(own)), str(sum(own)), str(len(own) - sum(own))))
    return "\n".join(f"{name:28}{changes:>9}{noticed:>9}{survived:>10}" for name, changes, noticed, survived in rows)


def main() -> int:
    """Sample, try and report; 0 where enough was noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of the modules' paths; default: all")
    parser.add_argument("-n", type=int, default=200, help="how many changes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn (%(default)s)")
    options = parser.parse_args()
    config = tomllib.loads((ROOT / "tools" / "mutation.toml").read_text(encoding="utf-8"))
    wanted = options.modules or [""]
    entries = [each for each in config["module"] if any(name in each["path"] for name in wanted)]
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    os.environ.setdefault("NAPARI_LPD_SHARED", str(ROOT.parent / "shared"))
    results: dict[Mutant, bool] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        tree = copied(Path(folder))
        sys.path.insert(0, str(tree / "src"))
        for name in IMPORTED:
            importlib.import_module(name)
        tests = {each["path"]: each["tests"] for each in entries}
        for path, own in tests.items():
            if notices(own, tree, 10 * config["timeout"], keep_bytecode=True):
                raise SystemExit(f"{path}: its tests fail as it stands\n{(tree / 'log.txt').read_text()}")
        sources = {path: (tree / "src" / "napari_lpd" / path).read_text(encoding="utf-8") for path in tests}
        chosen = drawn(entries, sources, options.n, options.seed)
        for mutant in chosen:
            results[mutant], diff = tried(mutant, tests[mutant.module], tree, config["timeout"])
            if not results[mutant]:
                print(f"survived ({len(results)} of {len(chosen)} tried)\n{diff}\n", flush=True)
    share = sum(results.values()) / max(len(results), 1)
    print(table(results, list(tests)))
    print(f"{100 * share:.1f} % noticed, wanted {100 * WANTED:.0f} %")
    return int(share < WANTED)


if __name__ == "__main__":
    raise SystemExit(main())
