"""Third-party packages that tests and candidates may import: those that the task names, and no others.

The processor time and the address space that importing them takes are added to the limits of the process.
"""

from __future__ import annotations

import os
import sys
import time
from _frozen_importlib_external import spec_from_file_location

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Finder:
    """Finds top-level packages in the given places after the standard library.

    Args:
        places: name to the directory, or the file, that holds the package.

    Attributes:
        held_bytes: address space that imported packages occupy.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places
        self.held_bytes = 0

    def find_spec(self, name: str, path: object = None, _: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        place = self.places.get(name)
        if path is not None or place is None:
            return None
        if os.path.isdir(place):
            return spec_from_file_location(name, f"{place}/__init__.py", submodule_search_locations=[place])
        return spec_from_file_location(name, place)


finder = Finder({})
"""This process's."""


def provide(places: dict[str, str], preload: Iterable[str]) -> float:
    """Make packages importable in this process, and import some of them now.

    Args:
        places: see `Finder`.
        preload: names of those that are going to be used.

    Returns:
        Seconds of processor time that importing them took.

    Raises:
        ImportError: one of them does not work.
    """
    if not places:
        return 0.0
    if finder not in sys.meta_path:
        sys.meta_path.append(finder)
    finder.places |= places
    os.environ |= dict.fromkeys(
        _ONE_THREAD, "1"
    )  # threads are not to be had, and what is not there cannot fail
    started, held = time.process_time(), kernel.address_space()
    for name in preload:
        __import__(name)
    finder.held_bytes += kernel.address_space() - held
    return time.process_time() - started


def readable_paths(places: dict[str, str]) -> list[str]:
    """The packages, and the shared libraries of their wheels in a directory beside them."""
    return [path for place in places.values() for path in (place, f"{place}.libs") if os.path.exists(path)]
