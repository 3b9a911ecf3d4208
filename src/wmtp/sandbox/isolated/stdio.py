"""Judges a program case by case, each in a new process and directory, by its output or a function's result."""

from __future__ import annotations

import os
import stat

from .outputs import difference
from .session import Failure, Unable, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .session import Candidate

    Start = Callable[..., Candidate]

_TIMES_EXPECTED = 16
"""A number of one digit may be written with as many characters, and its separator."""
_MIB = 1 << 20


def judge(request: Any, start: Start) -> tuple[str, str, bool | None]:
    """Judge a program on every case, the public ones first, until one goes wrong.

    Args:
        request: `plan`, the limits of each case; `code`; `cases`, public and private ones. For a script, whose
            cases are (stdin, stdout), `comparison`, `input_file` and `output_file`; for a function, whose cases are
            (arguments, result), its name as `function`.
        start: starts and confines a process, with a plan and a standard input.

    Returns:
        Verdict, message, and whether all public cases passed.

    Raises:
        Unable: a process could not be prepared, or no program can be given, or can answer, a case.
    """
    public, private = request["cases"]
    wrong_in = _wrong_result if "function" in request else _wrong_output
    for position, case in enumerate((*public, *private)):
        is_public = position < len(public)
        number, of = (position, public) if is_public else (position - len(public), private)
        where = f"{'public' if is_public else 'private'} case {number + 1} of {len(of)}: "
        try:
            wrong = wrong_in(request, case, start)
            if wrong:
                raise Failure("failed", wrong)
        except Failure as failure:
            return failure.verdict, where + failure.message, not is_public
        except Unable as error:
            raise Unable(where + str(error)) from None
    return "passed", "", True


def _wrong_output(request: Any, case: tuple[str, str], start: Start) -> str:
    """Why a script's output is wrong; empty if it is right."""
    given, expected = _as_bytes(case[0], "input"), _as_bytes(case[1], "output")
    limit = request["plan"]["reply_bytes"] + _TIMES_EXPECTED * len(expected)
    plan = {**request["plan"], "reply_bytes": limit, "workdir": _new_directory(request["plan"])}
    if request["input_file"]:
        _put_file(plan, request["input_file"], given)
    if request["output_file"]:
        plan["file_mib"] = max(plan["file_mib"], -(-limit // _MIB))
    candidate = start(plan, case[0])
    try:
        written = candidate.run(request["code"])
    finally:
        candidate.stop()
    if request["output_file"]:
        written = _file_content(os.path.join(plan["workdir"], request["output_file"]), limit, written)
    return difference(written, case[1], request["comparison"])


def _wrong_result(request: Any, case: tuple[list[object], object], start: Start) -> str:
    """Why a function's result is wrong; empty if it is right. A tuple counts as the list of its elements."""
    arguments, expected = case
    candidate = start({**request["plan"], "workdir": _new_directory(request["plan"])})
    try:
        candidate.define(request["code"])
        if candidate.look_up(request["function"]) is None:
            return f"the program does not define {request['function']!r}"
        result = candidate.stand_in(request["function"])(*arguments)
    finally:
        candidate.stop()
    if (list(result) if type(result) is tuple else result) == expected:
        return ""
    return f"{candidate.describe_last_call()}, not {show(expected)}"


def _as_bytes(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Unable(f"its {what} is no text: {error.reason} ({text[error.start]!r})") from None


def _new_directory(plan: Any) -> str:
    """A directory inside the program's, with a name that other cases cannot guess."""
    os.chmod(plan["workdir"], 0o711)
    directory = os.path.join(plan["workdir"], os.urandom(8).hex())
    os.mkdir(directory, 0o700)
    if plan["user"] is not None:
        os.chown(directory, plan["user"], plan["user"])
    return directory


def _put_file(plan: Any, name: str, content: bytes) -> None:
    """Give a program a file to read."""
    path = os.path.join(plan["workdir"], name)
    with open(path, "xb") as file:
        file.write(content if content.endswith(b"\n") else content + b"\n")
    if plan["user"] is not None:
        os.chown(path, plan["user"], plan["user"])


def _file_content(path: str, limit: int, otherwise: str) -> str:
    """Content of a file that a program may have written; it may also be a link, a pipe, or missing.

    Args:
        otherwise: for a file that is not there.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return otherwise
    except OSError as error:
        raise Failure("failed", f"its output file cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Failure("failed", "its output file is not a regular file")
    with open(fd, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Failure("failed", f"more than {limit} bytes written")
    return content.decode("utf-8", "surrogateescape")
