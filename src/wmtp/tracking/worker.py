"""The process that delivers to MLflow beside a training: `python -m wmtp.tracking.worker ARGUMENTS`.

On standard input it hears how the training ended; the end of standard input or of its parent means that the training
was killed. Then it delivers the rest, once, and ends.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from wmtp.config import Config
from wmtp.errors import WMTPError
from wmtp.layout import SYSTEM_FILE
from wmtp.metrics import append_record
from wmtp.tracking.deliver import RunDelivery
from wmtp.tracking.ledger import Ledger, Tail, run_directories, sole_deliverer
from wmtp.tracking.store import Store
from wmtp.train.signals import STOPPING

NICENESS = 10
REQUEST_TIMEOUT = 10
NO_OUTCOME = "KILLED"
NO_SERVER = "http://nowhere"
"""MLflow's monitor wants one, to which it sends nothing here."""


def deliver_until_ended(
    directory: str, config: dict[str, Any], parent: int, key: str | None, run_id: str | None, every: float
) -> bool:
    """Deliver until the training has ended; returns whether everything is delivered.

    Args:
        parent: process whose end is the training's.
        key: of the new MLflow run, if the training starts at step 0.
        run_id: MLflow run to continue if the directory does not say.
        every: seconds between deliveries, and between system metrics.
    """
    for signum in (*STOPPING, signal.SIGHUP):  # which schedulers send to a whole job: the training answers
        signal.signal(signum, signal.SIG_IGN)
    os.nice(NICENESS)
    run = Path(directory)
    with sole_deliverer(run, wait=True):  # the worker of the training before may be at its last round
        ledger = Ledger(key=key) if key else Ledger.of(run)
        ledger.run_id, ledger.outcome = ledger.run_id or run_id, None
        ledger.save(run)  # before MLflow is imported, which takes seconds
        if key:
            (run / SYSTEM_FILE).unlink(missing_ok=True)
        rounds = Rounds(run, Config.model_validate(config))
        from mlflow.utils.git_utils import get_git_commit

        ledger.commit = ledger.commit or get_git_commit(os.getcwd())
        ledger.save(run)
        last_complaint, outcome = "", None
        while True:
            complaint = rounds.attempt(outcome)
            if complaint != last_complaint:
                print(time.strftime("%Y-%m-%d %H:%M:%S"), complaint or "delivering again", flush=True)
            if outcome:
                return not complaint
            last_complaint, outcome = complaint, _outcome_within(every, parent)


def _outcome_within(seconds: float, parent: int) -> str | None:
    """How the training ended; None if it goes on after so many seconds."""
    if select.select([sys.stdin], [], [], seconds)[0]:
        return sys.stdin.readline() or NO_OUTCOME
    is_orphan = os.getppid() != parent  # a child of the training may still have the other end open
    return NO_OUTCOME if is_orphan else None


class Rounds:
    """Delivers a run, or a comparison with its runs as far as these do not deliver themselves."""

    def __init__(self, directory: Path, config: Config) -> None:
        self._directory = directory
        self._store = Store(config, REQUEST_TIMEOUT)
        self._system = SystemMetrics(directory / SYSTEM_FILE) if config.mlflow.system_metrics else None
        self._deliveries: dict[Path, RunDelivery] = {}

    def attempt(self, outcome: str | None) -> str:
        """Deliver what is new; `outcome` is None while the training goes on. Returns why that failed, if it did."""
        try:
            if self._system is not None:
                self._system.sample()
            self._of(self._directory).deliver(outcome or "RUNNING")
            for run in run_directories(self._directory)[1:]:
                with sole_deliverer(run) as alone:
                    if alone and (outcome or Ledger.of(run).outcome):
                        self._of(run).deliver()
        except WMTPError as error:
            return str(error)
        except Exception:
            return traceback.format_exc()
        return ""

    def _of(self, run: Path) -> RunDelivery:
        return self._deliveries.setdefault(run, RunDelivery(run, self._store))


class SystemMetrics:
    """What MLflow's monitor sees of the machine, as records of kind "system"; steps count on from the file's last."""

    def __init__(self, path: Path) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._path = path
        self._monitor = SystemMetricsMonitor(None, tracking_uri=NO_SERVER)
        self._step = max((record["step"] for record in Tail(path).read()), default=-1)

    def sample(self) -> None:
        """Append a record."""
        self._step += 1
        self._monitor.collect_metrics()
        append_record(self._path, {"kind": "system", "step": self._step, **self._monitor.aggregate_metrics()})
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()


if __name__ == "__main__":
    sys.exit(not deliver_until_ended(**json.loads(sys.argv[1])))
