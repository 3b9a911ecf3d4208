"""`wmtp evaluate` with --heads, --speed and --lm-eval, as a stranger uses it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from wmtp.cli import main
from wmtp.train.run import train

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wmtp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Status, output and error output of a command line."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wmtp", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def run(make_recipe: Callable[..., Any], config: Any) -> str:
    recipe = make_recipe(
        **{
            "data.source": "tinycode",
            "data.tinycode": {"train": 40, "validation": 6, "test": 4, "curated": 5},
            "data.overlong": "drop",
            "data.sequence_length": 256,
            "train.steps": 2,
            "evaluate.max_new_tokens": 8,
            "evaluate.limit": 2,
        }
    )
    train(recipe, config, Path("run"), "never")
    return "run"


def test_heads_and_speed_are_measured_and_shown(wmtp: Command, run: str) -> None:
    status, shown, _ = wmtp("evaluate", run, "--heads", "--speed", "--batch-sizes", "1,2", "--repeats", "1")
    assert status == 0
    heads = json.loads(Path(run, "evaluation-heads.json").read_text())
    for head in heads["heads"]:
        assert f"{head['top_1']:.4f}" in shown
        assert f"{head['perplexity']:,.3f}" in shown
    speed = json.loads(Path(run, "evaluation-speed.json").read_text())
    assert [(own["batch_size"], own["heads"]) for own in speed["measured"]] == [
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3),
    ]
    for own in speed["measured"]:
        assert f"{own['ratio']:.2f} (" in shown
        assert own["same_as_greedy"] == speed["prompts"] == 2
        assert len(own["seconds"]) == len(own["greedy_seconds"]) == 1
    assert (speed["task"], speed["checkpoint"]) == ("tinycode", "step-00000002")
    assert not Path(run, "evaluation-tinycode.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heads", "--repeats", "2"], "--batch-sizes and --repeats: only valid with --speed"),
        (["--speed", "--batch-sizes", "4,no"], "--batch-sizes 4,no: should be whole numbers from 1"),
        (["--speed", "--batch-sizes", "0"], "--batch-sizes 0: should be whole numbers from 1"),
        (
            ["--speed", "--samples", "a.jsonl"],
            "--samples: cannot be combined with --heads, --speed or --lm-eval",
        ),
    ],
)
def test_mistakes_are_one_line(wmtp: Command, tmp_path: Path, options: list[str], message: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: run\n")
    (folder / "config.yaml").write_text("{}\n")
    status, _, errors = wmtp("evaluate", str(folder), *options)
    assert status == 2
    assert errors.startswith(f"wmtp: {message}")
    assert errors.count("\n") == 1


def test_a_missing_harness_is_named(wmtp: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: run\n")
    (folder / "config.yaml").write_text("{}\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    status, _, errors = wmtp("evaluate", str(folder), "--lm-eval", "gsm8k")
    assert (status, errors) == (2, "wmtp: --lm-eval: lm_eval is not installed; pip install 'wmtp[lm-eval]'\n")


@pytest.mark.slow
def test_the_harness_runs_a_task_of_a_file(
    wmtp: Command, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    registry = pytest.importorskip("lm_eval.api.registry")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = [{"text": "Write a function", "choices": ["(a)", "(b)"], "answer": i % 2} for i in range(5)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(Path("rows.jsonl").absolute())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 7.0},
    }
    Path("toy.yaml").write_text(yaml.safe_dump(task))
    status, shown, _ = wmtp("evaluate", run, "--lm-eval", "toy.yaml", "evaluate.limit=4")
    assert status == 0
    found = json.loads(Path(run, "evaluation-lm-eval.json").read_text())
    assert (found["tasks"]["toy"]["version"], found["tasks"]["toy"]["samples"]) == (7.0, 4)
    (accuracy,) = found["tasks"]["toy"]["metrics"]
    assert accuracy["value"] == 0.5
    assert "0.5000" in shown
    assert f"lm-eval {found['lm_eval']}" in shown

    backend = registry.get_model("wmtp").create_from_arg_string(f"run={run},seed=3", {"batch_size": 2})
    assert (backend.batch_size, backend.seed) == (2, 3)
    assert backend.loglikelihood_rolling([SimpleNamespace(args=("def f",))])[0] < 0
