"""`mlflow.json`: which MLflow run a directory is, and how much of it MLflow has."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wmtp.errors import WMTPError
from wmtp.layout import LEDGER_FILE, METRICS_FILE
from wmtp.lock import sole_holder
from wmtp.storage import complete_lines, read_json, write_json

LOCK_FILE = ".mlflow.lock"
LOG_FILE = "mlflow.log"
PARENT_LEVELS = 3
"""A comparison's runs are `arms/<arm>/seed-<n>` below it."""


@dataclass
class Ledger:
    """What is known to be delivered.

    Attributes:
        key: tag of the MLflow run, by which it is found again if the answer to its creation was lost.
        training: the process that a training from step 0 started with, so that it is a new MLflow run once.
        commit: of the git repository that the training was started in.
        outcome: how the training said it ended; None while it has not.
        status, parent_id: as MLflow has them.
        steps: the last step of each kind of record.
        read: checksum of every file whose content became parameters, tags or metrics.
        uploaded: checksum of every artifact.
    """

    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    training: str | None = None
    commit: str | None = None
    outcome: str | None = None
    status: str | None = None
    parent_id: str | None = None
    steps: dict[str, int] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    uploaded: dict[str, str] = field(default_factory=dict)

    def undelivered(self) -> "Ledger":
        """That of the same training when MLflow has nothing of it."""
        return Ledger(training=self.training, commit=self.commit, outcome=self.outcome)


def load_ledger(directory: Path) -> Ledger | None:
    """A directory's ledger; None where there is none that can be read."""
    try:
        return Ledger(**read_json(directory / LEDGER_FILE))
    except (WMTPError, TypeError):
        return None


def save_ledger(directory: Path, ledger: Ledger) -> None:
    """Write `mlflow.json`, whole or not at all."""
    write_json(directory / LEDGER_FILE, asdict(ledger))


def run_id_of(directory: Path) -> str | None:
    """The MLflow run that a directory is delivered to, once there is one."""
    ledger = load_ledger(directory)
    return ledger.run_id if ledger else None


def parent_of(directory: Path) -> Path | None:
    """The comparison or sweep that a run belongs to, once MLflow knows it."""
    for ancestor in list(directory.resolve().parents)[:PARENT_LEVELS]:
        if (ancestor / LEDGER_FILE).exists():
            return ancestor
    return None


def sole_deliverer(directory: Path) -> AbstractContextManager[bool]:
    """Whether no other process delivers this directory; none does while the context lasts."""
    return sole_holder(directory / LOCK_FILE)


def run_directories(directory: Path) -> list[Path]:
    """A directory and the runs below it."""
    found = {path.parent for path in directory.rglob(METRICS_FILE)}
    return [directory, *sorted(found - {directory})]


def waiting_records(directory: Path) -> int:
    """How many metrics records of a run, or of the runs below, MLflow is not known to have."""
    count = 0
    for run in run_directories(directory):
        ledger = load_ledger(run) or Ledger()
        tail = Tail(run / METRICS_FILE)
        count += sum(is_new(record, ledger.steps) for record in tail.read())
    return count


def is_new(record: dict[str, Any], steps: dict[str, int]) -> bool:
    """Whether a record's step comes after the last delivered one of its kind."""
    return bool(record["step"] > steps.get(record["kind"], -1))


class Tail:
    """The records that a JSONL file has gained since it was last read; all of them if it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """New records in complete lines; what is no record of a kind and step is passed over."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self.rewind()
            self._inode = found.st_ino
            file.seek(self._offset)
            for line in complete_lines(file):
                self._offset += len(line)
                record = _parse(line)
                if record is not None:
                    yield record

    def rewind(self) -> None:
        """Read from the beginning again."""
        self._offset = 0


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    known = isinstance(record, dict) and isinstance(record.get("kind"), str)
    return record if known and isinstance(record.get("step"), int) else None
