"""The judge's side of its conversation with the candidate's process.

A name that the candidate defines is a stand-in here: calling it sends the arguments across and returns what comes
back, decoded to plain built-in values. Whatever else the candidate does (raise, exit, send rubbish, send nothing)
is a failure, and a failure is final: every later call raises it again.
"""

from __future__ import annotations

import os
import sys
import time

from . import kernel, wire
from .channel import Channel, ClosedError, DeadlineError, SizeError
from .meter import Meter, OverdueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .confine import Plan
    from .judge import Tests

BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from isolated.{0} import main; sys.path.pop(); "
    "main(*map(int, sys.argv[2:]))"
)
"""Program for `python -c`; its first argument is the directory that holds this package."""

ISOLATED = ("-P", "-s", "-S")
"""Options of every interpreter: as `-I`, but letting it read one variable."""

ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""Judge and candidate share a fixed hash seed, so that sets are ordered alike and verdicts are reproducible."""

_SETTLE = 0.002
_FIRST_LOOK = 0.0002
_LAST_WORDS = 0.5
_NEARLY = 0.9
"""The kernel's limit counts whole ticks, so it may strike slightly early."""

_REQUEST_LIMIT = 1 << 30
_SHOWN = 160


MUST_BE_INSIDE = "must be inside"
"""In place of a verdict: the tests pass an object of their own that cannot cross, whatever the candidate does."""


class Failure(BaseException):
    """The candidate is at fault. Not an Exception: `except Exception` in a test does not see it."""

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict, self.message = verdict, message


class Unable(Exception):
    """The candidate's process could not be prepared; no program is to blame."""


