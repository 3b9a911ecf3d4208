"""A task of one's own that is none."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import Problem, problems_of

PROBLEM = Problem("a", "def f", lambda completion: completion)  # type: ignore[arg-type,return-value]


def own(problems: Any) -> Any:
    return SimpleNamespace(name="mine", stop=(), problems=lambda: problems)


def test_a_task_of_ones_own() -> None:
    assert problems_of(own([PROBLEM, PROBLEM]), 1) == [PROBLEM]


@pytest.mark.parametrize("task", [None, "text", SimpleNamespace(name="mine", stop=())])
def test_what_is_no_task_is_told_what_it_should_be(task: Any) -> None:
    expected = r"^evaluate\.task: should make an object with name, stop and problems\(\) "
    with pytest.raises(WMTPError, match=expected + rf".*, not {type(task).__name__}$"):
        problems_of(task, None)


@pytest.mark.parametrize("problems", [None, ["a"], [PROBLEM, None], iter([PROBLEM])])
def test_what_are_no_problems(problems: Any) -> None:
    with pytest.raises(WMTPError, match=r"^evaluate\.task mine: problems\(\) should give a list of "):
        problems_of(own(problems), None)


def test_a_prompt_that_utf8_cannot_spell_is_refused_before_any_work() -> None:
    half = replace(PROBLEM, prompt="ab\ud800")
    expected = r"^evaluate\.task mine: prompt of a: character 3 is half of a surrogate pair \(\\ud800\)"
    with pytest.raises(WMTPError, match=expected):
        problems_of(own([half]), None)
