"""LiveCodeBench's problems."""

import base64
import json
import pickle
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.config import Recipe, load, to_yaml
from wmtp.errors import WMTPError
from wmtp.evaluate.extraction import extract
from wmtp.evaluate.tasks import TASKS, settings_of
from wmtp.evaluate.tasks.livecodebench import text_of_pickle
from wmtp.sandbox import Call, CallProgram, Case, Limits, StdinProgram, Verdict, execute

Write = Callable[[str, Sequence[Any]], Path]


def packed(tests: Any) -> str:
    """As private tests are published."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def stdin_test(given: str, wanted: str) -> dict[str, str]:
    return {"input": given, "output": wanted, "testtype": "stdin"}


DOUBLE: dict[str, Any] = {
    "question_title": "Double",
    "question_content": "Double it.",
    "platform": "atcoder",
    "question_id": "abc301_a",
    "contest_id": "abc301",
    "contest_date": "2023-05-13T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([stdin_test("1\n", "2\n")]),
    "private_test_cases": packed([stdin_test("5\n", "10\n"), stdin_test("7\n", "14\n")]),
    "metadata": "{}",
}
SUM: dict[str, Any] = DOUBLE | {
    "platform": "leetcode",
    "question_id": "2800",
    "contest_date": "2023-08-20T00:00:00",
    "starter_code": "class Solution:\n    def total(self, nums: List[int], start: int) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "[]\n0", "output": "0", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "total"}),
}
METHOD = """class Solution:
    def total(self, nums: List[int], start: int) -> int:
        return sum(nums, start)
