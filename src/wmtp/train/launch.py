"""`wmtp train --nproc N`: processes as torchrun would start them, with our signals, statuses and messages."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from wmtp.errors import WMTPError
from wmtp.rank import LAUNCHER, started_by_torchrun
from wmtp.sandbox import usable_cores
from wmtp.train.signals import INTERRUPTED_STATUS, REQUEUE_STATUS, STOPPING, exit_status

Worker = subprocess.Popen[bytes]

STOPPED = (INTERRUPTED_STATUS, REQUEUE_STATUS)
MISTAKE = 2
NO_CRASH = (*STOPPED, MISTAKE)
"""Statuses that a restart would not help, the more serious ones last."""

POLL_SECONDS = 0.1
MARGIN_SECONDS = 5.0
"""What workers may take beyond their own deadline, at which they say themselves that they were late."""


def launch(
    nproc: int,
    arguments: Sequence[str],
    *,
    max_restarts: int = 0,
    stop_timeout: float,
    module: str = "wmtp",
) -> int:
    """Run `python -m wmtp <arguments>` on several processes of this machine; returns the status to exit with.

    That is the workers' own status where they ended by themselves, 1 where one was killed. From here on this process
    passes the signals that stop training on to them.

    Args:
        max_restarts: how often all workers are started again after a crash; a stop or a user's mistake is none.
        stop_timeout: seconds from a signal until workers that have not ended are killed.

    Raises:
        WMTPError: not a number of processes, or started by torchrun already.
    """
    if nproc < 1:
        raise WMTPError(f"--nproc {nproc}: should be 1 or more")
    if started_by_torchrun():
        raise WMTPError("--nproc: torchrun has started the processes already; leave out one of the two")
    received = _received_signals()
    for restarts in range(max_restarts + 1):
        with _workers([sys.executable, "-m", module, *arguments], nproc, restarts) as workers:
            failed = _wait(workers, received, stop_timeout)
        statuses = {rank: _status(code, received) for rank, code in failed.items()}
        crashed = [rank for rank, status in statuses.items() if status not in NO_CRASH]
        starts_again = bool(crashed) and not received and restarts < max_restarts
        for rank in crashed:
            who, code = f"rank {rank} (pid {workers[rank].pid})", failed[rank]
            what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with status {code}"
            if starts_again:
                _say(f"{who} {what}; starting all ranks again ({restarts + 1} of {max_restarts} restarts)")
            elif code < 0:  # else it has said why itself
                _say(f"{who} {what}; go on with --resume auto")
        if not starts_again:
            break
    return max(statuses.values(), key=lambda status: (*NO_CRASH, status).index(status), default=0)


def _received_signals() -> list[int]:
    """What this process receives from now on that stops training; a hang-up is a SIGTERM, unless nohup ignores it."""
    received: list[int] = []

    def remember(signum: int, _: FrameType | None) -> None:
        received.append(signal.SIGTERM if signum == signal.SIGHUP else signum)

    for signum in (*STOPPING, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, remember)
    return received


@contextmanager
def _workers(command: Sequence[str], nproc: int, restarts: int) -> Iterator[list[Worker]]:
    """Started as torchrun does it; who still runs at the end is killed."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    defaults = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // nproc)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # its warnings are pages of stack
    }
    place = {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this one, which outlives every rank
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        LAUNCHER: str(os.getpid()),
    }
    workers: list[Worker] = []
    try:
        for rank in map(str, range(nproc)):
            environment = defaults | os.environ | place | {"RANK": rank, "LOCAL_RANK": rank}
            workers.append(subprocess.Popen(command, env=environment, start_new_session=True))
        yield workers
    finally:
        running = [worker for worker in workers if worker.poll() is None]
        for worker in running:
            os.killpg(worker.pid, signal.SIGKILL)
        for worker in running:
            with suppress(subprocess.TimeoutExpired):  # in an uninterruptible call to a dead disk or GPU
                worker.wait(MARGIN_SECONDS)


def _wait(workers: Sequence[Worker], received: Sequence[int], stop_timeout: float) -> dict[int, int]:
    """Pass signals on until all workers have ended, or one that was not to stop, or the time to stop is over.

    Returns:
        The return code of each rank that failed.
    """
    passed_on, deadline = 0, float("inf")
    while True:
        for signum in received[passed_on:]:
            passed_on += 1
            for worker in workers:
                worker.send_signal(signum)
        codes = {rank: worker.poll() for rank, worker in enumerate(workers)}
        running = [rank for rank, code in codes.items() if code is None]
        failed = {rank: code for rank, code in codes.items() if code}
        if not running or any(_status(code, received) not in STOPPED for code in failed.values()):
            return failed
        if failed or passed_on:
            deadline = min(deadline, time.monotonic() + stop_timeout + MARGIN_SECONDS)
        if time.monotonic() > deadline:
            _say(
                f"rank {', '.join(map(str, running))}: not ended {stop_timeout:g} s after a signal "
                f"(devices.stop_timeout), so killed; go on with --resume auto"
            )
            return failed or {running[0]: -received[0]}
        time.sleep(POLL_SECONDS)


def _status(code: int, received: Collection[int]) -> int:
    """The exit status that a return code stands for; 1 for a signal that came from elsewhere."""
    if code >= 0:
        return code
    return exit_status(-code) if -code in received else 1


def _say(line: str) -> None:
    print(f"wmtp: {line}", file=sys.stderr, flush=True)
