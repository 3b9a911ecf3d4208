"""Rows in MBPP's format as a task."""

import json

import pytest

from wmtp.config import Recipe
from wmtp.data.corpus import tinycode_corpus
from wmtp.data.templates import mbpp_style_prompt
from wmtp.errors import WMTPError
from wmtp.evaluate.sandbox import Limits, Verdict, execute, execute_all
from wmtp.evaluate.tasks import TASKS
from wmtp.evaluate.tasks.tinycode import TinycodeTask

ROWS = [
    {
        "task_id": 7,
        "text": "Double every element\nand sum.",
        "code": "def f(x):\n    return 2 * sum(x)\n",
        "test_list": ["assert f([1, 2]) == 6", "assert f([]) == 0"],
        "family": "list",
        "operations": ("double", "sum"),
    },
    {
        "task_id": 8,
        "text": "Negate.",
        "code": "def g(x):\n    return -x\n",
        "test_list": ["assert g(1) == -1"],
    },
]


def test_problems() -> None:
    first, second = TinycodeTask(ROWS).problems()
    assert (first.task_id, first.prompt) == ("7", "# Double every element and sum.\n")
    program = first.program("x = 1")
    assert (program.code, program.tests) == ("x = 1", tuple(ROWS[0]["test_list"]))  # type: ignore[union-attr, arg-type]
    assert json.loads(json.dumps(first.metadata)) == {"family": "list", "operations": 2}
    assert second.metadata == {}


def test_reference_solutions_pass_and_others_do_not() -> None:
    task = TinycodeTask(ROWS)
    first, second = task.problems()
    assert execute(first.program(str(ROWS[0]["code"])), Limits()).verdict is Verdict.PASSED
    assert execute(second.program(str(ROWS[1]["code"])), Limits()).verdict is Verdict.PASSED
    assert execute(second.program(str(ROWS[0]["code"])), Limits()).verdict is Verdict.FAILED


def test_by_name_from_a_recipe() -> None:
    sizes = {"train": 20, "validation": 4, "test": 12, "curated": 4}
    recipe = Recipe.model_validate({"data": {"source": "tinycode", "tinycode": sizes}})
    task = TASKS.create("tinycode", recipe)
    rows = tinycode_corpus(recipe.data.tinycode).test
    problems = task.problems()
    assert [p.prompt for p in problems] == [mbpp_style_prompt(row["text"]) for row in rows]
    programs = [p.program(row["code"]) for p, row in zip(problems, rows, strict=True)]
    assert {execution.verdict for _, execution in execute_all(programs, Limits())} == {Verdict.PASSED}
    with pytest.raises(WMTPError, match="did you mean 'tinycode'"):
        TASKS.get("tinycod")


def test_bad_rows() -> None:
    with pytest.raises(WMTPError, match="row 1 has no field 'test_list'; it has task_id, text"):
        TinycodeTask([ROWS[0], {"task_id": 1, "text": "x"}])
    with pytest.raises(WMTPError, match="two problems with task_id '7'"):
        TinycodeTask([ROWS[0], ROWS[0]])


def test_prompt_is_one_comment() -> None:
    assert mbpp_style_prompt("Add.") == "# Add.\n"
    assert mbpp_style_prompt("Add\r\nthem.").count("\n") == 1