"""


def recipe(path: Path, **evaluate: Any) -> Recipe:
    return Recipe.model_validate({"evaluate": {"task": "livecodebench", "data": str(path), **evaluate}})


def problems(path: Path, **evaluate: Any) -> Any:
    return TASKS.create("livecodebench", recipe(path, **evaluate)).problems()


def judge(write_lines: Write, row: dict[str, Any], code: str) -> Any:
    (problem,) = problems(write_lines("lcb.jsonl", [row]))
    return execute(problem.program(code), Limits())


def test_rows_as_published(write_lines: Write) -> None:
    script, method = problems(write_lines("lcb.jsonl", [DOUBLE, SUM]))
    assert (script.task_id, method.task_id) == ("abc301_a", "2800")
    assert script.metadata == {"contest_date": "2023-05-13", "platform": "atcoder", "difficulty": "easy"}
    program = script.program("print(1)")
    assert isinstance(program, StdinProgram)
    assert program.public == (Case("1\n", "2\n"),)
    assert program.private == (Case("5\n", "10\n"), Case("7\n", "14\n"))
    assert program.comparison == "lines"
    program = method.program(METHOD)
    assert isinstance(program, CallProgram)
    assert program.public == (Call(([1, 2], 3), 6),)
    assert program.private == (Call(([], 0), 0),)


def test_prompts(write_lines: Write) -> None:
    script, method = problems(write_lines("lcb.jsonl", [DOUBLE, SUM]))
    for problem in (script, method):
        assert problem.prompt.startswith("You are an expert Python programmer. You will be given a question")
        assert "\n\n### Question:\nDouble it.\n\n### Format: " in problem.prompt
        assert problem.prompt.endswith("```\n\n### Answer: (use the provided format with backticks)\n\n")
    assert "\n```python\n# YOUR CODE HERE\n```\n" in script.prompt
    assert f"\n```python\n{SUM['starter_code']}\n```\n" in method.prompt


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print(2 * int(input()))", "passed"),
        ("print(2.0 * int(input()))", "passed"),  # the same numbers
        ("print(2 * int(input()) + 1e-9)", "failed"),
        (
            "print(*map(operator.mul, [2], [int(stdin.readline())]))",
            "passed",
        ),  # imports are taken for granted
        ("from __future__ import annotations\nprint(2 * int(input()))", "passed"),
        ("if __name__ == '__main__':\n    print(2 * int(input()))", "passed"),
        ("import numpy\nprint(2 * numpy.int64(input()))", "passed"),
        ("print(2 * int(input()))\nexit()", "passed"),
        ("print(2 if int(input()) == 1 else 0)", "failed"),
        ("", "failed"),
    ],
)
def test_scripts(write_lines: Write, code: str, verdict: str) -> None:
    assert str(judge(write_lines, DOUBLE, code).verdict) == verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (METHOD, "passed"),
        ("def total(nums, start): return sum(nums, start)", "passed"),
        ("from __future__ import annotations\n" + METHOD, "passed"),
        (METHOD.replace("return sum", "return 0 * sum"), "failed"),
        (METHOD.replace("total", "other"), "failed"),
        ("class Solution: pass\ndef total(nums, start): return sum(nums, start)", "failed"),
        (METHOD.replace("return sum(nums, start)", "exit()"), "failed"),
    ],
)
def test_methods(write_lines: Write, code: str, verdict: str) -> None:
    assert str(judge(write_lines, SUM, code).verdict) == verdict


def test_what_a_method_leaves_is_gone_with_the_next_call(write_lines: Write) -> None:
    code = METHOD.replace("return sum(nums", "seen.extend(nums)\n        return sum(seen") + "seen = []\n"
    assert judge(write_lines, SUM, code).verdict is Verdict.PASSED


@pytest.mark.parametrize("test", [{"input": "", "output": "0"}, {"input": "[1]\n2", "output": "three"}])
def test_tests_that_are_no_json_are_nobodys_failure(write_lines: Write, test: dict[str, str]) -> None:
    execution = judge(write_lines, SUM | {"private_test_cases": packed([test])}, METHOD)
    assert execution.verdict is Verdict.ERROR
    assert "its tests are not all JSON" in execution.message


@pytest.mark.parametrize(
    ("window", "ids"),
    [
        ({}, ["abc301_a", "2800"]),
        ({"start_date": "2023-05-14"}, ["2800"]),
        ({"end_date": "2023-05-13"}, ["abc301_a"]),
        ({"start_date": "2023-05-13", "end_date": "2023-08-20"}, ["abc301_a", "2800"]),
    ],
)
def test_windows_of_dates(write_lines: Write, window: dict[str, str], ids: list[str]) -> None:
    path = write_lines("lcb.jsonl", [DOUBLE, SUM])
    assert [problem.task_id for problem in problems(path, **window)] == ids
    changes = ", ".join(f"{key}={day}" for key, day in window.items())
    label = f"livecodebench (changed: {changes})" if window else "livecodebench"
    assert settings_of(recipe(path, **window).evaluate).label == label


def test_a_window_without_problems(write_lines: Write) -> None:
    with pytest.raises(WMTPError, match="has no problem from 2024-01-01 to the end"):
        problems(write_lines("lcb.jsonl", [DOUBLE]), start_date="2024-01-01")


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"start_date": "May 2023"}, "should be a day as in 2024-08-31, not 'May 2023'"),
        ({"start_date": "2024-02-01", "end_date": "2024-01-01"}, "end_date 2024-01-01 is before start_date"),
        ({"start_date": "2024-02-01", "task": "humaneval"}, "the problems of task humaneval have no dates"),
    ],
)
def test_dates_that_make_no_window(evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(Recipe.model_validate({"evaluate": {"task": "livecodebench"} | evaluate}).evaluate)


def test_dates_in_files_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("evaluate:\n  task: livecodebench\n  start_date: 2023-05-13\n")
    first, _ = load(path, None, ["evaluate.end_date=2023-08-20"])
    path.write_text(to_yaml(first))
    again, _ = load(path, None, [])
    for each in (first, again):
        assert (each.evaluate.start_date, each.evaluate.end_date) == ("2023-05-13", "2023-08-20")


class Loud:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question_id": None}, "'question_id' should be there"),
        ({"question_content": None}, "no field 'question_content'"),
        ({"contest_date": "May"}, "'contest_date' should be a date as in 2024-08-31, not 'May'"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "no tests"),
        ({"public_test_cases": "[1"}, "'public_test_cases' should be JSON"),
        ({"public_test_cases": "[1]"}, "'public_test_cases' should hold tests"),
        ({"private_test_cases": "äö"}, "'private_test_cases' should be JSON, or a pickled text"),
        ({"private_test_cases": "AAAA"}, "'private_test_cases' should be JSON, or a pickled text"),
        ({"private_test_cases": packed([])[:-8]}, "'private_test_cases' should be JSON, or a pickled text"),
        ({"metadata": "{"}, "'metadata' should be JSON"),
        ({"metadata": '{"func_name": "f()"}'}, "'metadata' should be an object"),
        ({"metadata": "[]"}, "'metadata' should be an object"),
    ],
)
def test_a_bad_row(write_lines: Write, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(WMTPError, match=f"line 1: {expected}"):
        problems(write_lines("lcb.jsonl", [DOUBLE | change]))


def test_nothing_in_a_pickle_is_executed(write_lines: Write, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = base64.b64encode(zlib.compress(pickle.dumps(Loud()))).decode()
    with pytest.raises(WMTPError, match="the pickle is no plain text"):
        problems(write_lines("lcb.jsonl", [DOUBLE | {"private_test_cases": hostile}]))
    assert capsys.readouterr().out == ""


@given(st.text(), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_pickled_texts(text: str, protocol: int) -> None:
    assert text_of_pickle(pickle.dumps(text, protocol)) == text


@pytest.mark.parametrize("value", [b"x", 1, None, ["a"], ("a", "b"), Loud(), {"a": 1}])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_other_pickles(value: Any, protocol: int) -> None:
    with pytest.raises(ValueError, match="pickle"):
        text_of_pickle(pickle.dumps(value, protocol))


def test_one_id_twice(write_lines: Write) -> None:
    with pytest.raises(WMTPError, match=r"line 2: id .abc301_a. stands in .* line 1 already"):
        problems(write_lines("lcb.jsonl", [DOUBLE, DOUBLE]))


def test_the_code_of_a_fenced_answer_is_executed(write_lines: Write) -> None:
    path = write_lines("lcb.jsonl", [DOUBLE, SUM])
    assert settings_of(recipe(path).evaluate).extraction == "fenced"
    codes = ("print(2 * int(input()))", METHOD)
    for problem, code in zip(problems(path), codes, strict=True):
        answer = f"Read, then write.\n```python\n{code}\n```\nFor example:\n```\n2 -> 4\n```\n"
        assert (
            execute(problem.program(extract(answer, problem, "fenced")), Limits()).verdict is Verdict.PASSED
        )
