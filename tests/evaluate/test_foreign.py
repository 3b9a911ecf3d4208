"""Completions made elsewhere, through the command line."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wmtp.cli import main
from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate import judging
from wmtp.evaluate.foreign import evaluate_samples

Write = Callable[[str, Sequence[Any]], Path]
Score = Callable[..., str]


@pytest.fixture
def score(
    write_lines: Write,
    functions: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Score:
    """`wmtp evaluate --samples s.jsonl --task humaneval …`; what it printed."""
    write_lines("he.jsonl", functions)

    def command(rows: Sequence[Any], *words: str, status: int = 0, consent: bool = True) -> str:
        write_lines("s.jsonl", rows)
        line = [
            "wmtp",
            "evaluate",
            "--samples",
            "s.jsonl",
            "--task",
            "humaneval",
            "evaluate.data=he.jsonl",
            *words,
        ]
        monkeypatch.setattr(sys, "argv", line + (["--allow-code-execution"] if consent else []))
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert (left.value.code or 0) == status, printed.err
        return printed.out if status == 0 else printed.err

    return command


def canonical(functions: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"task_id": f["task_id"], "completion": f["canonical_solution"]} for f in functions]


def test_right_and_wrong_completions(score: Score, functions: list[dict[str, str]]) -> None:
    rows = [*canonical(functions), {"task_id": "HumanEval/1", "completion": "    return x\n", "model": "m"}]
    printed = score(rows)
    assert "0.833 ± 0.167" in printed
    assert "3 × 1 to 2" in printed
    found = [json.loads(line) for line in Path("s.jsonl_results.jsonl").read_text().splitlines()]
    assert [(x["task_id"], x["completion"]) for x in found] == [(r["task_id"], r["completion"]) for r in rows]
    assert [x["passed"] for x in found] == [True, True, True, False]
    assert found[3]["result"].startswith("failed: ")
    result = json.loads(Path("s.jsonl_evaluation.json").read_text())
    assert result["pass_at"] == {
        "1": {"value": pytest.approx(5 / 6), "stderr": pytest.approx(1 / 6), "temperature": None}
    }
    assert result["verdicts"] == {"passed": 3, "failed": 1}
    assert result["protocol"] == "samples made elsewhere (programs as of lm-eval)"
    assert [p["samples"] for p in result["by_problem"]] == [1, 2, 1]


def test_code_is_taken_out_of_answers_only_where_that_is_asked_for(
    score: Score, functions: list[dict[str, str]]
) -> None:
    answers = [
        {
            "task_id": f["task_id"],
            "completion": f"Sure:\n```python\n{f['prompt']}{f['canonical_solution']}```\n",
        }
        for f in functions
    ]
    printed = " ".join(score(answers).split())
    assert "0.000 ± 0.000" in printed
    assert "3 of 3 samples, most of them; try evaluate.extraction=fenced, evaluate.chat=true" in printed
    result = json.loads(Path("s.jsonl_evaluation.json").read_text())
    assert (result["extraction"], result["syntax_errors"], result["stops"]) == ("none", 3, {})
    printed = score(answers, "evaluate.extraction=fenced")
    assert "1.000 ± 0.000" in printed
    assert "syntax errors" not in printed
    result = json.loads(Path("s.jsonl_evaluation.json").read_text())
    assert (result["extraction"], result["syntax_errors"], result["remedies"]) == ("fenced", 0, [])
    found = [json.loads(line) for line in Path("s.jsonl_results.jsonl").read_text().splitlines()]
    assert [line["completion"] for line in found] == [answer["completion"] for answer in answers]
    assert "0.000 ± 0.000" in score(answers)
    assert "1.000 ± 0.000" in score(answers, "evaluate.protocol=chat")
    assert "evaluate.chat: says how to generate" in score(answers, "evaluate.chat=true", status=2)


def test_results_can_be_scored_again(
    score: Score, functions: list[dict[str, str]], write_lines: Write
) -> None:
    score(canonical(functions))
    results = [json.loads(line) for line in Path("s.jsonl_results.jsonl").read_text().splitlines()]
    assert "1.000 ± 0.000" in score(results)


def test_k_is_what_the_samples_allow_or_what_is_asked_for(
    score: Score, functions: list[dict[str, str]]
) -> None:
    rows = canonical(functions) * 3
    few = score(rows[:-1], "--k", "1,4", status=2)
    assert few == "wmtp: --k 4: s.jsonl has 2 samples of HumanEval/2; k can be 2 at most\n"
    assert not Path("s.jsonl_evaluation.json").exists()
    assert "pass@2" in score(rows, "--k", "1,2", "evaluate.limit=1")
    assert "--k 1,x: should be whole numbers from 1" in score(rows, "--k", "1,x", status=2)


def test_a_short_evaluation_keeps_the_full_one_and_says_what_was_changed(
    score: Score, functions: list[dict[str, str]]
) -> None:
    printed = score(canonical(functions))
    assert "results: s.jsonl_results.jsonl, s.jsonl_evaluation.json" in printed
    assert "next: wmtp evaluate RUN --task humaneval evaluate.data=he.jsonl --allow-code-execution" in printed
    full = Path("s.jsonl_evaluation.json").read_bytes()
    assert "programs as of lm-eval (changed: limit=1)" in score(canonical(functions), "evaluate.limit=1")
    assert Path("s.jsonl_evaluation.json.old-1").read_bytes() == full
    assert len(Path("s.jsonl_results.jsonl.old-1").read_text().splitlines()) == 3


def test_the_protocols_program(score: Score, functions: list[dict[str, str]]) -> None:
    rows = [{"task_id": f["task_id"], "completion": "\n" + f["canonical_solution"]} for f in functions]
    assert "programs as of bigcode" in score(rows, "evaluate.protocol=bigcode")


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        (lambda rows: rows[:-1], (), "1 of 3 problems have no completion, the first of them 'HumanEval/2'"),
        (
            lambda rows: [*rows, {"task_id": "x", "completion": ""}],
            (),
            "s.jsonl, line 4: unknown task_id 'x'",
        ),
        (lambda _: [{"task_id": "HumanEval/0"}], (), "s.jsonl, line 1: 'completion' should be there"),
        (lambda rows: rows, ("evaluate.top_p=0.3",), "evaluate.top_p: says how to generate"),
        (lambda rows: rows, ("evaluate.data=gone.jsonl",), "evaluate.data gone.jsonl: no such file"),
        (lambda rows: rows, ("evaluate.data=.",), "evaluate.data .: is a directory"),
        (lambda rows: rows, ("evaluate.data=/dev/null",), "/dev/null: is not a regular file: save it first"),
    ],
)
def test_a_mistake_is_one_line(
    score: Score, functions: list[dict[str, str]], change: Any, words: tuple[str, ...], expected: str
) -> None:
    printed = score(change(canonical(functions)), *words, status=2)
    assert expected in printed
    assert printed.count("\n") == 1


def test_consent(score: Score, functions: list[dict[str, str]]) -> None:
    assert "evaluate.allow_code_execution" in score(canonical(functions), consent=False, status=2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "run", "--k", "1"], "--k: only valid with --samples"),
        (["evaluate"], "evaluate: name a run, or a file of completions with --samples"),
        (["evaluate", "--samples", "s.jsonl"], "--samples: name the task of the completions"),
        (
            ["evaluate", "run", "--samples", "s.jsonl", "--task", "mbpp"],
            "--samples: takes no run (run)",
        ),
        (["evaluate", "--samples", "gone.jsonl", "--task", "humanevl"], "did you mean 'humaneval'"),
    ],
)
def test_words_that_do_not_go_together(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wmtp", *words, "--allow-code-execution"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert expected in capsys.readouterr().err


def test_stopped_and_repeated(
    write_lines: Write, functions: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines("s.jsonl", canonical(functions) * 2)
    data = write_lines("he.jsonl", functions)
    recipe = Recipe.model_validate(
        {"evaluate": {"task": "humaneval", "data": str(data), "allow_code_execution": True, "workers": 1}}
    )
    real, executed = judging.execute_all, 0

    def counting(programs: Any, *rest: Any) -> Any:
        nonlocal executed
        for found in real(programs, *rest):
            executed += 1
            yield found
            if executed == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(judging, "execute_all", counting)
    with pytest.raises(KeyboardInterrupt):
        evaluate_samples(path, recipe, path.parent)
    result = evaluate_samples(path, recipe, path.parent)
    assert executed == 6
    assert result["verdicts"] == {"passed": 6}


def test_a_task_without_problems(write_lines: Write) -> None:
    path = write_lines("s.jsonl", [{"task_id": "a", "completion": ""}])
    sizes = {"train": 1, "validation": 1, "test": 0, "curated": 0}
    recipe = Recipe.model_validate(
        {"data": {"tinycode": sizes}, "evaluate": {"task": "tinycode", "allow_code_execution": True}}
    )
    with pytest.raises(WMTPError, match=r"^evaluate\.task tinycode: has no problems$"):
        evaluate_samples(path, recipe, path.parent, None)
