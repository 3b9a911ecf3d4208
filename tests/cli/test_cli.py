"""The command line as a stranger uses it."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from wmtp.cli import main
from wmtp.config import load, to_yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a command printed."""

    stdout: str
    stderr: str


Wmtp = Callable[..., Outcome]

TINY = [
    "name=tiny",
    "data.tinycode={train: 80, validation: 8, test: 5, curated: 10, max_operations: 2, families: [list]}",
    "data.vocab_size=300",
    "data.overlong=drop",
    "model={hidden_size: 32, layers: 2, attention_heads: 2, heads: 3}",
    "train={steps: 3, batch_size: 4, warmup_steps: 1}",
    "evaluate.max_new_tokens=12",
]


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
        (["train", "demo", "--max-restarts", "2"], "--max-restarts: only valid with --nproc"),
        (
            ["train", "demo", "--nproc", "2", "--max-restarts", "2", "--resume", "step-5"],
            "--max-restarts: goes with --resume auto; with step-5 every restart would begin there again",
        ),
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
        *(
            (
                ["compare", "demo", "evaluate.allow_code_execution=true", "--seeds", seeds],
                f"--seeds {seeds}: should be a number of seeds from 1, or seeds like 0,1,7",
            )
            for seeds in ("x", "0", "-1", "0,0", "0,", "0,-1", "")
        ),
        (["compare", "demo", "compare.seeds=[]"], "compare.seeds: list should have at least 1 item"),
        (["compare", "demo", "compare.seeds=[1,1]"], "compare.seeds: should be different seeds, not [1, 1]"),
        (
            ["compare", "demo", "evaluate.allow_code_execution=false"],
            "evaluate.allow_code_execution: evaluating",
        ),
        (["report", "gone"], "gone: no such run directory"),
        (["score", "gone", "--diagnose"], "gone: not a run directory"),
        (["score", "demo", "--scorers", "uniform"], "--scorers: only valid with --diagnose"),
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


@pytest.mark.parametrize(("chosen", "expected"), [(None, "PASSIVE"), ("GOMP_SPINCOUNT", None)])
def test_threads_do_not_spin_unless_the_user_chose(
    chosen: str | None, expected: str | None, wmtp: Wmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "7")  # so that what `main` sets is taken back
        monkeypatch.delenv(name)
    if chosen is not None:
        monkeypatch.setenv(chosen, "7")
    wmtp("--help")
    assert os.environ.get("OMP_WAIT_POLICY") == expected


def test_a_terminal_without_unicode_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["wmtp", "--help"])
    with pytest.raises(SystemExit):
        main()
    print("· λ", flush=True)
    assert written.getvalue().endswith(b"\\xb7 \\u03bb\n")


