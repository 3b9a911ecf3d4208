"""MBPP's problems."""

import builtins
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS
from wmtp.evaluate.tasks.texts import demanded_names, needs_candidate
from wmtp.sandbox import Limits, Verdict, execute, execute_all

Write = Callable[[str, Sequence[Any]], Path]


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": number,
        "text": f"Add {number}.",
        "code": f"def f(x):\r\n  return x + {number}",
        "test_setup_code": "",
        "test_list": [f"assert f(1) == {1 + number}", f"assert f(0) == {number}"],
        "challenge_test_list": [],
    } | changes


def load(path: Path, **evaluate: Any) -> Any:
    recipe = Recipe.model_validate({"evaluate": {"task": "mbpp", "data": str(path), **evaluate}})
    return TASKS.create("mbpp", recipe)


NUMBERS = [2, 3, 4, 10, 11, 510, 511, 600, 601, 974]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, [11, 510]),
        ("test", [11, 510]),
        ("validation", [511, 600]),
        ("train", [601, 974]),
        ("all", NUMBERS),
    ],
)
def test_splits(write_lines: Write, split: str | None, expected: list[int]) -> None:
    task = load(write_lines("mbpp.jsonl", [row(n) for n in NUMBERS]), split=split)
    assert [problem.task_id for problem in task.problems()] == [str(n) for n in expected]


def test_the_prompt_of_three_shots(write_lines: Write) -> None:
    task = load(write_lines("mbpp.jsonl", [row(n) for n in (2, 3, 4, 11)]))
    (problem,) = task.problems()
    tests = "assert f(1) == {}\nassert f(0) == {}\n[BEGIN]\n"

    def question(n: int) -> str:
        task = f"You are an expert Python programmer, and here is your task: Add {n}."
        return f"{task} Your code should pass these tests:\n\n{tests.format(n + 1, n)}"

    shots = "".join(question(n) + f"def f(x):\n  return x + {n}\n[DONE]\n\n" for n in (2, 3, 4))
    assert problem.prompt == shots + question(11)
    assert task.stop == ("[DONE]",)
    assert problem.reference == "def f(x):\n  return x + 11"


def test_the_prompt_of_a_docstring(write_lines: Write) -> None:
    task = load(write_lines("mbpp.jsonl", [row(11)]), protocol="bigcode")
    (problem,) = task.problems()
    assert problem.prompt == '"""\nAdd 11.\nassert f(1) == 12\n"""\n'
    assert '\n"""' in task.stop


def test_setup_runs_before_the_tests(write_lines: Write) -> None:
    setup = row(11, test_setup_code="base = 10\r\n", test_list=["assert f(base) == 21"])
    (problem,) = load(write_lines("mbpp.jsonl", [setup]), protocol="bigcode").problems()
    assert execute(problem.program(setup["code"]), Limits()).verdict is Verdict.PASSED
    assert execute(problem.program("def f(x): return x"), Limits()).verdict is Verdict.FAILED


