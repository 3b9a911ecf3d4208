"""CodeContests' problems."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.sandbox import Case, Limits, Verdict, execute
from wmtp.evaluate.tasks import TASKS

Write = Callable[[str, Sequence[Any]], Path]

DOUBLE: dict[str, Any] = {
    "name": "1_A. Double",
    "description": "Double it.\n",
    "public_tests": {"input": ["1\r\n", "2"], "output": ["2", "4"]},
    "private_tests": {"input": ["5"], "output": ["10"]},
    "generated_tests": {"input": [], "output": []},
}
PAIRS = {
    "id": "double",
    "description": "Double it.",
    "public_tests": [{"input": "1", "output": "2"}],
    "other_tests": [{"input": "5", "output": "10"}],
}


def load(path: Path, **evaluate: Any) -> Any:
    recipe = Recipe.model_validate({"evaluate": {"task": "codecontests", "data": str(path), **evaluate}})
    return TASKS.create("codecontests", recipe).problems()


def test_both_formats(write_lines: Write) -> None:
    first, second = load(write_lines("cc.jsonl", [DOUBLE, PAIRS]))
    assert (first.task_id, second.task_id) == ("1_A. Double", "double")
    assert first.prompt == '"""\nDouble it.\n"""\n'
    program = first.program("code")
    assert program.public == (Case("1\n", "2"), Case("2", "4"))
    assert program.private == (Case("5", "10"),)
    assert second.program("").private == (Case("5", "10"),)


def test_public_and_private_verdicts_are_apart(write_lines: Write) -> None:
    (problem,) = load(write_lines("cc.jsonl", [DOUBLE]))
    right = execute(problem.program("print(2 * int(input()))"), Limits())
    public_only = execute(problem.program("n = int(input())\nprint(2 * n if n < 5 else 0)"), Limits())
    wrong = execute(problem.program("print(1)"), Limits())
    assert (right.verdict, right.public) == (Verdict.PASSED, True)
    assert (public_only.verdict, public_only.public) == (Verdict.FAILED, True)
    assert (wrong.verdict, wrong.public) == (Verdict.FAILED, False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"description": None}, "line 1: no field 'description'"),
        ({"name": ""}, "line 1: 'id' should be there"),
        ({"public_tests": {}, "private_tests": None}, "line 1: no tests"),
        ({"public_tests": {"input": ["1"], "output": []}}, "line 1: 'public_tests' should hold"),
        ({"private_tests": {"input": "1", "output": "2"}}, "line 1: 'private_tests' should hold"),
        ({"private_tests": [{"input": "1"}]}, "line 1: 'private_tests' should hold"),
        ({"private_tests": [{"input": 1, "output": "1"}]}, "line 1: 'private_tests' should hold"),
        ({"private_tests": "none"}, "line 1: 'private_tests' should hold"),
    ],
)
def test_a_bad_row(write_lines: Write, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(WMTPError, match=expected):
        load(write_lines("cc.jsonl", [DOUBLE | change]))


def test_one_id_twice(write_lines: Write) -> None:
    with pytest.raises(WMTPError, match=r"line 2: id .double. stands in .* line 1 already"):
        load(write_lines("cc.jsonl", [PAIRS, PAIRS]))


def test_the_published_sample(published: Callable[[str], Path]) -> None:
    path = published("codecontests_sample.jsonl")
    problems = load(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for problem, row in zip(problems, rows, strict=True):
        program = problem.program("")
        assert len(program.public) == len(row["public_tests"])
        assert len(program.private) == len(row["other_tests"])
        assert row["description"].strip() in problem.prompt
