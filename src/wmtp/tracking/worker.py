"""The process that delivers to MLflow beside a training: `python -m wmtp.tracking.worker`.

It is told what to do by a line of JSON on standard input, and that the training has ended by a second line, its
outcome, or by the end of standard input or its parent's. Then it has a limited time to deliver the rest.
"""

import json
import os
import select
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from wmtp.config import Config
from wmtp.errors import WMTPError
from wmtp.layout import SYSTEM_FILE
from wmtp.tracking.ledger import (
    Ledger,
    load_ledger,
    run_directories,
    save_ledger,
    sole_deliverer,
)
from wmtp.tracking.run_delivery import RunDelivery
from wmtp.tracking.store import Store, explain, import_mlflow, is_refusal

NICENESS = 10
LONGEST_PAUSE = 60.0
ORPHAN_POLL = 1.0
LOCK_POLL = 0.5
REQUEST_TIMEOUT = 10
NO_OUTCOME = "KILLED"


@dataclass(frozen=True)
class Order:
    """What a worker is started for.

    Attributes:
        live: a training is going on and will say how it ended; else deliver once.
        parent: process whose end is the training's.
        training: names the training; `fresh`: it starts at step 0, and with it a new MLflow run.
        every: seconds between deliveries; between system metrics twice that.
        seconds: to deliver the rest in, after the end.
    """

    directory: str
    config: dict[str, object]
    parent: int
    live: bool
    training: str
    fresh: bool = False
    run_id: str | None = None
    commit: str | None = None
    every: float = 5.0
    seconds: float = 10.0

    def to_line(self) -> str:
        """The first line of standard input."""
        return json.dumps(asdict(self)) + "\n"


class Link:
    """Waits for the word that the training has ended; after it, the process ends within `order.seconds`."""

    def __init__(self, order: Order) -> None:
        self.ended = threading.Event()
        self.outcome: str | None = None
        self._order = order
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while not select.select([sys.stdin], [], [], ORPHAN_POLL)[0]:
            if os.getppid() != self._order.parent:
                break
        else:
            self.outcome = sys.stdin.readline().strip()
        self.outcome = self.outcome or NO_OUTCOME
        self.ended.set()
        time.sleep(self._order.seconds)
        os._exit(1)


class Deliverer:
    """Delivers a run, or a comparison with its runs as far as these do not deliver themselves."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._directory = Path(order.directory)
        self._store: Store | None = None
        self._deliveries: dict[Path, RunDelivery] = {}

    def deliver(self, outcome: str | None) -> None:
        """One round; `outcome` is None while the training goes on."""
        status = (outcome or "RUNNING") if self._order.live else None
        if self._store is None:
            self._store = Store(Config.model_validate(self._order.config), REQUEST_TIMEOUT)
        self._of(self._directory).deliver(status)
        for run in run_directories(self._directory)[1:]:
            with sole_deliverer(run) as alone:
                if alone and (status != "RUNNING" or _has_ended(run)):
                    self._of(run).deliver()

    def _of(self, run: Path) -> RunDelivery:
        if run not in self._deliveries:
            assert self._store is not None
            own = run == self._directory
            run_id = self._order.run_id if own else None
            self._deliveries[run] = RunDelivery(run, self._store, run_id, self._order.commit)
        return self._deliveries[run]


def main() -> int:
    """Deliver until the training has ended and everything is delivered: status 0, else 1."""
    order = Order(**json.loads(sys.stdin.readline()))
    os.nice(NICENESS)
    link = Link(order)
    while True:
        with sole_deliverer(Path(order.directory)) as alone:
            if alone:
                if order.live:
                    _open_ledger(order)
                return _deliver_until_ended(order, link)
        time.sleep(LOCK_POLL)  # a worker of the training before may be at its last round


def _deliver_until_ended(order: Order, link: Link) -> int:
    deliverer = Deliverer(order)
    is_metered = not order.live
    pause = order.every
    last_complaint = ""
    while True:
        ended = link.ended.is_set() or not order.live
        if ended and order.live:
            _note_outcome(order, link.outcome)
        try:
            if not is_metered:
                _start_system_metrics(order)
                is_metered = True
            deliverer.deliver(link.outcome if ended else None)
            pause, complaint = order.every, ""
        except Exception as error:
            pause, complaint = min(2 * pause, LONGEST_PAUSE), _complaint(error)
        if complaint != last_complaint:
            _log(complaint or "delivering again")
        last_complaint = complaint
        if ended:
            return 1 if complaint else 0
        link.ended.wait(pause)


def _open_ledger(order: Order) -> None:
    """The training's own from now on: a new one if it starts at step 0 and this is not a second worker of it."""
    directory = Path(order.directory)
    ledger = load_ledger(directory)
    if ledger is None or (order.fresh and ledger.training != order.training):
        ledger = Ledger(run_id=order.run_id, training=order.training, commit=order.commit)
        if order.fresh:
            (directory / SYSTEM_FILE).unlink(missing_ok=True)
    ledger.outcome = None
    save_ledger(directory, ledger)


def _note_outcome(order: Order, outcome: str | None) -> None:
    """Keep on disk how the training ended, for whoever delivers it later."""
    ledger = load_ledger(Path(order.directory)) or Ledger(commit=order.commit)
    ledger.outcome = outcome
    save_ledger(Path(order.directory), ledger)


def _has_ended(run: Path) -> bool:
    ledger = load_ledger(run)
    return ledger is not None and ledger.outcome is not None


def _start_system_metrics(order: Order) -> None:
    config = Config.model_validate(order.config)
    if config.mlflow.system_metrics:
        from wmtp.tracking.system import record_system_metrics

        import_mlflow(REQUEST_TIMEOUT)
        path = Path(order.directory) / SYSTEM_FILE
        threading.Thread(target=record_system_metrics, args=(path, 2 * order.every), daemon=True).start()


def _complaint(error: Exception) -> str:
    if isinstance(error, WMTPError):
        return str(error)
    if is_refusal(error):
        return f"MLflow {explain(error)}"
    return "".join(traceback.format_exception(error))


def _log(line: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
