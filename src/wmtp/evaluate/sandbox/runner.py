"""Starting a judge for each program, and making sure that nothing of it is left."""

import errno
import functools
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wmtp.evaluate.sandbox.isolated import kernel, wire
from wmtp.evaluate.sandbox.isolated.channel import frames
from wmtp.evaluate.sandbox.isolated.session import BOOT
from wmtp.evaluate.sandbox.program import Execution, Limits, Program, Verdict

_DIRECTORY = str(Path(__file__).parent)
_GRACE = 0.7
_KILL_ROUNDS = 100
_REQUEST_LIMIT = 1 << 30


@dataclass(frozen=True)
class _Report:
    """What one attempt gave.

    `judge_killed`: by a signal, while a program ran that was able to send one. Once, it may have been somebody else;
    twice, it was the program.
    """

    verdict: str
    message: str
    facts: dict[str, bool] = field(default_factory=dict)
    judge_killed: bool = False
    seconds: float = 0.0


class _Judges:
    """The judges that run at the moment, so that all of them can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def start(self) -> subprocess.Popen[bytes]:
        """A new judge.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            if self._closed:
                raise InterruptedError("the evaluation was stopped")
            judge = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOT.format("judge"), _DIRECTORY],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={},
                start_new_session=True,
            )
            self._running.add(judge)
        return judge

    def ended(self, judge: subprocess.Popen[bytes]) -> None:
        """Forget a judge."""
        with self._lock:
            self._running.discard(judge)

    def close(self) -> None:
        """End every judge with all that it started, and start no more."""
        with self._lock:
            self._closed = True
            for judge in self._running:
                _kill(judge)


def execute(program: Program, limits: Limits) -> Execution:
    """Judge one program in processes of its own.

    Returns:
        The verdict, at most a second after the program's wall-clock limit. `ERROR` has been tried twice.
    """
    return _execute(program, limits, _Judges())


def execute_all(
    programs: Iterable[Program], limits: Limits, workers: int | None = None
) -> Iterator[tuple[int, Execution]]:
    """Judge many programs at once.

    Args:
        programs: taken as they are needed.
        limits: of each program.
        workers: programs at the same time; by default, one a processor core.

    Yields:
        (position in `programs`, outcome), as they complete. Closing the iterator, or Ctrl-C, ends what still runs.
    """
    workers = workers or _cores()
    judges = _Judges()
    queue = enumerate(programs)
    pending: dict[Future[Execution], int] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (item := next(queue, None)):
                    pending[pool.submit(_execute, item[1], limits, judges)] = item[0]
                if not pending:
                    return
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        finally:
            judges.close()


@functools.cache
def describe() -> dict[str, Any]:
    """What isolation this machine achieves, found out by running a program.

    Returns:
        `works`; `message` if it does not; `level`, "basic"; `platform`; and measure to whether it holds here (see
        docs/sandbox.md for what each is worth).
    """
    probe = Program("probe", "def probe(): return 1", ("assert probe() == 1",))
    report = _attempt(probe, Limits(), _Judges())
    works = report.verdict == Verdict.PASSED
    return {
        "works": works,
        **({} if works else {"message": report.message}),
        "level": "basic",
        "platform": sys.platform,
        **report.facts,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _execute(program: Program, limits: Limits, judges: _Judges) -> Execution:
    report = _attempt(program, limits, judges)
    seconds = report.seconds
    if report.verdict == Verdict.ERROR:
        report = _attempt(program, limits, judges)
        seconds += report.seconds
        if report.judge_killed:
            report = replace(report, verdict="failed")
    return Execution(Verdict(report.verdict), report.message, seconds)


def _attempt(program: Program, limits: Limits, judges: _Judges) -> _Report:
    try:
        workdir = tempfile.mkdtemp(prefix="wmtp-sandbox-")
    except OSError as error:
        return _Report("error", f"no temporary directory: {error}")
    try:
        started = time.monotonic()
        judge = judges.start()
        try:
            report = _converse(judge, _request(program, limits, workdir), limits.wall_seconds)
        finally:
            judges.ended(judge)
        return replace(report, seconds=time.monotonic() - started)
    except OSError as error:
        return _Report("error", f"the sandbox cannot start a process: {error}")
    finally:
        _remove_tree(workdir)


def _request(program: Program, limits: Limits, workdir: str) -> bytes:
    request = {
        "plan": {**asdict(limits), "workdir": workdir},
        "parent": os.getpid(),
        "code": program.code,
        "setup": program.setup,
        "tests": list(program.tests),
    }
    return wire.encode(request, _REQUEST_LIMIT)


def _converse(judge: subprocess.Popen[bytes], request: bytes, wall_seconds: float) -> _Report:
    """Send the request and wait for the judge's end, at most until the deadline."""
    with judge:
        try:
            output, errors = judge.communicate(request, wall_seconds + _GRACE)
        except subprocess.TimeoutExpired as late:
            _kill(judge)
            if not late.output:
                return _Report("error", "the judge did not start the program in time")
            return _Report("timeout", f"no verdict within {wall_seconds:g} s")
        except BaseException:
            _kill(judge)
            raise
    messages: list[Any] = [wire.decode(message) for message in frames(output)]
    if len(messages) == 2:
        return _Report(*messages[1])
    status = f"signal {-judge.returncode}" if judge.returncode < 0 else f"exit status {judge.returncode}"
    reason = errors.decode(errors="replace").strip().splitlines()[-1:] or [status]
    killed = False
    for candidate, separate_user in messages:
        kernel.kill(candidate)
        kernel.kill(candidate, group=True)
        killed = judge.returncode < 0 and not separate_user
    return _Report("error", f"the judge ended without a verdict: {reason[0]}", judge_killed=killed)


def _kill(judge: subprocess.Popen[bytes]) -> None:
    """Kill a judge after everything below it: its orphans are its children as long as it lives."""
    for _ in range(_KILL_ROUNDS):
        below = kernel.descendants(judge.pid) if judge.poll() is None else []
        if not below:
            break
        for pid in below:
            kernel.kill(pid)
        time.sleep(0.001)
    judge.kill()


def _remove_tree(top: str) -> None:
    """Remove a directory whose content was made to resist: unreadable, or nested beyond what paths can name.

    Directories inside directories are moved up to the top until there are none.
    """
    while True:
        try:
            os.rmdir(top)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            os.chmod(top, 0o700)
        else:
            return
        for entry in list(os.scandir(top)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                    os.rename(inner.path, os.path.join(top, secrets.token_hex(16)))
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
