"""The process that runs the trusted tests. It never executes a candidate's code.

The names that the tests use and the candidate defines are stand-ins (`session`). The expected values never leave this
process, so that the only way to pass a test is to return the right value; and it is this process that reports the
verdict, on a pipe that the candidate's process never had.
"""

from __future__ import annotations

import builtins
import os
import resource
import sys

from . import kernel, wire
from .channel import frame
from .session import Candidate, Failure, Unable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_MESSAGE = 600
_REPORT_LIMIT = 1 << 20


def main() -> None:
    """Read one program from standard input, judge it, report on standard output."""
    report_fd = _take_over_pipes()
    request: Any = wire.decode(_read_all(0))
    plan = request["plan"]
    facts = {
        "judge_dies_with_parent": kernel.die_with_parent(),
        "judge_memory_closed": kernel.protect_memory(True),
        "orphans_adopted": kernel.adopt_orphans(),
    }
    if os.getppid() != request["parent"]:
        os._exit(1)
    _limit_memory(plan["memory_mib"])
    plan["judge"] = os.getpid()
    plan["user"] = kernel.unprivileged_id()
    if plan["user"] is not None:
        os.chown(plan["workdir"], plan["user"], plan["user"])
    candidate = Candidate(plan, sys.argv[1])
    _report(report_fd, (candidate.pid, plan["user"] is not None))
    try:
        facts |= candidate.prepare()
        verdict, message = judge(candidate, request["code"], request["setup"], request["tests"])
    except Unable as error:
        verdict, message = "error", str(error)
    finally:
        candidate.stop()
    _report(report_fd, (verdict, _printable(message), facts))
    os._exit(0)


def judge(candidate: Candidate, code: str, setup: str, tests: list[str]) -> tuple[str, str]:
    """Run a candidate's code in its process and the tests in this one.

    Returns:
        Verdict and message.

    Raises:
        Unable: the tests are not Python.
    """
    try:
        compiled = [compile(text, "<tests>", "exec", dont_inherit=True) for text in (setup, *tests)]
    except (SyntaxError, ValueError) as error:
        raise Unable(f"the tests do not compile: {error}") from None
    position = 0
    try:
        candidate.define(code)
        namespace, absent = _namespace(candidate, compiled)
        for position, step in enumerate(compiled):  # noqa: B007 (read after the loop ends early)
            exec(step, namespace)
    except Failure as failure:
        return failure.verdict, _where(position, tests) + failure.message
    except BaseException as error:
        if candidate.failure is None:
            return "failed", _where(position, tests) + _explain(error, candidate, absent)
    if candidate.failure is not None:  # a test swallowed it
        return candidate.failure.verdict, _where(position, tests) + candidate.failure.message
    return "passed", ""


def _namespace(candidate: Candidate, compiled: list[CodeType]) -> tuple[dict[str, object], dict[str, str]]:
    """The tests' globals, and the names that they use and the candidate has, but which cannot be stood in for.

    The candidate does not replace built-ins (`assert set(f(x)) == set(y)` must mean what it says). Only where it has
    none of the tests' other names, it may define the first built-in that they use: the exercise is then `sum` itself.
    """
    names = list(dict.fromkeys(name for code in compiled for name in _names(code)))
    found = {name: candidate.look_up(name) for name in names if not hasattr(builtins, name)}
    found = {name: answer for name, answer in found.items() if answer[0] != "missing"}
    if not found:
        found = {name: candidate.look_up(name) for name in [n for n in names if hasattr(builtins, n)][:1]}
    namespace = {name: value for name, (kind, value) in found.items() if kind == "value"}
    absent = {name: kind for name, (kind, _) in found.items() if kind in ("class", "unsendable")}
    return {"__name__": "tests", **namespace}, absent


def _names(code: CodeType) -> list[str]:
    inner = [
        name for constant in code.co_consts if isinstance(constant, type(code)) for name in _names(constant)
    ]
    return [*code.co_names, *inner]


def _where(position: int, tests: list[str]) -> str:
    """Position 0 is the program and the setup, then the tests follow."""
    if position == 0:
        return ""
    test = tests[position - 1].strip()
    return f"test {position} of {len(tests)}: {test if len(test) <= 200 else test[:200] + '…'}\n"


def _explain(error: BaseException, candidate: Candidate, absent: dict[str, str]) -> str:
    if isinstance(error, NameError) and error.name in absent:
        what = "a class" if absent[error.name] == "class" else "not plain data"
        return f"the tests use the candidate's {error.name!r}, {what}: it cannot cross to the tests"
    try:
        said = str(error)
    except ValueError:  # an integer beyond sys.set_int_max_str_digits
        said = ""
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return "; ".join(part for part in (text, candidate.describe_last_call()) if part)


def _printable(text: str) -> str:
    kept = text if len(text) <= _MESSAGE else text[:_MESSAGE] + "…"
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in kept)


def _take_over_pipes() -> int:
    """Move the report pipe away from standard output, where nothing else can write to it or inherit it."""
    report_fd = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    return report_fd


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as stream:
        return stream.read()


def _report(fd: int, value: object) -> None:
    with open(fd, "wb", buffering=0, closefd=False) as stream:
        stream.write(frame(wire.encode(value, _REPORT_LIMIT)))


def _limit_memory(mib: int) -> None:
    """A result may be made to grow in the tests (`f(x) * 10**9`); the judge must not take the machine with it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if kernel.LINUX:
        size = mib << 20
        allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = size if allowed == resource.RLIM_INFINITY else min(size, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
