"""The evaluator's side of the judge servers: starts them, talks to them, and removes all that they leave behind."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmtp.sandbox import bubblewrap
from wmtp.sandbox.directories import remove_tree
from wmtp.sandbox.isolated import kernel, wire
from wmtp.sandbox.isolated.channel import Channel, ClosedError, DeadlineError, SizeError
from wmtp.sandbox.isolated.packages import readable_paths
from wmtp.sandbox.isolated.session import BOOT, ENVIRONMENT, ISOLATED
from wmtp.sandbox.levels import NAMESPACES

_DIRECTORY = str(Path(__file__).parent)
_GRACE = 0.7
_KILL_ROUNDS = 100
_MESSAGE_LIMIT = 1 << 20
_REQUEST_LIMIT = 1 << 30


@dataclass(frozen=True)
class Report:
    """Outcome of one attempt to judge a program.

    `judge_disturbed`: killed by a signal or stopped by an error, while a program ran that was able to cause it.
    Once, something else may be the cause; twice, it was the program. `public`, `inside`: see `Execution`. `final`: an
    error that another attempt would only repeat.
    """

    verdict: str
    message: str
    facts: dict[str, Any] = field(default_factory=dict)
    public: bool | None = None
    inside: bool = False
    final: bool = False
    judge_disturbed: bool = False
    seconds: float = 0.0


class Server:
    """A process that forks a judge for each program, and the directory for their files.

    It dies with the thread that starts it.

    Args:
        level: one of `LEVELS`.
        remove: removes a directory, now or later.
        packages: see `packages.provide`; with namespaces of its own, a server sees no others.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, level: str, remove: Callable[[str], object], packages: dict[str, str]) -> None:
        self._remove = remove
        self._packages = packages if level == NAMESPACES else None
        self._place = tempfile.mkdtemp(prefix="wmtp-sandbox-")
        os.chmod(self._place, 0o711)
        number = str(threading.get_native_id())
        arguments = [*ISOLATED, "-c", BOOT.format("server"), _DIRECTORY, number]
        command = [sys.executable, *arguments]
        if level == NAMESPACES:
            command = bubblewrap.command(self._place, arguments, readable_paths(packages))
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
            )
        except BaseException:  # Ctrl-C, too
            remove(self._place)
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._deadline = float("inf")
        self._channel = Channel(
            self._process.stdout.fileno(), self._process.stdin.fileno(), _MESSAGE_LIMIT, self._time_left
        )
        self._in_use = threading.RLock()

    def sees(self, packages: dict[str, str]) -> bool:
        """Whether this server can import these packages."""
        return self._packages is None or packages.items() <= self._packages.items()

    def judge(self, request: dict[str, Any], wall_seconds: float) -> tuple[Report, bool]:
        """Have one program judged, in `wall_seconds` and a grace period at most.

        Returns:
            The report, and whether the server is still good for another program.

        Raises:
            OSError: there is no room for the program's directory.
        """
        with self._in_use:
            workdir = tempfile.mkdtemp(dir=self._place)
            plan = {**request["plan"], "workdir": workdir}
            report, is_good = self._converse(
                wire.encode({**request, "plan": plan}, _REQUEST_LIMIT), wall_seconds
            )
            if is_good:
                self._remove(workdir)
            return report, is_good

    def _time_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError
        return left

    def _converse(self, request: bytes, wall_seconds: float) -> tuple[Report, bool]:
        said: dict[str, Any] = {}
        self._deadline = time.monotonic() + wall_seconds + _GRACE
        try:
            self._channel.send(request)
            while "ended" not in said:
                message: Any = wire.decode(self._channel.receive())
                said[message[0]] = message[1:]
                if message[0] == "extended":
                    self._deadline += message[1]
                if message[0] == "started":  # each case of a script has the time for itself
                    self._deadline = time.monotonic() + wall_seconds + _GRACE
        except DeadlineError:
            if "verdict" not in said and "started" in said:
                return Report("timeout", f"no verdict within {wall_seconds:g} s"), False
            if "verdict" not in said:
                return Report("error", "the judge did not start the program in time"), False
        except (ClosedError, SizeError, wire.WireError):
            pass
        if "verdict" in said:
            return Report(*said["verdict"]), "ended" in said
        if "broken" in said:
            _, powerless = said.get("started", (0, True))
            return Report("error", said["broken"][0], judge_disturbed=not powerless), "ended" in said
        return self._without_verdict(said), False

    def _without_verdict(self, said: dict[str, Any]) -> Report:
        """Report how the judge, or its server, ended."""
        reason = self.end()
        code = said["ended"][0] if "ended" in said else self._process.returncode
        candidate, powerless = said.get("started", (0, True))
        if candidate and "ended" not in said:
            kernel.kill(candidate)
            kernel.kill(candidate, group=True)
        reason = reason or (f"signal {-code}" if code < 0 else f"exit status {code}")
        return Report(
            "error",
            f"the judge ended without a verdict: {reason}",
            judge_disturbed=code < 0 and not powerless,
        )

    def kill(self) -> None:
        """Kill everything below the server, then the server, which adopts and reaps orphans as long as it lives."""
        for _ in range(_KILL_ROUNDS):
            is_alive = self._process.poll() is None
            below = kernel.descendants(self._process.pid, zombies=True) if is_alive else []
            if not below:
                break
            for pid in below:
                kernel.kill(pid)
            time.sleep(0.001)
        self._process.kill()
        # Had it been killed before, what had not yet left its session would live on.
        kernel.kill(self._process.pid, group=True)

    def end(self) -> str:
        """Kill the server and remove its directory, once no program is being judged.

        Returns:
            The last line of its standard error.
        """
        self.kill()
        with self._in_use:
            with self._process as process:
                assert process.stderr is not None
                text = b"" if process.stderr.closed else process.stderr.read()
            self._remove(self._place)
        lines = text.decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Servers:
    """The servers of one evaluation, one per thread, so that all of them can be ended.

    A separate thread removes directories: a program can make so many that it takes longer than its deadline.

    Args:
        level: one of `LEVELS`.
    """

    def __init__(self, level: str) -> None:
        self.level = level
        self._lock = threading.Lock()
        self._running: dict[int, Server] = {}
        self._closed = False
        self._housekeeper = ThreadPoolExecutor(1, thread_name_prefix="sandbox-housekeeper")

    def judge(self, request: dict[str, Any], wall_seconds: float) -> Report:
        """Have this thread's server judge a program; start or replace it if necessary.

        Args:
            request: see `judge.judge_request`, but for the plan's `workdir`.
            wall_seconds: after this time and a grace period, all is killed.

        Raises:
            OSError: it cannot be started.
        """
        thread, packages = threading.get_ident(), request["plan"]["packages"]
        with self._lock:
            if self._closed:
                raise InterruptedError("the evaluation was stopped")
            server, outdated = self._running.get(thread), None
            if server is not None and not server.sees(packages):
                server, outdated = None, server
            server = server or Server(self.level, self._remove, packages)
            self._running[thread] = server
        if outdated is not None:
            outdated.end()
        is_good = False
        try:
            report, is_good = server.judge(request, wall_seconds)
        finally:
            if not is_good:
                with self._lock:
                    self._running.pop(thread, None)
                server.end()
        return report

    def close(self) -> None:
        """End every server and all that it started, start no more, and wait until their directories are gone."""
        with self._lock:
            self._closed = True
            servers = list(self._running.values())
            self._running.clear()
        for server in servers:
            server.kill()
        for server in servers:
            server.end()
        self._housekeeper.shutdown()

    def _remove(self, directory: str) -> None:
        self._housekeeper.submit(remove_tree, directory)
