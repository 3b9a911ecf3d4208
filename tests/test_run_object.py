"""A run, opened: what it holds is read when asked for, and verified as far as its use needs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from refusals import refusal
from wmtp.checkpoint.store import checkpoints, load_tensors, tensor_names, verify
from wmtp.cli.evaluation import generate
from wmtp.config import load
from wmtp.data.tokenizer import encode, load_tokenizer
from wmtp.evaluate.tasks import settings_of
from wmtp.run import Run
from wmtp.train.run import train

TINY = """
name: tiny
model: {hidden_size: 32, layers: 2, attention_heads: 2, heads: 3}
data:
  source: tinycode
  vocab_size: 300
  sequence_length: 256
  overlong: drop
  tinycode: {train: 40, validation: 4, test: 4, curated: 0, max_operations: 2, families: [list]}
train: {steps: 2, batch_size: 4, warmup_steps: 1, log_every: 1, validate_every: 2, save_every: 1}
"""
EVALUATION = {
    "task": "sums",
    "protocol": "own",
    "problems": 2,
    "samples_per_problem": 4,
    "pass_at": {"1": {"value": 0.625, "stderr": 0.1}},
    "by_problem": [
        {"task_id": "a", "samples": 4, "passed": 4, "verdict": "passed"},
        {"task_id": "b", "samples": 4, "passed": 1, "verdict": "failed"},
    ],
    "conditions": {"dtype": "float32"},
}
CRITIC = {
    "objective": "gae",
    "documents": 9,
    "held_out": 3,
    "steps": 30,
    "seconds": 1.5,
    "best_step": 20,
    "auc": 0.75,
    "explained_variance": None,
    "calibration": 0.1,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("original")
    (folder / "tiny.yaml").write_text(TINY)
    recipe, config = load(
        folder / "tiny.yaml", None, [f"paths.cache={folder}/cache", "devices={device: cpu, precision: fp32}"]
    )
    train(recipe, config, folder / "run")
    return Run(folder / "run", recipe, config)


@pytest.fixture
def trained(original: Run) -> Path:
    """A copy, to be changed."""
    shutil.copytree(original.directory, "run", symlinks=True)
    return Path("run")


def damage(checkpoint: Path, *, training: bool) -> str:
    """Change one byte of the state of training, or of the weights; returns the file's name in the checkpoint."""
    in_training = set((checkpoint / "training").rglob("*"))
    files = [path for path in checkpoint.rglob("*") if path.is_file() and (path in in_training) == training]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.relative_to(checkpoint).as_posix()


def test_a_run_is_what_lies_in_its_directory(trained: Path, original: Run) -> None:
    run = Run.open(trained)
    assert (run.directory, run.recipe, run.config) == (trained, original.recipe, original.config)
    assert [c.name for c in checkpoints(trained)] == ["step-00000001", "step-00000002"]
    assert run.checkpoint == checkpoints(trained)[-1]
    text = "def add(a, b): return a + b"
    assert encode(run.tokenizer, [text]) == encode(load_tokenizer(str(run.checkpoint)), [text])
    saved = {name: torch.empty(size) for name, size in tensor_names(run.checkpoint, "model").items()}
    load_tensors(run.checkpoint, "model", saved)
    found = dict(run.model.named_parameters())
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    assert run.model is run.model
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    for kind, records in (("train", run.metrics.train), ("validation", run.metrics.validation)):
        assert [r.ce for r in records] == [line["ce"] for line in lines if line["kind"] == kind]


def test_evaluations_and_critic_are_those_of_the_files(trained: Path) -> None:
    run = Run.open(trained)
    assert run.evaluations == []
    assert run.critic is None
    (trained / "evaluation-sums.json").write_text(json.dumps(EVALUATION))
    (trained / "evaluation-heads.json").write_text("{}")
    (trained / "critic").mkdir()
    (trained / "critic" / "critic.json").write_text(json.dumps(CRITIC))
    [found] = run.evaluations
    assert (found.task, found.pass_at["1"].value, found.pass_at_1) == ("sums", 0.625, 0.625)
    assert found.conditions == {"dtype": "float32"}
    assert run.critic is not None
    assert (run.critic.best_step, run.critic.auc) == (20, 0.75)


def test_overrides_and_another_environment_count_for_this_use_only(trained: Path) -> None:
    before = {name: (trained / name).read_bytes() for name in ("recipe.yaml", "config.yaml")}
    run = Run.open(trained, ["evaluate.max_new_tokens=7", "devices.threads=3"])
    assert settings_of(run.recipe.evaluate).max_new_tokens == 7
    assert run.config.devices.threads == 3
    assert run.config.paths.cache == Run.open(trained).config.paths.cache
    Path("other.yaml").write_text("paths: {cache: elsewhere}")
    assert Run.open(trained, config=Path("other.yaml")).config.paths.cache == "elsewhere"
    assert before == {name: (trained / name).read_bytes() for name in before}


def test_results_are_read_without_a_model(trained: Path) -> None:
    (trained / "evaluation-sums.json").write_text(json.dumps(EVALUATION))
    shutil.rmtree(trained / "checkpoints")
    program = (
        "import sys; from pathlib import Path; from wmtp.run import Run; run = Run.open(Path('run'))\n"
        "print(len(run.evaluations), len(run.metrics.train), run.critic, 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown == "1 2 None False\n"


def test_generation_does_not_read_the_state_of_training(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints(trained)[-1]
    name = damage(newest, training=True)
    assert refusal(verify, newest).startswith(f"{newest}: damaged: {name} is not what was saved")
    generate(trained, prompt="add 1 to 1: ", max_new_tokens=3)
    assert capsys.readouterr().out.startswith("add 1 to 1: ")


@pytest.mark.parametrize("use", ["model", "tokenizer"])
def test_damaged_weights_are_one_line(trained: Path, use: str) -> None:
    newest = checkpoints(trained)[-1]
    name = damage(newest, training=False)
    assert "model" in name
    expected = f"{newest}: damaged: {name} is not what was saved; take another checkpoint"
    assert refusal(getattr, Run.open(trained), use) == expected


def test_what_is_no_run_is_refused(trained: Path) -> None:
    def opened(path: Path, *overrides: Any) -> str:
        return refusal(Run.open, path, *overrides)

    assert opened(Path("gone")) == "gone: not a run directory (no recipe.yaml)"
    assert opened(checkpoints(trained)[-1]).endswith("step-00000002: not a run directory (no recipe.yaml)")
    assert "unknown key 'trian'" in opened(trained, ["trian.steps=3"])
    shutil.rmtree(trained / "checkpoints")
    (trained / "checkpoints").mkdir()
    assert refusal(getattr, Run.open(trained), "model") == "run 'run': the run has no checkpoint yet"
