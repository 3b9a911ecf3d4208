"""The process that runs the trusted tests. It never executes a candidate's code.

The names that the tests use and do not define are the candidate's; its functions are stand-ins (`session`). The
expected values never leave this process, so that the only way to pass a test is to return the right value; and it is
this process that reports the verdict, on a pipe that the candidate's process never had.
"""

from __future__ import annotations

import builtins
import functools
import os
import resource
import symtable
import sys

from . import kernel, packages, seccomp, stdio
from .session import Candidate, Failure, Unable, cannot_cross

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

_MESSAGE = 600

# fmt: off
_MODULES = frozenset({
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "math", "operator", "random", "re", "statistics", "string", "sys", "typing",
})
# fmt: on
"""Those of the standard library that a test may use under a name by which the candidate imported them."""


class Namespace(dict[str, object]):
    """The tests' globals. What is neither theirs nor a built-in is the candidate's, looked up when it is used.

    Args:
        candidate: whose it is.
        own: names that the tests define.
        overrides: built-ins for which the candidate's definition counts all the same; otherwise
            `assert set(f(x)) == set(y)` must mean what it says.
    """

    def __init__(self, candidate: Candidate, own: frozenset[str], overrides: list[str]) -> None:
        super().__init__(__name__="tests")
        self._candidate, self._own, self._overrides = candidate, own, overrides

    def __missing__(self, name: str) -> object:
        is_builtin = hasattr(builtins, name) and name not in self._overrides
        if name in self._own or is_builtin or name.startswith("__"):
            raise KeyError(name)
        kind, value = self._candidate.look_up(name)
        if kind == "module":
            if value not in _MODULES:
                self._candidate.fail("failed", cannot_cross(name, "a module"))
            value = __import__(str(value))
        if kind != "data":
            self[name] = value
        return value


def conduct(request: Any, user: int | None, facts: dict[str, bool], report: Callable[..., None]) -> None:
    """Judge one program.

    Args:
        request: `plan`, the limits; `code`; and either `cases`, public and private ones, each (stdin, stdout), or
            `setup`, `tests`, `tests_inside` and `overrides`.
        user: an id for the candidate to become, if this process can change it.
        facts: what is already known of the isolation.
        report: is told when a candidate's process has started, and the verdict.
    """
    plan = request["plan"]
    plan["judge"] = os.getpid()
    plan["user"] = user

    def start(plan: Any, stdin: str | None = None) -> Candidate:
        candidate = Candidate(plan, sys.argv[1])
        seen_from_outside = 0 if plan["level"] == "namespaces" else candidate.pid
        report("started", seen_from_outside, plan["user"] is not None or plan["level"] != "basic")
        try:
            facts.update(candidate.prepare(stdin))
        except Unable:
            candidate.stop()
            raise
        return candidate

    public = None
    try:
        plan["filter"] = system_call_filter(plan)
        if "cases" in request:
            shown, hidden = request["cases"]
            verdict, message, public = stdio.judge(plan, request["code"], shown, hidden, start)
        else:
            verdict, message = _judge_tests(plan, request, start)
    except Unable as error:
        verdict, message = "error", str(error)
    report("verdict", verdict, _printable(message), facts, public)


def _judge_tests(plan: Any, request: Any, start: Callable[..., Candidate]) -> tuple[str, str]:
    _limit_memory(plan["memory_mib"])
    if plan["user"] is not None:
        os.chown(plan["workdir"], plan["user"], plan["user"])
    candidate = start(plan)
    try:
        if request["tests_inside"]:
            return judge_inside(candidate, request["code"], request["setup"], request["tests"])
        return judge(candidate, request["code"], request["setup"], request["tests"], request["overrides"])
    finally:
        candidate.stop()


def judge(
    candidate: Candidate, code: str, setup: str, tests: list[str], overrides: list[str]
) -> tuple[str, str]:
    """Run a candidate's code in its process and the tests in this one.

    Args:
        candidate: its process.
        code: of the candidate.
        setup: runs first.
        tests: run next, until one raises.
        overrides: see `Namespace`.

    Returns:
        Verdict and message.

    Raises:
        Unable: the tests are not Python.
    """
    compiled = compile_tests(setup, tuple(tests))
    namespace = Namespace(candidate, names_defined(setup, tuple(tests)), overrides)
    position = 0
    try:
        candidate.define(code)
        for position, step in enumerate(compiled):  # noqa: B007 (read after the loop ends early)
            exec(step, namespace)
    except Failure as failure:
        return failure.verdict, _where(position, tests) + failure.message
    except BaseException as error:
        if candidate.failure is None:
            return "failed", _where(position, tests) + _explain(error, candidate)
    if candidate.failure is not None:  # a test swallowed it
        return candidate.failure.verdict, _where(position, tests) + candidate.failure.message
    return "passed", ""


def judge_inside(candidate: Candidate, code: str, setup: str, tests: list[str]) -> tuple[str, str]:
    """Run a candidate's code and the tests in its process.

    The tests go there once the code has run, and with them the token by which their end is reported.

    Returns:
        Verdict and message.

    Raises:
        Unable: the tests are not Python.
    """
    compile_tests(setup, tuple(tests))
    try:
        candidate.define(code)
        raised = candidate.test(setup, tests, os.urandom(16).hex())
    except Failure as failure:
        return failure.verdict, failure.message
    if raised is None:
        return "passed", ""
    position, message = raised
    return "failed", _where(position, tests) + message


def system_call_filter(plan: Any) -> bytes:
    """The filter for a candidate's process, empty at level basic.

    Raises:
        Unable: there is none for this machine.
    """
    if plan["level"] == "basic":
        return b""
    try:
        return seccomp.program(seccomp.machine(), plan["processes"] > 0)
    except OSError as error:
        raise Unable(str(error)) from None


@functools.lru_cache(maxsize=128)
def compile_tests(setup: str, tests: tuple[str, ...]) -> list[CodeType]:
    """Setup and tests as code; remembered, since a problem's samples share them.

    Raises:
        Unable: they are not Python.
    """
    try:
        return [compile(text, "<tests>", "exec", dont_inherit=True) for text in (setup, *tests)]
    except (SyntaxError, ValueError) as error:
        raise Unable(f"the tests do not compile: {error}") from None


@functools.lru_cache(maxsize=128)
def names_defined(setup: str, tests: tuple[str, ...]) -> frozenset[str]:
    """The global names that setup and tests assign, import or define somewhere."""
    tables = [symtable.symtable(text, "<tests>", "exec") for text in (setup, *tests)]
    return frozenset(
        symbol.get_name() for table in tables for symbol in table.get_symbols() if symbol.is_assigned()
    )


def _where(position: int, tests: list[str]) -> str:
    """Position 0 is the program and the setup, then the tests follow."""
    if position == 0:
        return ""
    test = tests[position - 1].strip()
    return f"test {position} of {len(tests)}: {test if len(test) <= 200 else test[:200] + '…'}\n"


def _explain(error: BaseException, candidate: Candidate) -> str:
    try:
        said = str(error)
    except ValueError:  # an integer beyond sys.set_int_max_str_digits
        said = ""
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return "; ".join(part for part in (text, candidate.describe_last_call()) if part)


def _printable(text: str) -> str:
    kept = text if len(text) <= _MESSAGE else text[:_MESSAGE] + "…"
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in kept)


def _limit_memory(mib: int) -> None:
    """A result may be made to grow in the tests (`f(x) * 10**9`); the judge must not take the machine with it."""
    if kernel.LINUX:
        size = (mib << 20) + packages.finder.held_bytes
        allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = size if allowed == resource.RLIM_INFINITY else min(size, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
