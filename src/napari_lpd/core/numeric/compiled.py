"""Functions compiled to machine code."""

from __future__ import annotations

import logging
from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile with numba, without the GIL; keep the machine code on disk, where there is a place for it."""
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError as error:  # neither beside the source nor in the user's cache folder
        logging.getLogger(__name__).warning("%s: compiled anew at every start (%s)", function.__name__, error)
        return njit(function, **options)
