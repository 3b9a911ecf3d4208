"""metrics.jsonl: one JSON object a line, appended as training goes."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtp.layout import METRICS_FILE
from wmtp.storage import complete_lines, write_bytes


class MetricsLog:
    """Appends records to a run's `metrics.jsonl`; iterating gives them back as they were handed to `write`.

    In the file each has a `time` as well: when it was written, in seconds since 1970.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / METRICS_FILE

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        append_record(self.path, record)

    def rewind(self, step: int) -> None:
        """Drop records after `step`: a run resumed from there writes them again."""
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        write_bytes(self.path, b"".join(kept))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            record = json.loads(line)
            record.pop("time", None)
            yield record

    def _lines(self) -> Iterator[bytes]:
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from complete_lines(file)


def finite(value: float) -> float | None:
    """The number, or None if it is not finite, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a record, and the time, to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**record, "time": round(time.time(), 3)}, allow_nan=False) + "\n")
