"""`mlflow.json`: which MLflow run a directory is, and how much of it MLflow has."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wmtp.errors import WMTPError
from wmtp.layout import LEDGER_FILE, METRICS_FILE
from wmtp.lock import sole_holder
from wmtp.storage import complete_lines, write_json
from wmtp.typed_json import read_as

LOCK_FILE = ".mlflow.lock"
LOG_FILE = "mlflow.log"
"""What the delivering process says."""


@dataclass
class Ledger:
    """What is known to be delivered.

    Attributes:
        key: tag of the MLflow run, by which it is found again if the answer to its creation was lost.
        commit: of the git repository that the training was started in.
        outcome: how the training said it ended; None while it has not.
        steps: the last step of each kind of record.
        files: checksum of every artifact.
    """

    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    commit: str | None = None
    outcome: str | None = None
    steps: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> "Ledger":
        """A directory's; a new one where there is none that can be read."""
        try:
            return read_as(directory / LEDGER_FILE, TypeAdapter(cls))
        except (WMTPError, OSError):
            return cls()

    def save(self, directory: Path) -> None:
        """Write `mlflow.json`, whole or not at all."""
        write_json(directory / LEDGER_FILE, asdict(self))

    def lacks(self, record: dict[str, Any]) -> bool:
        """Whether a record's step comes after the last delivered one of its kind."""
        return bool(record["step"] > self.steps.get(record["kind"], -1))


def sole_deliverer(directory: Path, *, wait: bool = False) -> AbstractContextManager[bool]:
    """Whether no other process delivers this directory; none does while the context lasts."""
    return sole_holder(directory / LOCK_FILE, wait=wait)


def run_directories(directory: Path) -> list[Path]:
    """A directory and the runs below it."""
    found = {path.parent for path in directory.rglob(METRICS_FILE)}
    return [directory, *sorted(found - {directory})]


def waiting_records(directory: Path) -> int:
    """How many metrics records of a run, or of the runs below, MLflow is not known to have."""
    count = 0
    for run in run_directories(directory):
        count += sum(map(Ledger.of(run).lacks, Tail(run / METRICS_FILE).read()))
    return count


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
                self._inode, self._offset = found.st_ino, 0
            file.seek(self._offset)
            for line in complete_lines(file):
                self._offset += len(line)
                record = _parse(line)
                if record is not None:
                    yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"kind", "step"} <= record.keys() else None
