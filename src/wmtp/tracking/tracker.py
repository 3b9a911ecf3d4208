"""Delivery to MLflow beside a training, which never waits for it."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType

from wmtp.config import Config, to_dict
from wmtp.progress import working
from wmtp.tracking.ledger import LOG_FILE, Ledger, waiting_records
from wmtp.tracking.store import check_tracking
from wmtp.train.follower import Follow
from wmtp.train.signals import Stopped

SECONDS_AT_END = {"FINISHED": 30.0, "KILLED": 5.0, "FAILED": 2.0}
"""By outcome: a scheduler may be about to kill a training that a signal stopped; and after an error another rank
speaks if this one has not within `rank.OWN_TURN_SECONDS`, upon which the launcher ends it."""


class Tracker:
    """Has a process deliver a directory to MLflow while the context lasts; nothing if MLflow is not enabled.

    What it has not delivered at the end, because it could not or was killed, is said in one line and stays on disk.

    Args:
        directory: of a run, or of a comparison whose runs have trackers of their own.
        run_id: MLflow run to continue if the directory does not say: a checkpoint's.
        fresh: the training starts at step 0, and with it a new MLflow run.
        seconds: to deliver the rest at the end; by default what `SECONDS_AT_END` gives the outcome.
        every: seconds between deliveries, and between system metrics.

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
        seconds: float | None = None,
        every: float = 10.0,
    ) -> None:
        self._directory = directory
        self._config = config
        self._seconds = seconds
        self._every = every
        self._given_run_id = run_id
        self._key = uuid.uuid4().hex if fresh else None
        self._worker: subprocess.Popen[str] | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once there is one: what a checkpoint keeps."""
        return self._own_ledger().run_id

    def __enter__(self) -> "Tracker":
        if self._config.mlflow.enabled:
            check_tracking(self._config)
            arguments = {
                "directory": str(self._directory.resolve()),
                "config": to_dict(self._config),
                "parent": os.getpid(),
                "key": self._key,
                "run_id": self._given_run_id,
                "every": self._every,
            }
            with (self._directory / LOG_FILE).open("a") as log:
                self._worker = subprocess.Popen(
                    [sys.executable, "-m", "wmtp.tracking.worker", json.dumps(arguments)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,  # a Ctrl-C is the training's; the worker hears of its end
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is None:
            return
        outcome = _outcome(error)
        seconds = SECONDS_AT_END[outcome] if self._seconds is None else self._seconds
        with working("deliver to MLflow"):
            try:
                self._worker.communicate(outcome, timeout=seconds)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
        ledger = self._own_ledger()
        ledger.outcome = outcome
        ledger.save(self._directory)  # for whoever delivers the rest
        if self._worker.returncode != 0:
            print(self._what_waits(), file=sys.stderr, flush=True)

    def _own_ledger(self) -> Ledger:
        """The directory's, unless that is still the ledger of a training before."""
        ledger = Ledger.of(self._directory)
        return ledger if self._key in (None, ledger.key) else Ledger(key=self._key)

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
    return lambda run, run_id, *, fresh: Tracker(run, config, run_id, fresh=fresh)


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, (Stopped, KeyboardInterrupt)) else "FAILED"
