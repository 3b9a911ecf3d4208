"""Judging a script by what it writes: one process a case, in a directory of its own."""

from __future__ import annotations

import os

from .session import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .session import Candidate

    Cases = list[tuple[str, str]]

_TOLERANCE = 1e-5
_SHOWN = 60


def judge(
    plan: Any, code: str, public: Cases, private: Cases, start: Callable[[Any, str], Candidate]
) -> tuple[str, str, bool | None]:
    """Run a script on every case, the public ones first, until one goes wrong.

    Args:
        plan: limits of each case.
        code: the candidate's.
        public: (stdin, stdout).
        private: (stdin, stdout).
        start: starts and confines a process, with a plan and a standard input.

    Returns:
        Verdict, message, and whether all public cases passed.

    Raises:
        Unable: a process could not be prepared.
    """
    for position, (stdin, expected) in enumerate((*public, *private)):
        try:
            candidate = start({**plan, "workdir": _new_directory(plan)}, stdin)
            try:
                wrong = difference(candidate.run(code), expected)
            finally:
                candidate.stop()
            if wrong:
                raise Failure("failed", wrong)
        except Failure as failure:
            is_public = position < len(public)
            number, of = (position, public) if is_public else (position - len(public), private)
            kind = "public" if is_public else "private"
            return failure.verdict, f"{kind} case {number + 1} of {len(of)}: {failure.message}", not is_public
    return "passed", "", True


def difference(written: str, expected: str) -> str:
    """What distinguishes two outputs, token by token; empty if nothing does."""
    ours, theirs = written.split(), expected.split()
    for position, (token, right) in enumerate(zip(ours, theirs, strict=False), 1):
        if not agree(token, right):
            return f"token {position} is {_show(token)}, not {_show(right)}"
    return "" if len(ours) == len(theirs) else f"{len(ours)} tokens instead of {len(theirs)}"


def agree(token: str, right: str) -> bool:
    """Whether a token is the expected one: the same, or nearly the same number where one of them is no integer.

    "Nearly" is relative to the expected one only if that is no integer, so that 1e9 is not 1000000007.
    """
    if token == right:
        return True
    if _is(int, token) and _is(int, right):
        return False
    if not (_is(float, token) and _is(float, right)):
        return False
    scale = 1.0 if _is(int, right) else max(1.0, abs(float(right)))
    return abs(float(token) - float(right)) <= _TOLERANCE * scale < float("inf")


def _is(kind: type[int] | type[float], token: str) -> bool:
    """Whether a token is a literal of this kind, as programs write them."""
    try:
        kind(token)
    except ValueError:
        return False
    return token.isascii() and "_" not in token


def _new_directory(plan: Any) -> str:
    """A directory inside the program's, with a name that other cases cannot find out."""
    os.chmod(plan["workdir"], 0o711)
    directory = os.path.join(plan["workdir"], os.urandom(8).hex())
    os.mkdir(directory, 0o700)
    if plan["user"] is not None:
        os.chown(directory, plan["user"], plan["user"])
    return directory


def _show(token: str) -> str:
    return repr(token if len(token) <= _SHOWN else token[:_SHOWN] + "…")
