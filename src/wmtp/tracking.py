"""metrics.jsonl: one JSON object a line, appended as training goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtp.storage import write_text


class MetricsLog:
    """Appends records to a run's `metrics.jsonl`."""

    def __init__(self, run: Path) -> None:
        self.path = run / "metrics.jsonl"

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: a run resumed from there will write it again."""
        kept = [json.dumps(record) for record in self if record["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):  # a killed run may leave half a line
                    yield json.loads(line)
