"""Starts a judge for each program and makes sure that nothing of it is left."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from typing import Any

from wmtp.sandbox.isolated import landlock
from wmtp.sandbox.levels import choose
from wmtp.sandbox.packages import place_of
from wmtp.sandbox.program import CallProgram, Execution, Limits, Program, StdinProgram, Verdict
from wmtp.sandbox.servers import Report, Servers

AnyProgram = Program | StdinProgram | CallProgram


def execute(program: AnyProgram, limits: Limits, isolation: str = "auto") -> Execution:
    """Judge one program in processes of its own.

    Args:
        program: what is judged.
        limits: what it may use.
        isolation: "auto", "strict", or a level (see `levels`).

    Returns:
        The verdict, at most a second after the program's wall-clock limit. `ERROR` means that it was tried twice.

    Raises:
        WMTPError: this machine does not have the isolation.
    """
    servers = Servers(choose(isolation, _probe).level)
    try:
        return _execute(program, limits, servers)
    finally:
        servers.close()


def execute_all(
    programs: Iterable[AnyProgram], limits: Limits, workers: int | None = None, isolation: str = "auto"
) -> Iterator[tuple[int, Execution]]:
    """Judge many programs at once.

    Args:
        programs: consumed as they are needed.
        limits: of each program.
        workers: programs at the same time; by default, one per processor core.
        isolation: "auto", "strict", or a level (see `levels`).

    Yields:
        (position in `programs`, outcome), as they complete. Closing the iterator, or Ctrl-C, ends what still runs.

    Raises:
        WMTPError: this machine does not have the isolation.
    """
    workers = workers or usable_cores()
    servers = Servers(choose(isolation, _probe).level)
    queue = enumerate(programs)
    pending: dict[Future[Execution], int] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (item := next(queue, None)):
                    pending[pool.submit(_execute, item[1], limits, servers)] = item[0]
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        finally:
            servers.close()


def describe(isolation: str = "auto") -> dict[str, Any]:
    """The isolation that this machine achieves, found by running a program at each level.

    Returns:
        `works`; `message` if it does not; `level`; `unavailable`, better levels and why they do not work; `platform`;
        `landlock_abi` (0: none); and, by measure, whether it holds here (docs/sandbox.md says what each is worth).

    Raises:
        WMTPError: this machine does not have the isolation.
    """
    choice = choose(isolation, _probe)
    return {
        "works": not choice.problem,
        **({"message": choice.problem} if choice.problem else {}),
        "level": choice.level,
        "unavailable": choice.unavailable,
        "platform": sys.platform,
        "landlock_abi": landlock.abi(),
        **choice.facts,
    }


def _probe(level: str) -> tuple[str, dict[str, Any]]:
    """Run a program at a level; return why it failed (empty if it worked), and the facts it found."""
    program = Program("probe", "def probe(): return 1", ("assert probe() == 1",))
    servers = Servers(level)
    try:
        for _ in range(2):
            report = _attempt(program, Limits(), servers)
            if report.verdict == Verdict.PASSED:
                return "", report.facts
    finally:
        servers.close()
    return report.message, {}


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _execute(program: AnyProgram, limits: Limits, servers: Servers) -> Execution:
    limits = program.within(limits) if isinstance(program, StdinProgram) else limits
    report = _attempt(program, limits, servers)
    seconds = report.seconds
    if report.verdict == Verdict.ERROR and not report.final:
        report = _attempt(program, limits, servers)
        seconds += report.seconds
        if report.judge_disturbed:
            report = replace(report, verdict="failed")
    return Execution(Verdict(report.verdict), report.message, seconds, report.inside, report.public)


def _attempt(program: AnyProgram, limits: Limits, servers: Servers) -> Report:
    started = time.monotonic()
    if isinstance(program, CallProgram) and program.fault:
        return Report("error", program.fault, final=True)
    if missing := [name for name in program.packages if place_of(name) is None]:
        return Report(
            "error", f"the tests need the package {missing[0]!r}, which is not installed here", final=True
        )
    try:
        report = servers.judge(_request(program, limits, servers.level), limits.wall_seconds)
    except OSError as error:
        return Report("error", f"the sandbox cannot start a process: {error}")
    return replace(report, seconds=time.monotonic() - started)


def _request(program: AnyProgram, limits: Limits, level: str) -> dict[str, Any]:
    code = program.code.removeprefix("\ufeff")  # as from a file
    places = {name: place for name in program.packages if (place := place_of(name))}
    texts = (code, program.setup, *program.tests) if isinstance(program, Program) else (code,)
    preload = [name for name in places if any(name in text for text in texts)]
    plan = {**asdict(limits), "level": level, "packages": places, "preload": preload}
    request: dict[str, Any] = {"plan": plan, "code": code}
    if isinstance(program, StdinProgram):
        kinds = (program.public, program.private)
        request |= {
            "cases": tuple([(case.stdin, case.stdout) for case in kind] for kind in kinds),
            "comparison": program.comparison,
            "input_file": program.input_file,
            "output_file": program.output_file,
        }
    elif isinstance(program, CallProgram):
        calls = (program.public, program.private)
        request |= {
            "cases": tuple([(list(call.arguments), call.result) for call in kind] for kind in calls),
            "function": program.function,
        }
    else:
        request |= {
            "setup": program.setup,
            "tests": list(program.tests),
            "tests_inside": program.tests_inside,
            "entry_point": program.entry_point,
            "defines": list(program.defines),
            "public_tests": program.public_tests,
        }
    return request
