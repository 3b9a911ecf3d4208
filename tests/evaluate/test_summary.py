"""From verdicts to numbers."""

import json

import pytest

from wmtp.evaluate.passk import n_at_k, pass_at_k
from wmtp.evaluate.samples import Key
from wmtp.evaluate.summary import Judged, summarise
from wmtp.evaluate.tasks import Problem
from wmtp.sandbox import Execution, Program, Verdict

P, F, T = Verdict.PASSED, Verdict.FAILED, Verdict.TIMEOUT


def problem(task_id: str, reference: str | None = None, **metadata: object) -> Problem:
    return Problem(task_id, "", lambda code: Program(task_id, code, ("f()",)), reference, metadata)


def judged(problems: list[Problem], verdicts: dict[float | None, list[list[Verdict]]]) -> Judged:
    """Verdicts by temperature, problem and sample."""
    executions = {
        Key(p.task_id, t, s): Execution(verdict, "", 0.0)
        for t, by_problem in verdicts.items()
        for p, own in zip(problems, by_problem, strict=True)
        for s, verdict in enumerate(own)
    }
    return Judged(problems, dict.fromkeys(executions, ""), executions)


def test_one_temperature() -> None:
    problems = [problem("a", family="list"), problem("b", family="string")]
    found = summarise(judged(problems, {0.2: [[P, F, F], [T, F, F]]}), {1: (0.2,), 2: (0.2,)})
    assert found["pass_at"]["1"]["value"] == pytest.approx(1 / 6)
    two = pass_at_k([3, 3], [1, 0], 2)
    assert found["pass_at"]["2"] == {"value": two.value, "stderr": two.stderr, "temperature": 0.2}
    assert found["verdicts"] == {"passed": 1, "failed": 4, "timeout": 1}
    assert found["by_problem"] == [
        {"task_id": "a", "samples": 3, "passed": 1, "verdict": "passed", "family": "list"},
        {"task_id": "b", "samples": 3, "passed": 0, "verdict": "timeout", "family": "string"},
    ]
    assert found["judged_inside"] == []
    assert not found.keys() & {"exact_match", "by_temperature", "n_at_k"}


def test_the_best_temperature_of_each_k_is_an_oracle_and_says_so() -> None:
    steady, daring = [[P, P], [F, F]], [[P, F], [P, F]]
    found = summarise(
        judged([problem("a"), problem("b")], {0.1: [[F, F], [F, F]], 0.2: steady, 0.8: daring}),
        {1: (0.1, 0.2), 2: (0.2, 0.8)},
    )
    assert found["pass_at"]["1"] == {"value": 0.5, "stderr": 0.5, "temperature": 0.2, "best_of": [0.1, 0.2]}
    assert found["pass_at"]["2"] == {"value": 1.0, "stderr": 0.0, "temperature": 0.8, "best_of": [0.2, 0.8]}
    assert [p["passed"] for p in found["by_problem"]] == [2, 0]
    assert found["by_temperature"]["0.8"] == {
        "1": {"value": 0.5, "stderr": 0.0},
        "2": {"value": 1.0, "stderr": 0.0},
    }
    assert sum(found["verdicts"].values()) == 12


def test_n_at_k_is_apart_from_pass_at_k() -> None:
    a = problem("a")
    outcomes = [(P, True), (F, True), (F, False), (T, None)]
    executions = {Key("a", 0.8, i): Execution(v, "", 0.0, public=p) for i, (v, p) in enumerate(outcomes)}
    found = summarise(
        Judged([a], dict.fromkeys(executions, ""), executions), {1: (0.8,), 4: (0.8,)}, submissions=(1, 10)
    )
    assert list(found["n_at_k"]) == ["1@4"]
    assert found["n_at_k"]["1@4"]["value"] == n_at_k([4], [2], [1], 1, 4).value == 0.5
    assert found["pass_at"]["4"]["value"] == 1.0
    assert found["pass_at"]["1"]["stderr"] is None
    json.dumps(found, allow_nan=False)


def test_uneven_numbers_of_samples_made_elsewhere() -> None:
    found = summarise(judged([problem("a"), problem("b")], {None: [[P, F, F, F], [P]]}), {1: (None,)})
    assert found["pass_at"]["1"]["value"] == pytest.approx((0.25 + 1) / 2)
    assert [p["samples"] for p in found["by_problem"]] == [4, 1]


def test_exact_match_is_the_share_of_samples_that_are_the_reference() -> None:
    problems = [problem("a", "def f():\n    return 1"), problem("b", "x = 2")]
    texts = [["def f(): return 1", "def f(): return 2"], ["x = 2  # two", "x=2"]]
    completions = {
        Key(p.task_id, 0.2, s): text
        for p, own in zip(problems, texts, strict=True)
        for s, text in enumerate(own)
    }
    executions = {key: Execution(F, "", 0.0) for key in completions}
    found = summarise(Judged(problems, completions, executions), {1: (0.2,)})
    assert found["exact_match"] == {"value": 0.75, "stderr": 0.25}


def test_exact_match_is_counted_where_the_smallest_k_is_best() -> None:
    one = problem("a", "x = 2")
    completions = {Key("a", 0.1, 0): "x = 2", Key("a", 0.2, 0): "x = 3", Key("a", 0.8, 0): "x = 2"}
    executions = {key: Execution(P if key.temperature == 0.2 else F, "", 0.0) for key in completions}
    found = summarise(Judged([one], completions, executions), {1: (0.1, 0.2, 0.8)})
    assert found["exact_match"]["value"] == 0.0
    assert found["pass_at"]["1"]["temperature"] == 0.2


def test_problems_judged_inside_are_named() -> None:
    problems = [problem("a"), problem("b")]
    executions = {
        Key("a", 0.0, 0): Execution(P, "", 0.0),
        Key("b", 0.0, 0): Execution(P, "", 0.0, inside=True),
    }
    found = summarise(Judged(problems, dict.fromkeys(executions, ""), executions), {1: (0.0,)})
    assert found["judged_inside"] == ["b"]


def test_problems_with_several_answers_are_named() -> None:
    problems = [problem("a"), problem("b", several_answers=True)]
    executions = {Key(task_id, 0.0, 0): Execution(P, "", 0.0) for task_id in ("a", "b")}
    found = summarise(Judged(problems, dict.fromkeys(executions, ""), executions), {1: (0.0,)})
    assert found["several_answers"] == ["b"]
    assert found["by_problem"][1]["several_answers"] is True
