"""The generated benchmark as a task."""

import json

import pytest

from wmtp.config import Recipe
from wmtp.data.corpus import tinycode_corpus
from wmtp.data.templates import mbpp_style_prompt
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS
from wmtp.sandbox import Limits, Program, Verdict, execute_all

SIZES = {"train": 20, "validation": 4, "test": 12, "curated": 4}
RECIPE = Recipe.model_validate({"data": {"source": "tinycode", "tinycode": SIZES}})


def test_problems_are_the_test_split() -> None:
    rows = tinycode_corpus(RECIPE.data.tinycode).test
    task = TASKS.create("tinycode", RECIPE)
    problems = task.problems()
    assert (task.name, task.stop, len(problems)) == ("tinycode", (), 12)
    for problem, row in zip(problems, rows, strict=True):
        assert (problem.task_id, problem.prompt) == (str(row["task_id"]), mbpp_style_prompt(row["text"]))
        assert problem.program("x = 1") == Program(problem.task_id, "x = 1", tuple(row["test_list"]))
        assert json.loads(json.dumps(problem.metadata)) == {
            "family": row["family"],
            "operations": len(row["operations"]),
        }


def test_solutions_pass_and_those_of_other_problems_do_not() -> None:
    codes = [row["code"] for row in tinycode_corpus(RECIPE.data.tinycode).test]
    problems = TASKS.create("tinycode", RECIPE).problems()
    right = [p.program(code) for p, code in zip(problems, codes, strict=True)]
    wrong = [p.program(code) for p, code in zip(problems, [*codes[1:], codes[0]], strict=True)]
    assert {execution.verdict for _, execution in execute_all(right, Limits())} == {Verdict.PASSED}
    assert {execution.verdict for _, execution in execute_all(wrong, Limits())} == {Verdict.FAILED}


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(WMTPError, match="did you mean 'tinycode'"):
        TASKS.get("tinycod")


def test_prompt_is_one_comment() -> None:
    assert mbpp_style_prompt("Add.") == "# Add.\n"
    assert mbpp_style_prompt("Add\r\nthem.").count("\n") == 1
