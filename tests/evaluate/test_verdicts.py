"""When verdicts are made anew, and what programs may use."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.config import EvaluateConfig
from wmtp.evaluate import judging
from wmtp.evaluate.judging import judge_samples, sandbox_limits, verdict_origin
from wmtp.evaluate.samples import Key, Origin, SampleFile
from wmtp.evaluate.tasks import Problem
from wmtp.sandbox import Execution, Limits, Program, Verdict

TESTS = ("assert f(1) == 1",)
ORDER = [Key("p", 0.5, sample) for sample in range(3)]


def evaluate(path: Path, tests: Sequence[str] = TESTS, setup: str = "", **settings: Any) -> list[str]:
    """Judge three samples of one problem; returns what was said."""
    said: list[str] = []
    problems = [Problem("p", "", lambda code: Program("p", code, tuple(tests), setup))]
    config = EvaluateConfig.model_validate(settings)
    with SampleFile(path, Origin({"seed": 1}, verdict_origin(problems, config)), said.append) as file:
        for key in ORDER:
            file.add(key, f"def f(x): return {key.sample}")
        judge_samples(file, problems, ORDER, config)
        file.finish(ORDER)
    return said


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were given to the sandbox, all of which pass, at a level that is not this machine's."""
    codes: list[str] = []

    def passing(programs: Any, *_: Any) -> Any:
        for index, program in enumerate(programs):
            codes.append(program.code)
            yield index, Execution(Verdict.PASSED, "", 0.0)

    monkeypatch.setattr(judging, "execute_all", passing)
    monkeypatch.setattr(judging, "describe", lambda sandbox: {"level": f"level of {sandbox}"})
    return codes


def test_verdicts_are_kept_under_the_same_conditions(executed: list[str], tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    assert evaluate(path) == []
    assert len(executed) == 3
    assert evaluate(path, workers=3, batch_size=7) == []
    assert len(executed) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"tests": ("assert f(1) == 2",)},
        {"tests": (*TESTS, *TESTS)},
        {"setup": "import math"},
        {"cpu_seconds": 4},
        {"wall_seconds": 31},
        {"memory_mib": 513},
        {"sandbox": "strict"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_verdicts_of_other_conditions_are_made_anew(
    executed: list[str], tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = tmp_path / "s.jsonl"
    evaluate(path)
    whole = path.read_text()
    (line,) = evaluate(path, **changed)
    assert line.endswith("judged under other conditions; the completions are judged again")
    assert executed == executed[:3] * 2
    assert path.read_text() == whole
    assert evaluate(path, **changed) == []


@pytest.mark.parametrize(
    ("changed", "other"), [("__version__", "0.0.9"), ("platform.python_version", lambda: "4.0")]
)
def test_verdicts_of_another_version_or_python_are_made_anew(
    executed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, other: Any
) -> None:
    path = tmp_path / "s.jsonl"
    evaluate(path)
    monkeypatch.setattr(f"wmtp.evaluate.judging.{changed}", other)
    (line,) = evaluate(path)
    assert line.endswith("judged under other conditions; the completions are judged again")
    assert len(executed) == 6


def test_what_verdicts_depend_on_can_be_written_down() -> None:
    problems = [Problem("p", "", lambda code: Program("p", code, TESTS))]
    origin = verdict_origin(problems, EvaluateConfig())
    assert json.loads(json.dumps(origin)) == origin


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("codecontests", {"cpu_seconds": 10, "wall_seconds": 60, "memory_mib": 1024, "processes": 1}),
        ("mbpp", {"cpu_seconds": 6, "wall_seconds": 30, "memory_mib": 512, "processes": 0}),
    ],
)
def test_a_program_may_use_what_the_protocol_says(task: str, expected: dict[str, int]) -> None:
    found = dataclasses.asdict(sandbox_limits(EvaluateConfig(task=task)))
    assert found == dataclasses.asdict(Limits()) | expected


def test_a_program_may_use_what_the_recipe_says() -> None:
    config = EvaluateConfig(task="codecontests", cpu_seconds=2.5, wall_seconds=7, memory_mib=99)
    found = sandbox_limits(config)
    assert (found.cpu_seconds, found.wall_seconds, found.memory_mib) == (2.5, 7, 99)
