"""The command line as a stranger uses it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from wmtp.cli import main
from wmtp.config import load, to_yaml

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a command printed."""

    stdout: str
    stderr: str


Wmtp = Callable[..., Outcome]


@pytest.fixture
def wmtp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Wmtp:
    """Runs the command line as `wmtp …` would, in this process; its status must be `status`."""

    def run(*arguments: str, status: int = 0) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["wmtp", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = Outcome(*capsys.readouterr())
        assert (left.value.code or 0) == status, printed.stderr
        return printed

    return run


def test_help_lists_every_command_without_torch() -> None:
    code = """
import sys, wmtp.cli
try: wmtp.cli.app(["--help"])
except SystemExit: sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    listed = "train score evaluate generate compare report inspect export mlflow register ls env"
    for command in listed.split():
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "demoo"], "recipe 'demoo': no such file or shipped recipe; did you mean 'demo'?"),
        (["train", "demo", "train.stepz=3"], "unknown key 'train.stepz'; did you mean 'steps'?"),
        (["train", "demo", "--config", "gone.yaml"], "gone.yaml: no such file"),
        (["train", "demo", "--max-restarts", "2"], "--max-restarts: goes with --nproc"),
        (
            ["train", "demo", "devices.mesh={replicate: 2, shard: 2}"],
            "devices.mesh: one process cannot shard",
        ),
        (
            ["train", "demo", "devices.parallel=ddp", "devices.cpu_offload=true"],
            "cpu_offload shards the model; it goes with parallel fsdp or auto, not ddp",
        ),
        (["export", "gone"], "gone: no such run directory"),
        (["mlflow", "gone"], "gone: not a run directory"),
        (["compare", "demo", "--arms", "uniform,rho2"], "unknown arm 'rho2'; did you mean 'rho1'?"),
        (["compare", "demo", "--seeds", "x"], "--seeds x: should be a number of seeds, or seeds like 0,1,7"),
        (
            ["compare", "demo", "evaluate.allow_code_execution=false"],
            "evaluate.allow_code_execution: evaluating",
        ),
        (["report", "gone"], "gone: no such run directory"),
        (["evaluate", "gone"], "gone: not a run directory (no recipe.yaml)"),
        (["ls", "scorer"], "ls: nothing is called 'scorer'; did you mean 'scorers' or 'sources'?"),
        (["score", "demo"], "score: name the reference with --model, or set model.ref_id in the recipe"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], expected: str, wmtp: Wmtp) -> None:
    done = wmtp(*arguments, status=2)
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("wmtp: ")


def test_every_shipped_recipe_loads_and_reads_back(tmp_path: Path) -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        recipe, _ = load(path)
        (tmp_path / "again.yaml").write_text(to_yaml(recipe))
        assert load(tmp_path / "again.yaml")[0] == recipe
        if recipe.compare.arms:
            from wmtp.experiment.compare import choose_arms

            assert choose_arms(recipe, None)


def test_ls_and_env(wmtp: Wmtp) -> None:
    listed = wmtp("ls").stdout
    for name in (
        "rho1-excess-v1",
        "uniform",
        "shuffled",
        "matched-random",
        "tinycode",
        "python-source",
        "demo",
    ):
        assert f"  {name} " in listed
    assert "torch: 2" in wmtp("env").stdout


def test_dry_run_prints_the_resolved_files_and_the_plan(wmtp: Wmtp, tmp_path: Path) -> None:
    small = ["data.tinycode.train=60", "data.tinycode.curated=10"]
    printed = wmtp("train", "demo", *small, "--dry-run").stdout
    assert "# recipe.yaml" in printed
    assert "train: 60" in printed
    assert "# config.yaml" in printed
    assert "parameters" in printed
    assert not (tmp_path / "runs").exists()


def test_train_evaluate_generate_inspect_report(wmtp: Wmtp, tmp_path: Path) -> None:
    """One tiny tinycode run through every command that takes a run."""
    recipe, _ = load(
        None,
        None,
        [
            "name=tiny",
            "data.tinycode={train: 80, validation: 8, test: 5, curated: 10, max_operations: 2, families: [list]}",
            "data.vocab_size=300",
            "data.overlong=drop",
            "model={hidden_size: 32, layers: 2, attention_heads: 2, heads: 3}",
            "train={steps: 3, batch_size: 4, warmup_steps: 1}",
            "evaluate.max_new_tokens=12",
        ],
    )
    (tmp_path / "tiny.yaml").write_text(to_yaml(recipe))
    trained = wmtp("train", "tiny.yaml", "devices.device=cpu")
    assert "next: wmtp evaluate runs/tiny --allow-code-execution" in trained.stdout
    assert "continue it with --resume auto" in wmtp("train", "tiny.yaml", status=2).stderr
    refused = wmtp("evaluate", "runs/tiny", status=2)
    assert "--allow-code-execution" in refused.stderr
    evaluated = wmtp("evaluate", "runs/tiny", "--allow-code-execution")
    assert "pass@1" in evaluated.stdout
    assert (tmp_path / "runs/tiny/samples/tinycode.jsonl").read_text().count("\n") == 5
    assert "tokens per forward" in wmtp("generate", "runs/tiny", "--problem", "0").stdout
    sampled = wmtp("generate", "runs/tiny", "--prompt", "# x\n", "--temperature", "1")
    assert sampled.stdout.startswith("# x")
    assert "either --prompt TEXT or --problem NUMBER" in wmtp("generate", "runs/tiny", status=2).stderr
    assert "weight" in wmtp("inspect", "runs/tiny", "--html", "w.html").stdout
    assert "<html" in (tmp_path / "w.html").read_text()
    assert "def" in wmtp("inspect", "runs/tiny", "--text", "def f(x): return x").stdout
    scored = wmtp("score", "tiny.yaml", "--model", "runs/tiny", "--output", "s")
    assert "scored" in scored.stdout
    weighted = ["train.algo=rho1-wmtp", "data.reference_scores=s", "model.ref_id=runs/tiny", "name=weighted"]
    wmtp("train", "tiny.yaml", *weighted)
    wmtp("inspect", "runs/weighted", "--text", "def f(x): return x")
    assert (tmp_path / wmtp("report", "runs/tiny").stdout.strip()).exists()
