"""Signals as a request that training answers between two steps: save, and exit with a status that says why."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
INSISTING = (signal.SIGINT, signal.SIGTERM)

INTERRUPTED_STATUS = 128 + signal.SIGINT
REQUEUE_STATUS = os.EX_TEMPFAIL
"""75, "try again". Slurm: the batch script ends with `[ $? = 75 ] && scontrol requeue $SLURM_JOB_ID`, and
`#SBATCH --signal=USR1@120` warns two minutes ahead. HTCondor: `on_exit_remove = ExitCode =!= 75`. Kubernetes: a Job's
podFailurePolicy with `action: Ignore` for exit code 75. The command that is repeated carries `--resume auto`."""

ECHO_SECONDS = 2.0
"""Schedulers signal a launcher and its workers at once, and the launcher passes its own on: one request, not two."""
UNWINDING_SECONDS = 5.0
"""What the main thread is given to leave by itself when a second signal comes."""
POLL_SECONDS = 0.2


class Stopped(Exception):
    """Training was asked to stop and has saved; `signum` says by which signal."""

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(where)
        self.signum = signum
        self.where = where

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, REQUEUE_STATUS after a scheduler's signal."""
        return exit_status(self.signum)


def exit_status(signum: int) -> int:
    """The status of a process that saved and left because of a signal."""
    return INTERRUPTED_STATUS if signum == signal.SIGINT else REQUEUE_STATUS


class StopRequest:
    """Remembers the first signal while the context lasts, and sees to it that the context ends in time.

    A second SIGINT or SIGTERM acts as usual. A thread reads the signals from a pipe, so that all of this holds
    also while the main thread waits in a collective.

    Args:
        timeout: seconds from the request to the end of the context; then the process ends without having saved.
        last_checkpoint: a clause for the message of that case.
    """

    def __init__(self, timeout: float, last_checkpoint: Callable[[], str]) -> None:
        self.signum: int | None = None
        self._timeout = timeout
        self._last_checkpoint = last_checkpoint
        self._requested_at = float("inf")
        self._insistence = _Insistence()

    def __enter__(self) -> "StopRequest":
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._reading.settimeout(POLL_SECONDS)
        self._over = threading.Event()
        self._previous_pipe = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._previous = {s: signal.signal(s, self._remember) for s in STOPPING}
        self._watchdog = threading.Thread(target=self._watch, name="stop request", daemon=True)
        self._watchdog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._previous_pipe)
        self._over.set()
        self._watchdog.join()
        self._reading.close()
        self._writing.close()

    def request(self, signum: int) -> None:
        """Stop because of a signal to this process or another one; the time allowed runs from the first call."""
        if self.signum is None:
            self._requested_at = time.monotonic()
            self.signum = signum

    def _remember(self, signum: int, _: FrameType | None) -> None:
        self.request(signum)
        if self._insistence.grows(signum):
            signal.signal(signum, self._previous[signal.Signals(signum)])
            signal.raise_signal(signum)

    def _watch(self) -> None:
        insistence = _Insistence()
        abandon_at, status = float("inf"), 0
        while not self._over.is_set():
            for signum in self._received():
                self.request(signum)
                if insistence.grows(signum) and status == 0:
                    abandon_at, status = time.monotonic() + UNWINDING_SECONDS, 128 + signum
            if time.monotonic() > abandon_at:
                os._exit(status)
            if self.signum is not None and time.monotonic() > self._requested_at + self._timeout:
                self._give_up(self.signum)

    def _received(self) -> list[int]:
        try:
            return [signum for signum in self._reading.recv(64) if signum in STOPPING]
        except TimeoutError:
            return []

    def _give_up(self, signum: int) -> None:
        try:
            if os.environ.get("RANK", "0") == "0":
                late = f"could not save within {self._timeout:g} s (devices.stop_timeout)"
                # Not through sys.stderr: the main thread may hold its lock.
                os.write(2, f"wmtp: {late}; {self._last_checkpoint()}\n".encode())
        finally:
            os._exit(exit_status(signum))


class _Insistence:
    """Tells a second SIGINT or SIGTERM from the echo of the first."""

    def __init__(self) -> None:
        self._first: float | None = None

    def grows(self, signum: int) -> bool:
        if signum not in INSISTING:
            return False
        now = time.monotonic()
        if self._first is None:
            self._first = now
        return now - self._first > ECHO_SECONDS
