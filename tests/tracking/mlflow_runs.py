"""Made-up runs, and what is really in an MLflow database."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from wmtp.metrics import MetricsLog
from wmtp.tracking.ledger import Ledger

MakeRun = Callable[..., Path]


def write_steps(run: Path, steps: range) -> None:
    """Append a training record of each step."""
    log = MetricsLog(run)
    for step in steps:
        log.write(train_record(step))


def train_record(step: int) -> dict[str, Any]:
    """A record as the trainer writes it: two heads, one of them not computed at even steps."""
    second = None if step % 2 == 0 else 2.0 + step
    return {
        "kind": "train",
        "step": step,
        "tokens": 10 * step,
        "loss": 1.0 / step,
        "ce": [1.0 + step, second],
    }


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Go on as soon as a condition holds; fail if it does not in so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def is_delivered(run: Path, step: int) -> bool:
    """Whether MLflow has a training record of this step or a later one."""
    return Ledger.of(run).steps.get("train", 0) >= step


class Database:
    """What is really in an MLflow database, read without MLflow."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        with closing(sqlite3.connect(self._path)) as database:
            return database.execute(query, values).fetchall()

    def runs(self) -> list[tuple[str, str, str]]:
        """Name, status and id of every run, oldest first."""
        return self.rows("SELECT name, status, run_uuid FROM runs ORDER BY start_time")  # type: ignore[return-value]

    def steps(self, run_id: str, key: str = "train/tokens") -> list[int]:
        """The steps of a metric in the order they came in; one that came twice stands twice."""
        found = self.rows(
            "SELECT step FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY rowid", run_id, key
        )
        return [step for (step,) in found]

    def values(self, run_id: str, key: str) -> dict[int, float]:
        """A metric by step."""
        return dict(self.rows("SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ?", run_id, key))

    def tags(self, run_id: str) -> dict[str, str]:
        """A run's tags."""
        return dict(self.rows("SELECT key, value FROM tags WHERE run_uuid = ?", run_id))

    def params(self, run_id: str) -> dict[str, str]:
        """A run's parameters."""
        return dict(self.rows("SELECT key, value FROM params WHERE run_uuid = ?", run_id))