class Candidate:
    """The candidate's process, as the judge sees it. Its wall-clock time starts now.

    Args:
        plan: limits, working directory, user.
        directory: where the package `isolated` is.
        extend: see `Meter`.
    """

    def __init__(self, plan: Plan, directory: str, extend: Callable[[float], None]) -> None:
        requests, request_fd = os.pipe()
        reply_fd, replies = os.pipe()
        os.set_inheritable(requests, True)
        os.set_inheritable(replies, True)
        arguments = [*ISOLATED, "-c", BOOT.format("candidate"), directory, str(requests), str(replies)]
        self.pid = _start(plan["workdir"], arguments)
        os.close(requests)
        os.close(replies)
        self.meter = Meter(self.pid, plan, extend)
        self.channel = Channel(reply_fd, request_fd, plan["reply_bytes"], self.meter.look)
        self.plan = plan
        self.failure: Failure | None = None
        self.gave_values = self.gave_modules = False
        self._stand_ins: list[object] = []
        self.last_call: tuple[str, tuple[object, ...], dict[str, object], object] | None = None

    def prepare(self, stdin: str | None = None) -> dict[str, bool]:
        """Have the process confine itself.

        Args:
            stdin: what it gets as standard input; by default, nothing.

        Returns:
            Measure to whether this machine has it.

        Raises:
            Unable: it could not.
        """
        try:
            kind, facts = self._exchange((self.plan, stdin))
        except Failure as failure:
            raise Unable(f"the candidate's process did not start: {failure.message}") from None
        if kind != "confined":
            raise Unable(f"the candidate's process could not be confined: {facts}")
        self.meter.start()
        return facts  # type: ignore[no-any-return]

    def define(self, code: str) -> None:
        """Run the candidate's code."""
        reply = self._ask("define", code)
        if reply[0] != "defined":
            self._refuse("running the program", reply)

    def run(self, code: str) -> str:
        """Run the candidate's code as a script to its end; the process cannot be used afterwards.

        Returns:
            What it wrote to standard output.

        Raises:
            Failure: it did not end in time with status 0, or wrote too much.
        """
        try:
            self.channel.send(wire.encode(("run", code), _REQUEST_LIMIT))
            written = self.channel.receive_rest().decode("utf-8", "surrogateescape")
        except (ClosedError, DeadlineError, SizeError) as error:
            self._lost(error)
        ended = self._reap(self.meter.deadline)
        if ended is None:
            self._lost(DeadlineError())
        if ended[0] != 0:
            last = written.rstrip().rpartition("\n")[2]
            self._refuse_end(ended, f"; it last wrote {show(last)}" if last else "")
        return written

    def test(self, tests: Tests, token: str) -> tuple[int, str, bool] | None:
        """Run tests in the candidate's process.

        Args:
            tests: what runs, until one raises.
            token: what the process has to send back at their end.

        Returns:
            Position of what raised (0: the setup), why, and whether they are to blame; None if all ran to their end.
        """
        reply = self._ask(
            "test", tests.setup, tests.tests, tests.entry_point, tests.names, tests.demanded, token
        )
        if reply == ("tested", token):
            return None
        types = [type(part) for part in reply]
        if (
            types != [str, int, str, str, bool]
            or reply[0] != "raised"
            or not 0 <= reply[1] <= len(tests.tests)
        ):
            self.fail("failed", "the tests gave a malformed reply")
        _, position, kind, message, theirs = reply
        return position, f"{kind}{': ' if message else ''}{message}", theirs

    def look_up(self, name: str) -> tuple[str, object] | None:
        """Look up a name in the candidate's module.

        Returns:
            ("function", a stand-in), ("data", a copy) or ("module", its name); None if it is not defined.

        Raises:
            Failure: its value cannot cross.
        """
        reply = self._ask("lookup", name)
        if reply == ("missing",):
            return None
        if reply == ("class",):
            self.fail("failed", cannot_cross(name, "a class"))
        if reply == ("callable",):
            return "function", self.stand_in(name)
        if reply[0] == "module" and [type(part) for part in reply[1:]] == [str]:
            self.gave_values = self.gave_modules = True
            return "module", reply[1]
        if reply[0] != "value" or len(reply) != 2:
            self._refuse(f"reading {name}", reply)
        self.gave_values = True
        return "data", reply[1]

    def describe_last_call(self) -> str:
        """The last answered call and its result; empty if there was none."""
        if self.last_call is None:
            return ""
        name, args, kwargs, value = self.last_call
        return f"{_call(name, args, kwargs)} returned {show(value)}"

    def stand_in(self, name: str) -> Callable[..., object]:
        """A function that calls the candidate's function of that name."""

        def call(*args: object, **kwargs: object) -> object:
            reply = self._ask("call", name, args, *([kwargs] if kwargs else []))
            if reply[0] != "value" or len(reply) != 2:
                self._refuse(_call(name, args, kwargs), reply)
            self.gave_values = True
            self.last_call = (name, args, kwargs, reply[1])
            return reply[1]

        call.__name__ = call.__qualname__ = name
        self._stand_ins.append(call)
        return call

    def fail(self, verdict: str, message: str) -> NoReturn:
        """Make the candidate fail, whatever else happens."""
        self.failure = Failure(verdict, message)
        raise self.failure

    def _refuse(self, doing: str, reply: tuple[Any, ...]) -> NoReturn:
        if reply[0] == "raised" and [type(part) for part in reply[1:]] == [str, str, int]:
            _, kind, message, line = reply
            where = f" (line {line})" if 0 < line < _REQUEST_LIMIT else ""
            self.fail("failed", f"{doing} raised {kind}{': ' if message else ''}{message}{where}")
        if reply[0] == "unsendable" and [type(part) for part in reply[1:]] == [str]:
            self.fail("failed", f"{doing} gave a value {reply[1]}")
        self.fail("failed", f"{doing} gave a malformed reply")

    def _ask(self, *request: object) -> tuple[Any, ...]:
        if self.failure is not None:
            raise self.failure
        return self._exchange(request)

    def _exchange(self, request: object) -> tuple[Any, ...]:
        try:
            started = time.perf_counter()
            message = wire.encode(request, _REQUEST_LIMIT)
            spent = time.perf_counter() - started
            self.channel.send(message)
        except wire.ForeignError as error:
            candidates_own = any(error.value is stand_in for stand_in in self._stand_ins)
            self.fail("failed" if candidates_own else MUST_BE_INSIDE, f"the tests pass a value {error}")
        except wire.WireError as error:
            self.fail("failed", f"the tests pass a value {error}")
        except (ClosedError, DeadlineError, SizeError) as error:
            self._lost(error)
        try:
            message = self.channel.receive()
            started = time.perf_counter()
            reply = wire.decode(message)
            self.meter.credit(spent + time.perf_counter() - started)
            self.meter.look()
        except wire.WireError as error:
            self.fail("failed", f"a malformed reply: {error}")
        except MemoryError:
            self.fail("failed", "a reply that fills the memory")
        except (ClosedError, DeadlineError, SizeError) as error:
            self._lost(error)
        if type(reply) is not tuple or not reply:
            self.fail("failed", "a malformed reply")
        return reply

    def _lost(self, error: Exception) -> NoReturn:
        """No reply: find out why."""
        if isinstance(error, OverdueError):
            self.fail("timeout", f"used up {self.plan['cpu_seconds']:g} s of CPU time")
        if isinstance(error, DeadlineError):
            self.fail("timeout", "not done before the wall-clock limit")
        if isinstance(error, SizeError):
            self.fail("failed", str(error))
        ended = self._reap(time.monotonic() + _LAST_WORDS)
        if ended is None:
            self.fail("failed", "the program closed its pipe")
        self._refuse_end(ended, " before the tests ended")

    def _refuse_end(self, ended: tuple[int, float], context: str) -> NoReturn:
        """Make the candidate fail because its process ended when or how it should not have."""
        code, spent = ended
        if code == -kernel.SIGXCPU or (
            code == -kernel.SIGKILL and spent >= _NEARLY * self.plan["cpu_seconds"]
        ):
            self.fail("timeout", f"used up {self.plan['cpu_seconds']:g} s of CPU time")
        how = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"
        self.fail("failed", f"the program {how}{context}")

    def _reap(self, limit: float) -> tuple[int, float] | None:
        """Exit code (negative: the signal) and CPU seconds of the process; None if it does not end by `limit`."""
        pause = _FIRST_LOOK
        while time.monotonic() < limit:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid and os.WIFSTOPPED(status):  # it has made this process its tracer
                kernel.kill(pid)
            elif pid:
                kernel.kill(pid, group=True)
                self.pid = 0
                return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            time.sleep(pause)
            pause = min(2 * pause, _SETTLE)
        return None

    def stop(self) -> None:
        """Kill and reap the process, its group, and every descendant that it left behind."""
        if self.pid:
            kernel.kill(self.pid)
            kernel.kill(self.pid, group=True)
            os.waitpid(self.pid, 0)
        self.channel.close()
        end_descendants()


def _start(workdir: str, arguments: list[str]) -> int:
    """Start an interpreter with /dev/null as its standard descriptors, and the inheritable other ones."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = ENVIRONMENT | {"HOME": workdir, "TMPDIR": workdir}
    return os.posix_spawn(sys.executable, [sys.executable, *arguments], environment, file_actions=null)


def end_descendants() -> None:
    """Kill and reap every descendant of this process, which adopts orphans."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for survivor in kernel.descendants(os.getpid()):
                kernel.kill(survivor)
            time.sleep(_SETTLE)


def cannot_cross(name: str, what: str) -> str:
    """Say why tests cannot use something that the candidate defines."""
    return f"the tests use the candidate's {name!r}, {what}: it cannot cross to the tests"


def _call(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    given = [show(arg) for arg in args] + [f"{key}={show(arg)}" for key, arg in kwargs.items()]
    return f"{name}({', '.join(given)})"


def show(value: object) -> str:
    """A value as messages quote it."""
    if type(value) is wire.ITERATOR:
        return "an iterator"
    try:
        text = repr(value)
    except ValueError:  # an integer beyond sys.set_int_max_str_digits
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
