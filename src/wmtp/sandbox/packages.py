"""Locates the packages that a program may import."""

import importlib.util
import sys


def place_of(name: str) -> str | None:
    """Directory or file of a package; empty for the standard library's, None if it is not installed."""
    if name in sys.stdlib_module_names:
        return ""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    return next(iter(spec.submodule_search_locations or ()), spec.origin)
