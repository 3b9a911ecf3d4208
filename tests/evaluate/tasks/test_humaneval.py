"""HumanEval's problems."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS
from wmtp.evaluate.tasks.humaneval import STOPS
from wmtp.sandbox import Limits, Verdict, execute, execute_all

Write = Callable[[str, Sequence[Any]], Path]


def load(path: Path, **evaluate: Any) -> Any:
    recipe = Recipe.model_validate({"evaluate": {"task": "humaneval", "data": str(path), **evaluate}})
    return TASKS.create("humaneval", recipe)


def test_prompt_program_and_stops(write_lines: Write, functions: list[dict[str, str]]) -> None:
    path = write_lines("he.jsonl", functions)
    task = load(path)
    first = task.problems()[0]
    assert (first.task_id, first.prompt, task.stop) == ("HumanEval/0", functions[0]["prompt"], STOPS)
    assert first.program("    return 1\n").code == functions[0]["prompt"] + "    return 1\n"
    stripped = load(path, protocol="bigcode").problems()[0]
    assert stripped.prompt == functions[0]["prompt"].strip()
    assert execute(stripped.program("\n    return 2 * x"), Limits()).verdict is Verdict.PASSED
    assert execute(first.program("    return x + x\n"), Limits()).verdict is Verdict.PASSED
    assert execute(first.program("    return x * x\n"), Limits()).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"test": "assert True"}, r"line 2: 'test' should define check\(candidate\)"),
        ({"prompt": None}, "line 2: no field 'prompt'"),
        ({"task_id": "HumanEval/0"}, "line 2: id 'HumanEval/0' stands in .*he.jsonl, line 1 already"),
        ({"task_id": 3.5}, "line 2: 'task_id' should be there, a text or a whole number"),
        ({"entry_point": 1}, "line 2: 'entry_point' should be text, not int"),
    ],
)
def test_a_bad_row(
    write_lines: Write, functions: list[dict[str, str]], change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(WMTPError, match=expected):
        load(write_lines("he.jsonl", [functions[0], functions[1] | change]))


def test_without_the_file(write_lines: Write) -> None:
    with pytest.raises(
        WMTPError, match=r"evaluate\.data: task humaneval reads .* HumanEval\.jsonl\.gz of github"
    ):
        TASKS.create("humaneval", Recipe.model_validate({"evaluate": {"task": "humaneval"}}))
    with pytest.raises(WMTPError, match=r"evaluate\.data gone\.jsonl: no such file; download HumanEval"):
        load(Path("gone.jsonl"))
    with pytest.raises(WMTPError, match="has no rows"):
        load(write_lines("empty.jsonl", []))


@pytest.mark.slow
def test_every_canonical_solution_passes(published: Callable[[str], Path]) -> None:
    import json

    path = published("humaneval.jsonl")
    solutions = [json.loads(line)["canonical_solution"] for line in path.read_text().splitlines()]
    problems = load(path).problems()
    programs = [problem.program(code) for problem, code in zip(problems, solutions, strict=True)]
    verdicts = [execution.verdict for _, execution in execute_all(programs, Limits())]
    assert verdicts == [Verdict.PASSED] * 164


HELPED = {
    "task_id": "helped",
    "prompt": "import math\n\n\ndef halve(x):\n    return x / 2\n\n\n"
    'def double(x):\n    """The inverse of halve, which rounds down: use math."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    for x in range(3):\n        assert math.floor(halve(candidate(x))) == x\n",
}


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("    return 2 * x\n", Verdict.PASSED),
        ("    return math.floor(2 * halve(2 * x))\n", Verdict.PASSED),
        ("    return x\n", Verdict.FAILED),
        ("    return x\n\ndef halve(x):\n    return x\n", Verdict.FAILED),
        ("    return x\n\nhalve = abs\n", Verdict.FAILED),
        ("    return x\n\nclass math:\n    floor = staticmethod(lambda y: x)\n", Verdict.FAILED),
    ],
)
def test_the_prompts_helpers_are_the_prompts(write_lines: Write, completion: str, verdict: Verdict) -> None:
    program = load(write_lines("he.jsonl", [HELPED])).problems()[0].program(completion)
    assert execute(program, Limits()).verdict is verdict


FORGED = {
    "HumanEval/32": "    return 0.0\n\ndef poly(xs, x):\n    return 0\n",
    "HumanEval/38": "    return s\n\ndef encode_cyclic(s):\n    return s\n",
    "HumanEval/50": "    return s\n\ndef encode_shift(s):\n    return s\n",
}


def test_published_helpers_cannot_be_redefined(published: Callable[[str], Path]) -> None:
    problems = {problem.task_id: problem for problem in load(published("humaneval.jsonl")).problems()}
    rows = [json.loads(line) for line in published("humaneval.jsonl").read_text().splitlines()]
    solutions = {row["task_id"]: row["canonical_solution"] for row in rows}
    programs = [problems[task_id].program(code) for task_id, code in FORGED.items()]
    programs += [problems[task_id].program(solutions[task_id]) for task_id in FORGED]
    verdicts = {index: execution.verdict for index, execution in execute_all(programs, Limits())}
    assert [verdicts[i] for i in range(6)] == 3 * [Verdict.FAILED] + 3 * [Verdict.PASSED]
    with_helpers = [task_id for task_id, problem in problems.items() if problem.program("").setup]
    assert with_helpers == list(FORGED)


def test_an_entry_point_called_like_a_builtin(write_lines: Write) -> None:
    row = {
        "task_id": "s",
        "prompt": 'def sorted(xs):\n    """Sort."""\n',
        "entry_point": "sorted",
        "test": "def check(candidate):\n    assert candidate([2, 1]) == sorted([1, 2]) == [1, 2]\n",
    }
    problem = load(write_lines("he.jsonl", [row])).problems()[0]
    assert execute(problem.program("    return None"), Limits()).verdict is Verdict.FAILED
    assert execute(problem.program("    return [min(xs), max(xs)]"), Limits()).verdict is Verdict.PASSED


def test_tests_that_import_numpy(write_lines: Write) -> None:
    test = "import numpy as np\ndef check(candidate):\n    assert np.allclose(candidate(1), 2)\n"
    row = {"task_id": "n", "prompt": "def f(x):\n", "entry_point": "f", "test": test}
    problem = load(write_lines("he.jsonl", [row])).problems()[0]
    assert execute(problem.program("    return x + 1 + 1e-12"), Limits()).verdict is Verdict.PASSED
    assert execute(problem.program("    return x"), Limits()).verdict is Verdict.FAILED
    row["test"] = test.replace("numpy", "no_such_package")
    execution = execute(load(write_lines("he.jsonl", [row])).problems()[0].program("    return 2"), Limits())
    assert execution.verdict is Verdict.ERROR
    assert "the package 'no_such_package', which is not installed" in execution.message


def test_an_entry_point_that_is_a_method(write_lines: Write) -> None:
    row = {
        "task_id": "m",
        "prompt": "class Solution:\n    def double(self, x):\n",
        "entry_point": "Solution.double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(x=3) == 6\n",
    }
    problem = load(write_lines("he.jsonl", [row])).problems()[0]
    assert execute(problem.program("        return 2 * x"), Limits()).verdict is Verdict.PASSED
    assert execute(problem.program("        return 4"), Limits()).verdict is Verdict.FAILED
    assert execute(problem.program("        pass\nclass Solution: pass"), Limits()).verdict is Verdict.FAILED
    with pytest.raises(WMTPError, match="'entry_point' should name a function or a method, not 'f\\(\\)'"):
        load(write_lines("bad.jsonl", [row | {"entry_point": "f()"}])).problems()
