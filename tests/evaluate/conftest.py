"""A task, a model and files, small but real."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Write = Callable[[str, Sequence[Any]], Path]


@pytest.fixture
def write_lines(tmp_path: Path) -> Write:
    """Writes values as JSON lines; returns the file."""

    def write(name: str, rows: Sequence[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def published() -> Callable[[str], Path]:
    """A published benchmark's file beside the repository; the test is skipped where it is not."""

    def find(name: str) -> Path:
        path = Path(__file__).parents[2] / ".." / "shared" / "data" / name
        if not path.is_file():
            pytest.skip(f"{name} is not there")
        return path

    return find


def humaneval_row(number: int, name: str, body: str, tests: Sequence[str]) -> dict[str, str]:
    """A problem in HumanEval's format."""
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def {name}(x):\n    """Do it."""\n',
        "entry_point": name,
        "canonical_solution": body,
        "test": "def check(candidate):\n" + "".join(f"    assert {test}\n" for test in tests),
    }


@pytest.fixture(scope="session")
def functions() -> list[dict[str, str]]:
    """Three problems in HumanEval's format."""
    return [
        humaneval_row(0, "twice", "    return 2 * x\n", ["candidate(2) == 4", "candidate(-1) == -2"]),
        humaneval_row(1, "negate", "    return -x\n", ["candidate(3) == -3"]),
        humaneval_row(2, "size", "    return len(x)\n", ["candidate([1, 2]) == 2", "candidate('') == 0"]),
    ]
