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
from .faults import ENTRY_POINT, TESTS, is_the_tests_own
from .session import MUST_BE_INSIDE, Candidate, Failure, Unable, cannot_cross

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

_MESSAGE = 600
_TEST_SHOWN = 200

# fmt: off
_MODULES = frozenset({
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "math", "operator", "random", "re", "statistics", "string", "sys", "typing",
})
# fmt: on
"""Modules of the standard library that tests may use under the name by which the candidate imported them."""


class Namespace(dict[str, object]):
    """The tests' globals. What is neither theirs nor a built-in is the candidate's, looked up when it is used.

    Args:
        candidate: whose it is.
        own: names that the tests define.
        entry_point: what the name `candidate` stands for; empty: nothing.
        defines: names that are the candidate's even if a built-in is called like them; otherwise
            `assert set(f(x)) == set(y)` must mean what it says.
    """

    def __init__(
        self, candidate: Candidate, own: frozenset[str], entry_point: str, defines: list[str]
    ) -> None:
        super().__init__(__name__="tests")
        self._candidate, self._own, self._entry_point, self._defines = candidate, own, entry_point, defines

    def __missing__(self, name: str) -> object:
        is_builtin = hasattr(builtins, name) and name not in self._defines
        if name in self._own or is_builtin or name.startswith("__"):
            raise KeyError(name)
        is_entry_point = bool(self._entry_point) and name == ENTRY_POINT
        sought = self._entry_point if is_entry_point else name
        found = self._candidate.look_up(sought)
        if found is None:
            demanded = is_entry_point or name in self._defines or not (self._entry_point or self._defines)
            whom = "which the program does not define" if demanded else "which nothing defines"
            self._candidate.fail("failed" if demanded else "error", f"the tests use {sought!r}, {whom}")
        kind, value = found
        if kind == "module":
            if value not in _MODULES:
                self._candidate.fail("failed", cannot_cross(name, "a module"))
            value = __import__(str(value))
        if kind != "data":
            self[name] = value
        return value


def judge_request(
    request: Any, user: int | None, facts: dict[str, bool], report: Callable[..., None]
) -> None:
    """Judge one program.

    Args:
        request: `plan`, the limits; `code`; and either `cases` (see `stdio.judge`), or `setup`, `tests`,
            `tests_inside`, `entry_point` and `defines`.
        user: an id for the candidate to become, if this process can change it.
        facts: what is already known about the isolation.
        report: called when a candidate's process has started, and with the verdict.
    """
    plan = request["plan"]
    plan["judge"] = os.getpid()
    plan["user"] = user
    is_script = "cases" in request and "function" not in request
    plan["metered"] = kernel.LINUX and not is_script

    def start(plan: Any, stdin: str | None = None) -> Candidate:
        candidate = Candidate(plan, sys.argv[1], lambda seconds: report("extended", seconds))
        seen_from_outside = 0 if plan["level"] == "namespaces" else candidate.pid
        report("started", seen_from_outside, plan["user"] is not None or plan["level"] != "basic")
        try:
            facts.update(candidate.prepare(stdin))
        except Unable:
            candidate.stop()
            raise
        return candidate

    public, inside = None, False
    try:
        plan["filter"] = system_call_filter(plan)
        if "cases" in request:
            verdict, message, public = stdio.judge(request, start)
        else:
            inside = request["tests_inside"]
            verdict, message, public = _judge_tests(plan, request, start, inside)
            if verdict == MUST_BE_INSIDE:
                inside = True
                verdict, message, public = _judge_tests(plan, request, start, inside)
        final = verdict == "error"
    except Unable as error:
        verdict, message, final = "error", str(error), False
    report("verdict", verdict, _printable(message), facts, public, inside, final)


def _judge_tests(
    plan: Any, request: Any, start: Callable[..., Candidate], inside: bool
) -> tuple[str, str, bool | None]:
    """Verdict, message, and whether the public tests passed."""
    _limit_memory(plan["memory_mib"])
    if plan["user"] is not None:
        os.chown(plan["workdir"], plan["user"], plan["user"])
    tests = Tests(request["setup"], request["tests"], request["entry_point"], request["defines"])
    try:
        tests.compile()
    except Unable as error:
        return "error", str(error), None
    candidate = start(plan)
    try:
        verdict, message = (judge_inside if inside else judge)(candidate, request["code"], tests)
        return verdict, message, tests.public_passed(verdict, request["public_tests"])
    finally:
        candidate.stop()


