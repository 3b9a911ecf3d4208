"""`wmtp train --nproc N`: torchrun's elastic agent in this process, with our signals, statuses and messages."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from wmtp.errors import WMTPError
from wmtp.rank import started_by_torchrun
from wmtp.sandbox import usable_cores
from wmtp.train.signals import INTERRUPTED_STATUS, REQUEUE_STATUS, STOPPING, exit_status

STOPPED = (INTERRUPTED_STATUS, REQUEUE_STATUS)
MISTAKE = 2
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

    That is the workers' own status where they ended by themselves, 1 where one was killed.

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
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // nproc)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings are pages of stack
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others are ours
    _silence_agent()
    rendezvous = RendezvousParameters("c10d", "localhost:0", str(uuid.uuid4()), 1, 1, local_addr="localhost")
    spec = WorkerSpec(
        role="wmtp",
        local_world_size=nproc,
        entrypoint=sys.executable,
        args=("-m", module, *arguments),
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=max_restarts,
        monitor_interval=POLL_SECONDS,
        local_addr="localhost",
    )
    with tempfile.TemporaryDirectory(prefix="wmtp-") as folder, _signals() as received:
        agent = Agent(spec, DefaultLogsSpecs(log_dir=folder), received, stop_timeout)
        try:
            result = agent.run()
        finally:
            spec.rdzv_handler.shutdown()
    return agent.status if result.is_failed() else 0


class Agent(LocalElasticAgent):
    """An elastic agent that passes its signals on, lets workers end by themselves, and knows who failed first.

    Args:
        received: where the signals to this process arrive.
    """

    def __init__(
        self, spec: WorkerSpec, logs: DefaultLogsSpecs, received: list[int], stop_timeout: float
    ) -> None:
        super().__init__(spec, logs)
        self.status = 0
        self._received = received
        self._passed_on = 0
        self._stop_timeout = stop_timeout
        self._deadline = float("inf")

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        assert isinstance(self._pcontext, SubprocessContext)
        handlers = self._pcontext.subprocess_handlers
        self._pass_signals_on(handlers)
        codes = {rank: handler.proc.poll() for rank, handler in handlers.items()}
        failed = {rank: code for rank, code in codes.items() if code}
        running = {rank: handlers[rank] for rank, code in codes.items() if code is None}
        is_orderly = all(code in STOPPED or self._was_sent(-code) for code in failed.values())
        if failed and is_orderly:
            self._expect_the_end()
        late = running if time.monotonic() > self._deadline else {}
        if (
            running and is_orderly and not late
        ):  # the agent would look once more, and see ends that are not seen here
            return RunResult(WorkerState.HEALTHY)
        if late or not is_orderly:
            _kill(running.values())
        if late:
            self._end_late(late, failed)
        elif failed:
            self._end_failed(failed, {rank: handler.proc.pid for rank, handler in handlers.items()})
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _pass_signals_on(self, handlers: dict[int, SubprocessHandler]) -> None:
        for signum in self._received[self._passed_on :]:
            for handler in handlers.values():
                handler.proc.send_signal(signum)
            self._passed_on += 1
            self._expect_the_end()

    def _was_sent(self, signum: int) -> bool:
        return signum in self._received[: self._passed_on]

    def _expect_the_end(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + self._stop_timeout + MARGIN_SECONDS)

    def _end_late(self, late: dict[int, SubprocessHandler], failed: dict[int, int]) -> None:
        self.status = exit_status(self._received[0]) if self._received else next(iter(failed.values()))
        self._remaining_restarts = 0
        ranks = ", ".join(str(rank) for rank in late)
        _say(
            f"rank {ranks}: not ended {self._stop_timeout:g} s after a signal (devices.stop_timeout), so killed; "
            f"go on with --resume auto"
        )

    def _end_failed(self, failed: dict[int, int], pids: dict[int, int]) -> None:
        """Take over the status of those who failed first; a restart is for crashes alone."""
        crashed = {rank: code for rank, code in failed.items() if self._is_crash(code)}
        if crashed:
            self.status = max(1, *crashed.values())
        elif MISTAKE in failed.values():
            self.status = MISTAKE
        else:
            self.status = min(code if code > 0 else exit_status(-code) for code in failed.values())
        if self._received or not crashed:
            self._remaining_restarts = 0
        for rank, code in crashed.items():
            self._say_crash(f"rank {rank} (pid {pids[rank]})", code)

    def _is_crash(self, code: int) -> bool:
        return code not in (*STOPPED, MISTAKE) and not self._was_sent(-code)

    def _say_crash(self, worker: str, code: int) -> None:
        what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with status {code}"
        if self._remaining_restarts:
            restarts = self._worker_group.spec.max_restarts
            number = restarts - self._remaining_restarts + 1
            _say(f"{worker} {what}; starting all ranks again ({number} of {restarts} restarts)")
        elif code < 0:  # else it has said why itself
            _say(f"{worker} {what}; go on with --resume auto")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals to this process while the context lasts; a hang-up counts as SIGTERM, unless nohup ignores it."""
    received: list[int] = []

    def remember(signum: int, _: FrameType | None) -> None:
        received.append(signal.SIGTERM if signum == signal.SIGHUP else signum)

    handled = [*STOPPING, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]
    previous = {signum: signal.signal(signum, remember) for signum in handled}
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _kill(handlers: Collection[SubprocessHandler]) -> None:
    for handler in handlers:
        handler.close(signal.SIGKILL)
    for handler in handlers:
        with suppress(subprocess.TimeoutExpired):  # in an uninterruptible call to a dead disk or GPU
            handler.proc.wait(MARGIN_SECONDS)


def _silence_agent() -> None:
    """Leave the telling of what happened to the workers and to this module; LOGLEVEL brings the agent's log back."""
    if "LOGLEVEL" not in os.environ:
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)


def _say(line: str) -> None:
    print(f"wmtp: {line}", file=sys.stderr, flush=True)