def test_ctrl_c_is_told_in_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow.yaml")
    command = [sys.executable, "-m", "wmtp", "train", "demo", "--config", "slow.yaml", "--dry-run"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    opened = None
    while opened is None and started.poll() is None:
        with suppress(OSError):  # nobody reads it yet
            opened = os.open("slow.yaml", os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert opened is not None, said
    os.close(opened)
    assert (started.returncode, said) == (130, "stopped\n")


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


def test_ls_scorers_has_a_line_for_each(wmtp: Wmtp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plug-in that says nothing of itself, or is broken, does not get in the way of the others."""
    from importlib.metadata import EntryPoint

    from wmtp import registry

    plugged = [
        EntryPoint("silent", "collections:namedtuple", "wmtp.scorers"),
        EntryPoint("broken", "broken_plug:Scorer", "wmtp.scorers"),
    ]
    (tmp_path / "broken_plug.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: plugged if group == "wmtp.scorers" else [])
    heading, *lines = wmtp("ls", "scorers").stdout.splitlines()
    assert heading == "scorers:"
    listed = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert list(listed) == [
        "uniform",
        "rho1-excess-v1",
        "critic-delta-v1",
        "critic-gae-v1",
        "entropy-v1",
        "grad-norm-v1",
        "grpo-v1",
        "learned-v1",
        "blend",
        "silent",
        "broken",
    ]
    assert all(about.endswith(".") for name, about in listed.items() if name not in ("silent", "broken"))
    assert listed["entropy-v1"].endswith(" Settings: {prefer: high}.")
    assert listed["learned-v1"].endswith(
        " Settings: {clean: {curated: true}, rows: 4, hidden: 16, lr: 0.01}."
    )
    broken = "scorer 'broken_plug:Scorer' cannot be loaded: RuntimeError: two lines"
    assert listed["broken"] == broken


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
    recipe, _ = load(None, None, TINY)
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
    beyond = wmtp("generate", "runs/tiny", "--problem", "5", status=2).stderr
    assert "--problem 5: task 'tinycode' has the problems 0 to 4" in beyond
    read = subprocess.run(
        [sys.executable, "-m", "wmtp", "generate", "runs/tiny", "--prompt", "-"],
        input="# y\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout.startswith("# y\n")
    strange = wmtp("generate", "runs/tiny", "--prompt", "\udce9", status=2).stderr
    assert strange == "wmtp: --prompt: should be text in UTF-8\n"
    for option in ("heads", "speed"):
        file = tmp_path / f"runs/tiny/evaluation-{option}.json"
        file.mkdir()
        unwritable = wmtp("evaluate", "runs/tiny", f"--{option}", status=2).stderr
        assert unwritable == f"wmtp: runs/tiny/{file.name}: cannot be written: Is a directory\n"
        file.rmdir()
    assert "next: wmtp report runs/tiny" in wmtp("evaluate", "runs/tiny", "--heads").stdout
    again = wmtp("evaluate", "runs/tiny", "--allow-code-execution", "evaluate.limit=2")
    assert (
        "set aside: tinycode.jsonl.old-1, tinycode.json.old-1, evaluation-tinycode.json.old-1" in again.stderr
    )
    assert json.loads((tmp_path / "runs/tiny/evaluation-tinycode.json").read_text())["problems"] == 2
    kept = json.loads((tmp_path / "runs/tiny/evaluation-tinycode.json.old-1").read_text())
    assert kept["problems"] == 5
    (tmp_path / "folder").mkdir()
    unwritable = wmtp("inspect", "runs/tiny", "--html", "folder", status=2).stderr
    assert unwritable == "wmtp: folder: cannot be written: Is a directory\n"
    shutil.rmtree(tmp_path / "runs/tiny/samples")
    (tmp_path / "runs/tiny/samples").touch()
    unwritable = wmtp("evaluate", "runs/tiny", "--allow-code-execution", status=2).stderr
    assert "samples/tinycode.jsonl: cannot be written: " in unwritable
    assert "weight" in wmtp("inspect", "runs/tiny", "--html", "w.html").stdout
    assert "<html" in (tmp_path / "w.html").read_text()
    assert "def" in wmtp("inspect", "runs/tiny", "--text", "def f(x): return x").stdout
    scored = wmtp("score", "tiny.yaml", "--model", "runs/tiny", "--output", "s")
    assert "scored" in scored.stdout
    weighted = ["train.algo=rho1-wmtp", "data.reference_scores=s", "model.ref_id=runs/tiny", "name=weighted"]
    wmtp("train", "tiny.yaml", *weighted)
    wmtp("inspect", "runs/weighted", "--text", "def f(x): return x")
    wrong = "override scorer.excess=sined: scorer.excess: input should be 'signed', 'absolute' or 'relative'"
    dry = ("train", "runs/weighted/recipe.yaml", "--dry-run")
    for words in (("evaluate", "runs/weighted"), ("inspect", "runs/weighted"), ("compare", "demo"), dry):
        chosen = ["scorer=rho1-excess-v1"] if words[1] == "demo" else []
        assert (
            wmtp(*words, *chosen, "scorer.excess=sined", status=2).stderr == f"wmtp: {wrong}, not 'sined'\n"
        )
    reported = wmtp("report", "runs/tiny").stdout.splitlines()
    assert (tmp_path / reported[0]).exists()
    assert reported[1] == "next: wmtp inspect runs/tiny --html weights.html"


def test_a_critic_run_from_plan_to_report(wmtp: Wmtp, tmp_path: Path) -> None:
    """Both stages, and what the scorers make of its tokens."""
    recipe, _ = load(None, None, [*TINY, "train.algo=critic-wmtp"])
    (tmp_path / "tiny.yaml").write_text(to_yaml(recipe))
    assert "# recipe.yaml" in wmtp("train", "tiny.yaml", "--dry-run").stdout
    assert not (tmp_path / "runs").exists()

    trained = wmtp("train", "tiny.yaml").stdout
    found = json.loads((tmp_path / "runs/tiny/critic/critic.json").read_text())
    assert f"gae, AUC {found['auc']:.3f} on {found['held_out']} held-out documents" in trained
    assert f"{found['best_step']} of 3, {found['seconds']:.1f} training seconds" in trained
    page = (tmp_path / wmtp("report", "runs/tiny").stdout.splitlines()[0]).read_text()
    assert "<h2>Critic</h2>" in page

    for scorer in ("entropy-v1", "grad-norm-v1", "critic-delta-v1"):
        shown = wmtp("inspect", "runs/tiny", "--scorer", scorer, "--sample", "2", "--html", f"{scorer}.html")
        assert "def " in shown.stdout
        weights = re.findall(r'title="weight ([\d.]+)', (tmp_path / f"{scorer}.html").read_text())
        assert len(weights) > 10
        assert len(set(weights)) > 1, scorer

    shown = wmtp("inspect", "runs/tiny", "--scorer", "critic-delta-v1", "--text", "def f(x): return x")
    assert "def f(x)" in shown.stdout
    refused = wmtp("inspect", "runs/tiny", "--scorer", "critic-gae-v1", "--text", "x", status=2)
    assert "reads what is known of training rows; name one of them with --sample" in refused.stderr

    diagnosed = wmtp("score", "runs/tiny", "--diagnose")
    lines = diagnosed.stdout.splitlines()
    assert lines[0].split("  ")[0] == "scorer"
    assert [line[:19].strip() for line in lines[1:3]] == ["1 critic-delta-v1", "2 critic-gae-v1"]
    assert "could not run: grpo-v1: grpo-v1 needs several completions per prompt" in diagnosed.stdout
    assert "next: wmtp inspect runs/tiny --scorer critic-delta-v1" in diagnosed.stdout
    assert (tmp_path / "runs/tiny/diagnosis.json").exists()
    some = wmtp("score", "runs/tiny", "--diagnose", "--scorers", "critic-delta-v1,entropy-v1").stdout
    assert len([line for line in some.splitlines() if re.match(r"\d ", line)]) == 2
    refused = wmtp("score", "runs/tiny", "--diagnose", "--scorers", "grpo-v1", status=2)
    assert refused.stderr.count("wmtp: ") == 1


def test_a_scorer_in_the_working_directory(
    wmtp: Wmtp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found from there also by the installed command, whose path does not have it."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".", str(tmp_path))])
    (tmp_path / "lying_here.py").write_text("from wmtp.weighting.scorers.uniform import Uniform as Mine\n")
    printed = wmtp("train", "demo", *TINY, "train.scorer=lying_here:Mine").stdout
    assert "saved runs/tiny/checkpoints/step-00000003" in printed
    failed = wmtp("train", "demo", *TINY, "name=other", "train.scorer=lying_here:Yours", status=2)
    assert "has no attribute 'Yours'" in failed.stderr
