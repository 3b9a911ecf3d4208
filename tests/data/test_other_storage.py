"""Storage that comes from outside, through what docs/data.md says and nothing else."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS
from wmtp.storage import local_copy
from wmtp.train.run import train

SHELF: dict[str, bytes] = {}


class Shelf(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Boxes of files in memory."""

    protocol = "shelf"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The files of a box, or one file."""
        names = [n for n in SHELF if n == path or n.startswith(f"{path}/")]
        if not names:
            raise FileNotFoundError(path)
        return [{"name": n, "size": len(SHELF[n]), "type": "file"} for n in names] if detail else names

    def _open(self, path: str, **_: Any) -> io.BytesIO:
        return io.BytesIO(SHELF[path])


def test_a_run_reads_its_rows_from_a_storage_of_ones_own(
    make_recipe: Callable[..., Any], config: Any, sums: Path
) -> None:
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    lines = sums.read_bytes().splitlines(keepends=True)
    SHELF.update({"box/train.jsonl": b"".join(lines[:150]), "box/validation.jsonl": b"".join(lines[150:])})
    train(make_recipe(**{"train.steps": 2, "data.source": "shelf://box"}), config, Path("run"), "never")
    counted = json.loads(Path("run/data.json").read_text())
    assert (counted["training"]["documents"], counted["validation"]["documents"]) == (150, 50)
    gone = make_recipe(**{"data.source": "shelf://box/gone.jsonl"})
    with pytest.raises(
        WMTPError, match=r"^shelf://box/gone\.jsonl: cannot be read: FileNotFoundError: [^\n]*$"
    ):
        train(gone, config, Path("other"), "never")


def test_a_benchmark_is_read_from_another_storage() -> None:
    row = {"task_id": 11, "text": "One.", "code": "def f():\n    return 1", "test_list": ["assert f() == 1"]}
    fsspec.filesystem("memory").pipe_file("/mbpp.jsonl", json.dumps(row).encode())
    settings = {"task": "mbpp", "data": "memory://mbpp.jsonl", "protocol": "bigcode"}
    (problem,) = TASKS.create("mbpp", Recipe.model_validate({"evaluate": settings})).problems()
    assert problem.task_id == "11"


def test_a_storage_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(WMTPError, match=r"^nowhere://a: cannot be read: ValueError: [^\n]*nowhere[^\n]*$"):
        local_copy("nowhere://a")


@pytest.mark.parametrize("end", ["", "; from wmtp.rank import leave; leave(0)"], ids=["return", "leave"])
def test_copies_end_with_the_process(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    code = f"from wmtp.storage import local_copy; print(local_copy('file://{tmp_path}/a.jsonl')){end}"
    copy = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
    assert copy.name == "a.jsonl"
    assert not copy.parent.exists()
