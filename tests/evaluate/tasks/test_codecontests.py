"""CodeContests' problems."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS
from wmtp.sandbox import Case, Limits, Verdict, execute

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
        (
            {"time_limit": "2s"},
            "line 1: 'time_limit' should hold 'seconds' and 'nanos', whole numbers, not '2s'",
        ),
        ({"time_limit": {"seconds": 1.5}}, "line 1: 'time_limit' should hold"),
        ({"time_limit": {"seconds": -1}}, "line 1: 'time_limit' should hold"),
        ({"memory_limit_bytes": "256 MB"}, "line 1: 'memory_limit_bytes' should be a whole number"),
        ({"input_file": "../x"}, "line 1: 'input_file' should be the name of a file"),
        ({"solutions": ["print(1)"]}, "line 1: 'solutions' should hold 'language' and 'solution', two lists"),
        ({"solutions": {"language": [3], "solution": []}}, "line 1: 'solutions' should hold"),
        ({"output_file": 3}, "line 1: 'output_file' should be text"),
    ],
)
def test_a_bad_row(write_lines: Write, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(WMTPError, match=expected):
        load(write_lines("cc.jsonl", [DOUBLE | change]))


def test_a_row_with_all_that_is_published(write_lines: Write) -> None:
    """Lists of objects are published as objects of lists, enumerations as numbers."""
    row = DOUBLE | {
        "source": 2,
        "difficulty": 7,
        "solutions": {"language": [3, 2], "solution": ["print(2 * int(input()))", "int main() {}"]},
        "incorrect_solutions": {"language": [3], "solution": ["print(1)"]},
        "cf_contest_id": 1,
        "cf_index": "A",
        "cf_points": 0.0,
        "cf_rating": 800,
        "cf_tags": ["math"],
        "is_description_translated": False,
        "untranslated_description": "",
        "time_limit": {"seconds": 2, "nanos": 500_000_000},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
    }
    (problem,) = load(write_lines("cc.jsonl", [row]))
    program = problem.program("")
    assert (program.cpu_seconds, program.wall_seconds, program.memory_mib) == (12.5, 75.0, 1024)
    assert (program.input_file, program.output_file, program.comparison) == ("", "", "tokens")
    assert problem.solution == "print(2 * int(input()))"
    assert execute(problem.program(problem.solution), Limits()).verdict is Verdict.PASSED
    assert execute(problem.program("print(1)"), Limits()).verdict is Verdict.FAILED


def test_a_row_without_a_solution_in_python_3(write_lines: Write) -> None:
    rows = [
        DOUBLE
        | {"solutions": {"language": [1, 2, 4], "solution": ["print 1", "int main() {}", "class A {}"]}},
        DOUBLE | {"name": "b", "solutions": {"language": [], "solution": []}},
        DOUBLE | {"name": "c", "solutions": None},
        DOUBLE | {"name": "d", "solutions": {"language": [2, "PYTHON3"], "solution": ["", "print(1)"]}},
    ]
    assert [problem.solution for problem in load(write_lines("cc.jsonl", rows))] == [None] * 3 + ["print(1)"]


@pytest.mark.parametrize(
    ("row", "evaluate", "limits"),
    [
        ({}, {}, (None, None, 1024)),
        ({"time_limit": None, "memory_limit_bytes": None}, {}, (None, None, 1024)),
        ({"time_limit": {"seconds": 0, "nanos": 0}, "memory_limit_bytes": 0}, {}, (None, None, 1024)),
        ({"time_limit": {"seconds": 0, "nanos": 500_000_000}}, {}, (3.0, 60.0, 1024)),
        ({"time_limit": {"seconds": 2, "nanos": None}}, {}, (10.0, 60.0, 1024)),
        ({"time_limit": {"seconds": 8}}, {}, (40.0, 240.0, 1024)),
        ({"time_limit": {"seconds": 8}}, {"cpu_seconds": 4}, (None, None, 1024)),
        ({"time_limit": {"seconds": 8}}, {"wall_seconds": 70}, (40.0, None, 1024)),
        ({"memory_limit_bytes": 1 << 30}, {}, (None, None, 2048)),
        ({"memory_limit_bytes": 1 << 30}, {"memory_mib": 300}, (None, None, None)),
    ],
)
def test_limits_are_the_problems_unless_the_recipe_sets_them(
    write_lines: Write, row: dict[str, Any], evaluate: dict[str, Any], limits: tuple[Any, ...]
) -> None:
    program = load(write_lines("cc.jsonl", [DOUBLE | row]), **evaluate)[0].program("")
    assert (program.cpu_seconds, program.wall_seconds, program.memory_mib) == limits


def test_named_files(write_lines: Write) -> None:
    row = DOUBLE | {"input_file": "input.txt", "output_file": "output.txt"}
    program = load(write_lines("cc.jsonl", [row]))[0].program
    files = "print(2 * int(open('input.txt').read()), file=open('output.txt', 'w'))"
    assert execute(program(files), Limits()).verdict is Verdict.PASSED
    assert execute(program(files.replace("2 *", "3 *")), Limits()).verdict is Verdict.FAILED


def test_one_name_in_two_sources(write_lines: Write) -> None:
    rows = [DOUBLE | {"source": 2}, DOUBLE | {"source": 6}, DOUBLE | {"name": "other", "source": 1}]
    names = [problem.task_id for problem in load(write_lines("cc.jsonl", rows))]
    assert names == ["1_A. Double (CODEFORCES)", "1_A. Double (ATCODER)", "other"]


@pytest.mark.parametrize(
    ("statement", "several"),
    [
        ("If there are several solutions, output any of them.", True),
        ("If there are multiple possible answers,\nprint any of them.", True),
        ("You can print any.", True),
        ("Print the answers in any order.", True),
        ("There may be several such sequences, any of them is acceptable.", True),
        ("You may output any valid plan.", True),
        ("If there are several such vertices, you select the one with the smallest number.", False),
        ("You can choose any edge and remove it. Print the number of moves.", False),
        ("Print YES if there is any path.", False),
        ("Company policy. Print one number.", False),
    ],
)
def test_statements_that_allow_several_answers(write_lines: Write, statement: str, several: bool) -> None:
    (problem,) = load(write_lines("cc.jsonl", [DOUBLE | {"description": statement}]))
    assert problem.metadata == ({"several_answers": True} if several else {})


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
    assert sum("several_answers" in problem.metadata for problem in problems) == 8
