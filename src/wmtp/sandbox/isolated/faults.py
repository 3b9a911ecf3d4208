"""Whose fault it is that running the tests raised an exception."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from types import CodeType

ENTRY_POINT = "candidate"
"""How tests call the function that `Program.entry_point` names."""

TESTS = "<tests>"
"""The file name of the tests' code."""

CANDIDATE = "<string>"
"""The file name of the candidate's code."""


def is_the_tests_own(error: BaseException, theirs: Collection[str], demanded: Collection[str]) -> bool:
    """Whether the tests' code asked for what no candidate could give it.

    That is a module that cannot be imported, an attribute that a module does not have, or a name that neither they
    nor a right candidate define. Everything else may come of a value of the candidate's.

    Args:
        error: what running them raised.
        theirs: names that they define somewhere.
        demanded: names that a right candidate defines; if that is not known, none.
    """
    code = _last_code(error)
    if code is None or code.co_filename != TESTS:
        return False
    if isinstance(error, ImportError):
        return True
    if isinstance(error, AttributeError):
        return type(error.obj) is type(sys) and error.name in code.co_names
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        return bool(demanded) and error.name not in demanded and error.name not in theirs
    return False


def _last_code(error: BaseException) -> CodeType | None:
    """What ran last of the tests' and the candidate's code."""
    found, step = None, error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_filename in (TESTS, CANDIDATE):
            found = code
        step = step.tb_next
    return found