def test_the_sanitized_file_is_a_list_with_other_names(tmp_path: Path) -> None:
    rows = []
    for n in (2, 3, 4, 11):
        found = row(
            n, prompt=f"Add {n}.", test_imports=["import math"], test_list=["assert f(math.floor(1.5)) > 1"]
        )
        rows.append({key: found[key] for key in ("prompt", "task_id", "code", "test_imports", "test_list")})
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(rows))
    (problem,) = load(tmp_path / "sanitized-mbpp.json").problems()
    assert "here is your task: Add 11. Your" in problem.prompt
    program = problem.program(rows[-1]["code"])
    assert (program.setup, program.tests_inside) == ("import math", False)
    assert execute(program, Limits()).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(11, task_id="11")], "line 1: 'task_id' should be a whole number"),
        ([row(11, test_list=[])], "line 1: 'test_list' has no tests"),
        ([row(11, test_list="assert 1")], "line 1: 'test_list' should be a list of texts"),
        ([row(11, code=None)], "line 1: no field 'code'"),
        ([row(11), row(11)], "line 2: id '11' stands in .* line 1 already"),
        ([row(1)], "has no problem of the test split"),
    ],
)
def test_a_bad_row(write_lines: Write, rows: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(WMTPError, match=expected):
        load(write_lines("mbpp.jsonl", rows), protocol="bigcode")


def test_shots_that_are_not_there(write_lines: Write) -> None:
    with pytest.raises(WMTPError, match="shows problems 2, 3 and 4; the file lacks 3"):
        load(write_lines("mbpp.jsonl", [row(2), row(11)]))


@pytest.mark.parametrize(
    ("reference", "setup", "test", "expected"),
    [
        ("class Pair: pass\ndef f(x): return x", "", "assert f([Pair()])", True),
        ("class Pair: pass\ndef f(x): return x", "", "assert f(1)", False),
        ("class Node: pass\ndef f(x): return x", "root = Node()", "assert f(root)", True),
        ("import sys\ndef f(x): return x", "", "assert f(1) == sys.maxsize", True),
        ("import sys\ndef f(x): return x", "import sys", "assert f(1) == sys.maxsize", False),
        ("import os.path as p\ndef f(x): return x", "", "assert p.sep == f(1)", True),
        ("def f(x, kind): return x", "", "assert f((1,), int) == 1", True),
        ("def f(x): return x", "", "assert set(f(1)) == set(sorted([1]))", False),
        ("def f(x): return x", "", "assert isinstance(f(1), int)", False),
        ("def f(:", "", "assert f(int)", False),
    ],
)
def test_what_needs_the_candidate_itself(reference: str, setup: str, test: str, expected: bool) -> None:
    assert needs_candidate(reference, setup, [test]) is expected


@pytest.mark.parametrize(
    ("reference", "test", "expected"),
    [
        ("def sum(a, b): return a * b", "assert sum(2, 5) == 10", ("sum",)),
        ("def sum(a, b): return a * b", "x = max([sum(2, 5)])\nassert x == 10", ("sum",)),
        ("def max(x): return 0\ndef f(x): return max(x)", "assert max(f(1)) == 3", ("f",)),
        ("def f(x): return sum(x)", "assert sum(f(1)) == 3", ("f",)),
        ("class set: pass\ndef f(x): return x", "assert set(f(1)) == 3", ("f",)),
        ("N = 3\ndef f(x): return x\ndef g(): pass", "import f\nassert g() == N", ("N", "g")),
        ("def f(x): return x", "assert h(1) == 3", ()),
        ("def sum(:", "assert sum(2, 5) == 10", ()),
    ],
)
def test_names_that_tests_use_of_a_solution(reference: str, test: str, expected: tuple[str, ...]) -> None:
    assert demanded_names(reference, "", [test]) == expected


def test_published_problems_that_need_the_candidate(published: Callable[[str], Path]) -> None:
    problems = load(published("mbpp.jsonl"), split="all").problems()
    assert len(problems) == 974
    inside = [problem.task_id for problem in problems if problem.program("").tests_inside]
    assert inside == ["367", "533", "596", "601", "927"]
    demanded = {problem.task_id: problem.program("").defines for problem in problems}
    assert all(demanded.values())
    assert {task_id for task_id, names in demanded.items() if hasattr(builtins, names[0])} == {"126"}


@pytest.mark.slow
def test_every_published_solution_passes(published: Callable[[str], Path]) -> None:
    path = published("mbpp.jsonl")
    problems = load(path, split="all").problems()
    solutions = [json.loads(line)["code"] for line in path.read_text().splitlines()]
    programs = [problem.program(code) for problem, code in zip(problems, solutions, strict=True)]
    limits = Limits(cpu_seconds=10, wall_seconds=60)
    failed = [
        problems[index].task_id
        for index, execution in execute_all(programs, limits)
        if execution.verdict is not Verdict.PASSED
    ]
    assert failed == []
