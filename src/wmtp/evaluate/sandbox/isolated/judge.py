"""The process that runs the trusted tests. It never executes a candidate's code.

The names that the tests use and the candidate defines are stand-ins (`session`). The expected values never leave this
process, so that the only way to pass a test is to return the right value; and it is this process that reports the
verdict, on a pipe that the candidate's process never had.
"""

from __future__ import annotations

import builtins
import functools
import os
import resource
import sys

from . import kernel, seccomp, stdio
from .session import Candidate, Failure, Unable

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

_ABSENT = {"class": "a class", "module": "a module", "unsendable": "not plain data"}


def conduct(request: Any, user: int | None, facts: dict[str, bool], report: Callable[..., None]) -> None:
    """Judge one program.

    Args:
        request: `plan`, the limits; `code`; and either `cases`, public and private ones, each (stdin, stdout), or
            `setup`, `tests` and `tests_inside`.
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
        return judge(candidate, request["code"], request["setup"], request["tests"])
    finally:
        candidate.stop()


def judge(candidate: Candidate, code: str, setup: str, tests: list[str]) -> tuple[str, str]:
    """Run a candidate's code in its process and the tests in this one.

    Returns:
        Verdict and message.

    Raises:
        Unable: the tests are not Python.
    """
    compiled = compile_tests(setup, tuple(tests))
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
    modules = {name: value for name, (kind, value) in found.items() if kind == "module" and value in _MODULES}
    namespace |= {name: __import__(value) for name, value in modules.items()}
    absent = {name: kind for name, (kind, _) in found.items() if name not in namespace}
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
        what = _ABSENT[absent[error.name]]
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


def _limit_memory(mib: int) -> None:
    """A result may be made to grow in the tests (`f(x) * 10**9`); the judge must not take the machine with it."""
    if kernel.LINUX:
        size = mib << 20
        allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = size if allowed == resource.RLIM_INFINITY else min(size, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
