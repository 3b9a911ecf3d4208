"""HumanEval's problems."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import CODE_STOPS
from wmtp.evaluate.sandbox import Limits, Verdict, execute, execute_all
from wmtp.evaluate.tasks import TASKS

Write = Callable[[str, Sequence[Any]], Path]


def load(path: Path, **evaluate: Any) -> Any:
    recipe = Recipe.model_validate({"evaluate": {"task": "humaneval", "data": str(path), **evaluate}})
    return TASKS.create("humaneval", recipe)


def test_prompt_program_and_stops(write_lines: Write, functions: list[dict[str, str]]) -> None:
    path = write_lines("he.jsonl", functions)
    task = load(path)
    first = task.problems()[0]
    assert (first.task_id, first.prompt, task.stop) == ("HumanEval/0", functions[0]["prompt"], CODE_STOPS)
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
