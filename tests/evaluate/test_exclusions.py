"""Which problems are in no number, and how that is said."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.cli import main
from wmtp.config import EvaluateConfig, Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate import verdicts
from wmtp.evaluate.exclusions import check_solutions
from wmtp.evaluate.passk import pass_at_k
from wmtp.evaluate.tasks import TASKS, Problem
from wmtp.sandbox import Program

Write = Callable[[str, Sequence[Any]], Path]
CONFIG = EvaluateConfig(allow_code_execution=True, workers=1)


def problem(task_id: str, solution: str | None, test: str = "assert f(1) == 2") -> Problem:
    return Problem(task_id, "", lambda code: Program(task_id, code, (test,)), solution=solution)


RIGHT, WRONG = "def f(x): return x + 1", "def f(x): return x"


def test_solutions_are_judged_as_samples_are(tmp_path: Path) -> None:
    problems = [problem("a", RIGHT), problem("b", WRONG), problem("c", None), problem("d", RIGHT, "assert (")]
    found = check_solutions("t", problems, CONFIG, tmp_path)
    assert (found.passed, found.unchecked) == (1, 1)
    assert {name: str(outcome.verdict) for name, outcome in found.failed.items()} == {
        "b": "failed",
        "d": "error",
    }
    assert "f(1) returned 1" in found.failed["b"].message


def test_what_was_checked_once_costs_nothing_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [problem("a", RIGHT), problem("b", WRONG)]
    first = check_solutions("t", problems, CONFIG, tmp_path)
    executed: list[str] = []
    real = verdicts.execute_all

    def counted(programs: Sequence[Program], *rest: Any) -> Any:
        executed.extend(program.code for program in programs)
        return real(programs, *rest)

    monkeypatch.setattr(verdicts, "execute_all", counted)
    assert check_solutions("t", problems, CONFIG, tmp_path).failed.keys() == first.failed.keys()
    assert executed == []
    check_solutions("t", problems, CONFIG.model_copy(update={"cpu_seconds": 2.0}), tmp_path)
    assert sorted(executed) == sorted([RIGHT, WRONG])


def test_where_no_solution_passes_nothing_is_evaluated(tmp_path: Path) -> None:
    with pytest.raises(
        WMTPError, match=r"task t: of 2 problems, not one's own solution passes here \(a \(failed: "
    ):
        check_solutions("t", [problem("a", WRONG), problem("b", WRONG)], CONFIG, tmp_path)


@pytest.fixture
def scored(
    write_lines: Write,
    functions: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[dict[str, Any], str]]:
    """The summary of HumanEval's format, each problem's own solution as its sample; and what was printed."""

    def score(*rows: dict[str, Any]) -> tuple[dict[str, Any], str]:
        write_lines("he.jsonl", rows)
        write_lines(
            "s.jsonl",
            [{"task_id": f["task_id"], "completion": f["canonical_solution"]} for f in functions],
        )
        words = ["--samples", "s.jsonl", "--task", "humaneval", "evaluate.data=he.jsonl"]
        monkeypatch.setattr(sys, "argv", ["wmtp", "evaluate", *words, "--allow-code-execution"])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert not left.value.code, printed.err
        return json.loads(Path("s.jsonl_evaluation.json").read_text()), printed.out

    return score


def test_a_problem_that_nobody_can_solve_is_named_and_in_no_number(
    scored: Callable[..., tuple[dict[str, Any], str]], functions: list[dict[str, str]]
) -> None:
    impossible = functions[1] | {"test": "def check(candidate):\n    assert candidate(3) == 'three'\n"}
    result, printed = scored(functions[0], impossible, functions[2])
    expected = pass_at_k([1, 1], [1, 1], 1)
    assert result["pass_at"]["1"]["value"] == expected.value == 1.0
    assert result["problems"] == 2
    assert result["verdicts"] == {"passed": 2}
    assert [row["task_id"] for row in result["by_problem"]] == ["HumanEval/0", "HumanEval/2"]
    assert result["solutions"] == {"passed": 2, "failed": 1, "unchecked": 0}
    assert [(row["task_id"], row["verdict"]) for row in result["excluded"]] == [("HumanEval/1", "failed")]
    assert "1 problem whose own solution does not pass here: HumanEval/1 (failed" in " ".join(printed.split())


def test_problems_without_a_solution_are_counted(
    scored: Callable[..., tuple[dict[str, Any], str]], functions: list[dict[str, str]]
) -> None:
    without = {key: value for key, value in functions[0].items() if key != "canonical_solution"}
    result, printed = scored(without, *functions[1:])
    assert result["solutions"] == {"passed": 2, "failed": 0, "unchecked": 1}
    assert result["left_out"] == result["excluded"] == []
    assert "1 of 3 problems have no solution to check" in printed


@pytest.mark.parametrize("protocol", ["lm-eval", "bigcode"])
def test_humaneval_s_own_solution_fits_either_prompt(
    protocol: str, write_lines: Write, functions: list[dict[str, str]], tmp_path: Path
) -> None:
    row = functions[0] | {"prompt": "\n\n" + functions[0]["prompt"] + "    "}
    row["canonical_solution"] = row["canonical_solution"].lstrip()
    path = write_lines("he.jsonl", [row])
    recipe = Recipe.model_validate(
        {"evaluate": {"task": "humaneval", "data": str(path), "protocol": protocol}}
    )
    (problem,) = TASKS.create("humaneval", recipe).problems()
    assert check_solutions("humaneval", [problem], CONFIG, tmp_path).passed == 1


def test_tinycode_and_mbpp_bring_solutions(tmp_path: Path, write_lines: Write) -> None:
    tinycode = Recipe.model_validate(
        {"data": {"tinycode": {"train": 4, "curated": 0, "validation": 0, "test": 4}}}
    )
    row = {"task_id": 11, "text": "Add one.", "code": RIGHT, "test_list": ["assert f(1) == 2"]}
    settings = {"task": "mbpp", "protocol": "bigcode", "data": str(write_lines("mbpp.jsonl", [row]))}
    mbpp = Recipe.model_validate({"evaluate": settings})
    for name, recipe, count in (("tinycode", tinycode, 4), ("mbpp", mbpp, 1)):
        found = check_solutions(name, TASKS.create(name, recipe).problems(), CONFIG, tmp_path)
        assert (found.passed, found.unchecked) == (count, 0)