def judge(candidate: Candidate, code: str, tests: Tests) -> tuple[str, str]:
    """Run a candidate's code in its process and the tests in this one.

    Returns:
        Verdict and message; `MUST_BE_INSIDE` where the tests pass what cannot cross.
    """
    namespace = Namespace(candidate, tests.names, tests.entry_point, tests.defines)
    position = 0
    try:
        candidate.define(code)
        for position, step in enumerate(tests.compile()):
            tests.reached = position
            exec(step, namespace)
    except Failure as failure:
        return failure.verdict, tests.where(position) + failure.message
    except BaseException as error:
        if candidate.failure is None:
            its_module = isinstance(error, AttributeError) and candidate.gave_modules
            theirs = not its_module and is_the_tests_own(error, tests.names, tests.demanded)
            theirs = theirs or not candidate.gave_values
            return "error" if theirs else "failed", tests.where(position) + _explain(error, candidate)
    if candidate.failure is not None:  # a test swallowed it
        return candidate.failure.verdict, tests.where(position) + candidate.failure.message
    return "passed", ""


def judge_inside(candidate: Candidate, code: str, tests: Tests) -> tuple[str, str]:
    """Run a candidate's code and the tests in its process.

    The tests go there once the code has run, and with them the token by which their end is reported.

    Returns:
        Verdict and message.
    """
    try:
        candidate.define(code)
        if tests.entry_point and candidate.look_up(tests.entry_point) is None:
            return "failed", f"the tests use {tests.entry_point!r}, which the program does not define"
        raised = candidate.test(tests, os.urandom(16).hex())
    except Failure as failure:
        return failure.verdict, failure.message
    if raised is None:
        return "passed", ""
    position, message, theirs = raised
    tests.reached = position
    return "error" if theirs else "failed", tests.where(position) + message


class Tests:
    """What the tests of a problem consist of; see `Program`."""

    def __init__(self, setup: str, tests: list[str], entry_point: str, defines: list[str]) -> None:
        self.setup, self.tests, self.entry_point, self.defines = setup, tests, entry_point, defines
        self.reached: int | None = None  # the last one that ran, from 1 on, as far as it is known

    def public_passed(self, verdict: str, count: int) -> bool | None:
        """Whether the first `count` tests passed; None if there are no such tests, or it is not known."""
        if not count or verdict == "error":
            return None
        if verdict == "passed":
            return True
        return None if self.reached is None else self.reached > count

    def compile(self) -> list[CodeType]:
        """Setup and tests as code.

        Raises:
            Unable: they are not Python.
        """
        return compile_tests(self.setup, tuple(self.tests))

    @property
    def names(self) -> frozenset[str]:
        """The global names that setup and tests define somewhere."""
        return names_defined(self.setup, tuple(self.tests))

    @property
    def demanded(self) -> list[str]:
        """The names that a right candidate defines; empty if they are not known."""
        return [*self.defines, *([self.entry_point, ENTRY_POINT] if self.entry_point else [])]

    def where(self, position: int) -> str:
        """Position 0 is the program and the setup, then the tests follow."""
        if position == 0:
            return ""
        test = self.tests[position - 1].strip()
        shown = test if len(test) <= _TEST_SHOWN else test[:_TEST_SHOWN] + "…"
        return f"test {position} of {len(self.tests)}: {shown}\n"


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
        return [compile(text, TESTS, "exec", dont_inherit=True) for text in (setup, *tests)]
    except (SyntaxError, ValueError) as error:
        raise Unable(f"the tests do not compile: {error}") from None


@functools.lru_cache(maxsize=128)
def names_defined(setup: str, tests: tuple[str, ...]) -> frozenset[str]:
    """The global names that setup and tests assign, import or define somewhere."""
    tables = [symtable.symtable(text, TESTS, "exec") for text in (setup, *tests)]
    return frozenset(
        symbol.get_name() for table in tables for symbol in table.get_symbols() if symbol.is_assigned()
    )


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
    """Limit the judge's own memory: tests may make a result grow (`f(x) * 10**9`)."""
    if kernel.LINUX:
        size = (mib << 20) + packages.finder.held_bytes
        allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = size if allowed == resource.RLIM_INFINITY else min(size, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
