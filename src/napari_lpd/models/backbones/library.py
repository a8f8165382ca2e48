"""timm, loaded without torch's compiler; import it from here.

Two lines make timm load the compiler (torch._dynamo, sympy, triton), which nothing here uses: the methods of a network
are marked as not to be compiled, and torchvision's ROI pooling, which comes along, imports a question to ask it. That
was a third of the time that it takes to load everything that a prediction needs. Here both wait until they are called.
Nothing changes for others that use timm, torchvision or the compiler.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ASKING, ASKED = "torchvision.ops.roi_align", "torch._dynamo.utils"

__all__ = ["timm"]


class _Finder:
    """Finds the module that asks the compiler as Python does, and runs it with `_Answering` in the compiler's place."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the one module that this is for."""
        spec = PathFinder.find_spec(name, path, target) if name == ASKING else None
        if spec is not None and spec.loader is not None:
            setattr(spec.loader, "exec_module", _answered(spec.loader.exec_module))  # noqa: B010
        return spec


def _answered(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        sys.modules[ASKED] = _Answering(ASKED)
        try:
            run(module)
        finally:
            del sys.modules[ASKED]

    return exec_module


class _Answering(ModuleType):
    """Has any function of the compiler's module: each loads that module when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks a module while it is imported
            raise AttributeError(name)
        return lambda *given, **named: getattr(import_module(ASKED), name)(*given, **named)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep timm from loading the compiler while it is itself loaded, unless that has been done."""
    if ASKED in sys.modules:
        yield
        return
    finder, disable = _Finder(), torch.compiler.disable
    sys.meta_path.insert(0, finder)
    torch.compiler.disable = cast("Any", torch)._disable_dynamo  # torch's own way to say so without loading it
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        torch.compiler.disable = disable


with _without_compiler():
    import timm
