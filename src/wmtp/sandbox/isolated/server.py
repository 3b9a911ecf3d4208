"""The process that forks a judge for each program, to save the start of an interpreter.

It runs neither tests nor a candidate's code, so that each judge begins in the same state.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from contextlib import suppress

from . import kernel, packages, wire
from .channel import Channel, ClosedError
from .judge import compile_tests, judge_request, names_defined, system_call_filter
from .session import Unable, end_descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MESSAGE = 300
_MESSAGE_LIMIT = 1 << 30


def main(number: int) -> None:
    """Read programs from standard input until it ends; report on what was standard output.

    Every report is a tuple: ("started", process id of the candidate as seen from outside, or 0 if that is not known,
    whether it is unable to disturb its judge), ("extended", seconds by which its deadline moves), ("verdict", the
    first fields of `Report`), or in its place ("broken", message) if the judge met an error, and ("ended", exit code
    of the judge).

    Args:
        number: see `unprivileged_id`.
    """
    channel = Channel(*_take_over_pipes(), _MESSAGE_LIMIT)
    signal.signal(signal.SIGTERM, _end)
    kernel.die_with_parent(signal.SIGTERM)
    kernel.protect_memory(True)
    kernel.adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    user = kernel.unprivileged_id(number)
    while True:
        try:
            request: Any = wire.decode(channel.receive())
        except ClosedError:
            os._exit(0)
        _prepare(request)
        server = os.getpid()
        judge = os.fork()
        if judge == 0:
            _judge(request, user, channel, server)
        _, status = os.waitpid(judge, 0)
        end_descendants()
        channel.send(wire.encode(("ended", os.waitstatus_to_exitcode(status)), _MESSAGE_LIMIT))


def _prepare(request: Any) -> None:
    """Do in advance what every judge would repeat, in the process that stays and remembers it."""
    plan = request["plan"]
    with suppress(ImportError):  # the candidate's process finds out, and says so
        packages.provide(plan["packages"], plan["preload"])
    with suppress(Unable):  # the judge finds out, and says so
        system_call_filter(request["plan"])
        if "tests" in request:
            compile_tests(request["setup"], tuple(request["tests"]))
            names_defined(request["setup"], tuple(request["tests"]))


def _judge(request: Any, user: int | None, channel: Channel, server: int) -> None:
    """Run the judge in the forked process; never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        facts = {
            "judge_dies_with_parent": kernel.die_with_parent(),
            "judge_memory_closed": kernel.protect_memory(True),
            "orphans_adopted": kernel.adopt_orphans(),
        }
        if os.getppid() == server:
            judge_request(request, user, facts, lambda *said: channel.send(wire.encode(said, _MESSAGE_LIMIT)))
            os._exit(0)
    except BaseException as error:
        message = f"the judge failed: {type(error).__name__}: {error}"[:_MESSAGE]
        said: tuple[object, ...] = ("broken", message)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # nobody's fault
            said = ("verdict", "error", message, {})
        channel.send(wire.encode(said, _MESSAGE_LIMIT))
    finally:
        os._exit(1)


def _end(*_: object) -> None:
    """The evaluator is gone: end every descendant, even those that left the session or outlive their parent."""
    end_descendants()
    kernel.kill(os.getpid())


def _take_over_pipes() -> tuple[int, int]:
    """Move the two pipes away from standard input and output, out of reach of tests."""
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return pipes
