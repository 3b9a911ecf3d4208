"""Delivery to MLflow beside a training, which never waits for it."""

import os
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from wmtp.config import Config, to_dict
from wmtp.progress import working
from wmtp.tracking.ledger import LOG_FILE, load_ledger, waiting_records
from wmtp.tracking.store import check_tracking
from wmtp.tracking.worker import Order
from wmtp.train.follower import Follow
from wmtp.train.signals import Stopped

SECONDS_IN_HASTE = 5.0
"""At the end of a training that a signal or an error stopped: a scheduler may be about to kill it."""
FIRST_RESTART = 5.0
LONGEST_RESTART = 300.0


class Tracker:
    """Keeps a process that delivers a directory to MLflow while the context lasts; nothing if MLflow is not enabled.

    The process dies with this one. What it could not deliver is said in one line at the end, and stays on disk.

    Args:
        directory: of a run, or of a comparison whose runs have trackers of their own.
        run_id: MLflow run to continue if the directory does not say: a checkpoint's.
        fresh: the training starts at step 0, and with it a new MLflow run.
        live: there is a training, and leaving the context is its end; else deliver once what is there.
        seconds: at an orderly end, to deliver the rest.

    Raises:
        WMTPError: on entering, if MLflow is not installed or `mlflow.tracking_uri` is none.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        run_id: str | None = None,
        *,
        fresh: bool = False,
        live: bool = True,
        seconds: float = 30.0,
        every: float = 5.0,
    ) -> None:
        self._directory = directory
        self._config = config
        self._seconds = seconds
        self._order = Order(
            directory=str(directory.resolve()),
            config=to_dict(config),
            parent=os.getpid(),
            live=live,
            training=uuid.uuid4().hex,
            fresh=fresh,
            run_id=run_id,
            commit=_git_commit() if config.mlflow.enabled else None,
            every=every,
            seconds=seconds,
        )
        self._leaving = threading.Event()
        self._worker: subprocess.Popen[str] | None = None
        self._replacing = threading.Lock()

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once there is one: what a checkpoint keeps."""
        ledger = load_ledger(self._directory)
        replaced = self._order.fresh and ledger is not None and ledger.training != self._order.training
        return ledger.run_id if ledger is not None and not replaced else None

    def __enter__(self) -> "Tracker":
        if not self._config.mlflow.enabled:
            return self
        check_tracking(self._config)
        self._worker = self._start()
        if self._order.live:
            threading.Thread(target=self._restart_when_dead, args=(self._worker,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        with self._replacing:
            worker = self._worker
        if worker is None:
            return
        _tell(worker, _outcome(error))
        _hang_up(worker)
        with working("deliver to MLflow"):
            delivered = self._has_delivered(worker, self._seconds if error is None else SECONDS_IN_HASTE)
        if not delivered:
            print(self._what_waits(), file=sys.stderr, flush=True)

    def _start(self) -> "subprocess.Popen[str]":
        with (self._directory / LOG_FILE).open("a") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "wmtp.tracking.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # a Ctrl-C is the training's; the worker hears of its end
            )
        _tell(worker, self._order.to_line())
        return worker

    def _restart_when_dead(self, worker: "subprocess.Popen[str]") -> None:
        pause = FIRST_RESTART
        while True:
            worker.wait()
            if self._leaving.wait(pause):
                return
            pause = min(2 * pause, LONGEST_RESTART)
            with self._replacing:
                if self._leaving.is_set():
                    return
                _hang_up(worker)
                self._worker = worker = self._start()

    def _has_delivered(self, worker: "subprocess.Popen[str]", seconds: float) -> bool:
        try:
            return worker.wait(min(seconds, self._seconds)) == 0
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
            return False

    def _what_waits(self) -> str:
        records = waiting_records(self._directory)
        what = f"{records:,} records wait" if records else "not everything was delivered"
        return (
            f"mlflow: {what} in {self._directory}; deliver with: wmtp mlflow {self._directory} "
            f"(the reason is in {self._directory / LOG_FILE})"
        )


def mlflow_follower(config: Config) -> Follow:
    """Have MLflow follow a training, if `mlflow.enabled`.

    Raises:
        WMTPError: MLflow is not installed, or `mlflow.tracking_uri` is none.
    """
    if config.mlflow.enabled:
        check_tracking(config)

    def follow(run: Path, run_id: str | None, *, fresh: bool) -> Tracker:
        return Tracker(run, config, run_id, fresh=fresh)

    return follow


def _tell(worker: "subprocess.Popen[str]", line: str) -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):
        worker.stdin.write(line)
        worker.stdin.flush()


def _hang_up(worker: "subprocess.Popen[str]") -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):
        worker.stdin.close()


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "FINISHED\n"
    return "KILLED\n" if isinstance(error, (Stopped, KeyboardInterrupt)) else "FAILED\n"


def _git_commit() -> str | None:
    with suppress(OSError, subprocess.TimeoutExpired):
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
        return found.stdout.strip() or None
    return None
