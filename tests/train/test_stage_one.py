"""Stage 1 and stage 2 as one run: what it leaves, stopping and resuming, early stopping, many processes."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import ProcessGroup

from answers import answers, reading, write_rows
from ranks import run_on_ranks
from refusals import refusal
from wmtp.checkpoint import store as checkpoint
from wmtp.config import Config, Recipe, load, to_dict
from wmtp.critic.labels import labelled_documents
from wmtp.critic.learner import ValueLearner
from wmtp.critic.model import critic_folder, load_critic
from wmtp.critic.value_head import load_value_head
from wmtp.data.corpus import load_data
from wmtp.distributed.world import World
from wmtp.errors import WMTPError
from wmtp.metrics import MetricsLog
from wmtp.model.build import build_model
from wmtp.storage import read_json
from wmtp.tracking.tracker import mlflow_follower
from wmtp.train.run import plan, train, train_critic
from wmtp.train.signals import Stopped
from wmtp.train.stage_one import critic_recipe, with_own_critic
from wmtp.train.trainer import Trainer

Make = Callable[..., Recipe]
TIMES = ("seconds", "data_seconds", "tokens_per_second", "memory_mib")
STEPS = {"train.steps": 8, "train.validate_every": 4, "train.save_every": 6}
KINDS: dict[str, dict[str, Any]] = {
    "gae": {"critic.refresh_every": 3},
    "pairwise": {"critic.objective": "pairwise", "train.scorer": "critic-gae-v1"},
    "lora": {
        "critic.objective": "monte-carlo",
        "critic.backbone": "separate",
        "critic.base_id": "base",
        "critic.trunk": "lora",
        "train.micro_batch_size": 4,
    },
}


@pytest.fixture
def recipe_of(make_recipe: Make, config: Config, tmp_path: Path) -> Make:
    """`recipe_of(**changes)`: critic-wmtp on answers, of which some are wrong; `base` is a next-token model."""
    settings = reading(tmp_path) | {"train.algo": "critic-wmtp"} | STEPS

    def make(**changes: Any) -> Recipe:
        if changes.get("critic.base_id") == "base" and not Path("base").exists():
            plain = make_recipe(**(settings | {"model.heads": 1, "seed": 7}))
            tokenizer = load_data(plain, Path(config.paths.cache)).tokenizer
            build_model(plain, tokenizer).save_pretrained("base")
            tokenizer.save_pretrained("base")
        return make_recipe(**(settings | changes))

    return make


def records(run: Path) -> list[dict[str, Any]]:
    """What a stage wrote, but for times and memory."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in MetricsLog(run)]


def both(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Of both stages, and what came of the first."""
    result = {k: v for k, v in read_json(run / "critic" / "critic.json").items() if k not in TIMES}
    return records(run / "critic"), records(run), result


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the head in a folder."""
    return load_value_head(folder, 32).state_dict()


def validations(run: Path) -> list[dict[str, Any]]:
    return [r for r in records(run) if r["kind"] == "validation"]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """`stop_after("critic", 4)`: SIGTERM to this process when the directory of that name has told of that step."""
    write = Trainer._write

    def arrange(name: str, step: int) -> None:
        def write_and_signal(trainer: Trainer, record: dict[str, Any]) -> None:
            write(trainer, record)
            if trainer.run.name == name and (record["kind"], record["step"]) == ("train", step):
                os.kill(os.getpid(), signal.SIGTERM)
                while trainer.context.stop.signum is None:
                    time.sleep(0.001)

        monkeypatch.setattr(Trainer, "_write", write_and_signal)

    return arrange


# --- one run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stage_1_then_stage_2(kind: str, recipe_of: Make, config: Config, tmp_path: Path) -> None:
    recipe, run = recipe_of(**KINDS[kind]), tmp_path / "run"
    last = train(recipe, config, run)
    assert last == run / "checkpoints" / "step-00000008"
    first, second, result = both(run)
    assert [r["step"] for r in first if r["kind"] == "train"] == list(range(1, 9))
    assert [r["step"] for r in second if r["kind"] == "train"] == list(range(1, 9))
    assert all(r["value_std"] > 0 for r in first[1:] if r["kind"] == "train")
    assert all(0 < r["weight_effective"] < 1 for r in second if r["kind"] == "train")
    assert all(len(r["ce"]) == 3 for r in second)
    found = validations(run / "critic")
    assert [v["step"] for v in found] == [4, 8]
    best = max(found, key=lambda v: v["auc"])
    assert result == {
        "data": load_data(recipe, Path(config.paths.cache)).train.fingerprint,
        "objective": recipe.critic.objective,
        "backbone": recipe.critic.backbone,
        "trunk": recipe.critic.trunk,
        "documents": 108,
        "held_out": 12,
        "pairs": result["pairs"],
        "steps": 8,
        "best_step": best["step"],
        **{name: best[name] for name in ("auc", "auc_last", "explained_variance", "calibration")},
    }
    assert (result["pairs"] is None) == (kind != "pairwise")
    assert (run / "critic" / "best" / "value_head.safetensors").exists()
    assert (run / "critic" / "best" / "backbone").is_dir() == (kind == "lora")
    assert critic_folder(run) == run / "critic" / "best"
    # Each stage tells its own recipe, and that of the run is the one that was asked for.
    assert load(run / "recipe.yaml")[0] == recipe
    own = load(run / "critic" / "recipe.yaml")[0]
    assert own == critic_recipe(recipe)
    assert (own.scorer.name, own.name) == ("uniform", "critic")
    assert with_own_critic(recipe, run).critic.path == str(run / "critic" / "best")


def test_weights_come_from_the_critic_that_stage_1_kept(
    recipe_of: Make, config: Config, tmp_path: Path
) -> None:
    train(recipe_of(), config, tmp_path / "run")
    head = tmp_path / "run" / "critic" / "best"
    train(recipe_of(**{"critic.path": str(head)}), config, tmp_path / "given")
    assert records(tmp_path / "given") == records(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    train(recipe_of(**{"critic.path": str(tmp_path / "copy")}), config, tmp_path / "given the run")
    assert records(tmp_path / "given the run") == records(tmp_path / "run")
    assert not (tmp_path / "given" / "critic").exists()
    torch.save({n: torch.randn(t.shape) for n, t in weights(head).items()}, head / "value_head.pt")
    (head / "value_head.safetensors").unlink()
    train(recipe_of(**{"critic.path": str(head)}), config, tmp_path / "other")
    assert records(tmp_path / "other") != records(tmp_path / "run")


def test_stage_1_has_overrides_of_its_own(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    overrides = {"train.steps": 5, "train.lr": 0.01, "train.batch_size": 4, "train.validate_every": 5}
    recipe = recipe_of(**{"critic.overrides": overrides})
    train(recipe, config, tmp_path / "run")
    first, second, result = both(tmp_path / "run")
    assert [r["step"] for r in first] == [1, 2, 3, 4, 5, 5]
    assert max(r["lr"] for r in first if r["kind"] == "train") == 0.01
    assert max(r["lr"] for r in second if r["kind"] == "train") == 0.003
    assert result["steps"] == 5
    assert len([r for r in second if r["kind"] == "train"]) == 8
    with pytest.raises(
        WMTPError, match=r"critic\.overrides: unknown key 'train\.stepz'; did you mean 'steps'"
    ):
        train(recipe_of(**{"critic.overrides": {"train.stepz": 5}}), config, tmp_path / "wrong")


def test_stage_1_alone(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    recipe, run = recipe_of(), tmp_path / "critics" / "shared"
    data = load_data(recipe, Path(config.paths.cache))
    assert train_critic(recipe, config, data, run) == run / "best"
    before = (run / "critic.json").stat().st_mtime_ns
    assert train_critic(recipe, config, data, run) == run / "best"
    assert (run / "critic.json").stat().st_mtime_ns == before
    train(recipe, config, tmp_path / "run")
    assert records(run) == records(tmp_path / "run" / "critic")


@pytest.mark.slow
def test_both_stages_are_tracked(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    """Stage 1 is an MLflow run below that of stage 2, which a stop between them does not double."""
    pytest.importorskip("mlflow")
    tracked = config.model_copy(update={"mlflow": config.mlflow.model_copy(update={"enabled": True})})
    run = tmp_path / "runs" / "whole"
    failing = recipe_of(**{"train.lr": 1e30, "train.max_bad_steps": 1})
    with pytest.raises(WMTPError, match="max_bad_steps"):
        train(failing, tracked, run, follow=mlflow_follower(tracked))
    train(recipe_of(), tracked, run, follow=mlflow_follower(tracked))
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        found = database.execute("SELECT name, status, run_uuid FROM runs").fetchall()
        auc = database.execute("SELECT run_uuid FROM metrics WHERE key = 'validation/auc'").fetchall()
        parents = database.execute("SELECT value FROM tags WHERE key = 'mlflow.parentRunId'").fetchall()
    finished = {name: identity for name, status, identity in found if status == "FINISHED"}
    assert set(finished) == {"whole", "critic"}
    assert set(auc) == {(finished["critic"],)}
    assert (finished["whole"],) in parents


# --- the best head -----------------------------------------------------------------------------------------


def test_the_kept_head_has_the_best_auc(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    """Of a rate so high that values swing."""
    recipe = recipe_of(
        **{
            "critic.overrides": {
                "train.steps": 12,
                "train.validate_every": 1,
                "train.lr": 0.3,
                "critic.patience": 12,
            }
        }
    )
    run = tmp_path / "run"
    train(recipe, config, run)
    found = validations(run / "critic")
    best = max(v["auc"] for v in found)
    assert found[-1]["auc"] < best
    data = load_data(recipe, Path(config.paths.cache))
    held_out = labelled_documents(recipe, config, data.tokenizer)[1]
    critic = load_critic(with_own_critic(recipe, run), data.tokenizer)
    critic.backbone = build_model(recipe, data.tokenizer)
    module = ValueLearner(critic, recipe, compute_dtype=torch.float32)
    assert module.validate(held_out, World(torch.device("cpu")), lambda: None)["auc"] == best


def scripted(monkeypatch: pytest.MonkeyPatch, aucs: Sequence[float | None]) -> list[dict[str, torch.Tensor]]:
    """Let validations give these; the list gets the head of each."""
    heads: list[dict[str, torch.Tensor]] = []

    def validate(module: ValueLearner, *_: Any) -> dict[str, Any]:
        heads.append({name: t.clone() for name, t in module.model.head.state_dict().items()})
        return {"auc": aucs[len(heads) - 1], "auc_last": 0.5, "explained_variance": 0.0, "calibration": None}

    monkeypatch.setattr(ValueLearner, "validate", validate)
    return heads


@pytest.mark.parametrize(
    ("aucs", "patience", "ends_after", "best"),
    [
        ([0.6, 0.7, 0.7, 0.65, 0.9], 2, 4, 2),  # an equal one is no better
        ([0.6, 0.5, 0.7, 0.6, 0.71, 0.7, 0.7, 0.9], 2, 7, 5),
        ([None, 0.6, None, 0.9], 1, 1, None),
        ([0.6, 0.5, 0.4, 0.7], 3, 4, 4),
        ([0.6, 0.5, 0.4, 0.3], 3, 4, 1),
    ],
)
def test_training_ends_when_nothing_gets_better(
    aucs: list[float | None],
    patience: int,
    ends_after: int,
    best: int | None,
    recipe_of: Make,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Validations are told what to give; there are 8 at most."""
    heads = scripted(monkeypatch, aucs)
    overrides = {"train.steps": 8 if ends_after > 4 else 4, "train.validate_every": 1}
    recipe = recipe_of(**{"critic.patience": patience, "critic.overrides": overrides, "train.save_every": 50})
    run = tmp_path / "run"
    if best is None:
        assert refusal(train, recipe, config, run) == (
            f"{run / 'critic'}: no validation could tell good from bad documents; "
            f"the held-out rewards may all be the same: raise critic.held_out"
        )
        return
    train(recipe, config, run)
    first, _, result = both(run)
    assert len(heads) == ends_after
    assert [r["step"] for r in first if r["kind"] == "train"] == list(range(1, ends_after + 1))
    assert (result["steps"], result["best_step"], result["auc"]) == (ends_after, best, aucs[best - 1])
    for name, tensor in weights(run / "critic" / "best").items():
        assert torch.equal(tensor, heads[best - 1][name])
        assert best == ends_after or not torch.equal(tensor, heads[-1][name]) or name == "output.bias"


# --- stopping and resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [pytest.param("gae", marks=pytest.mark.slow), "pairwise", pytest.param("lora", marks=pytest.mark.slow)],
)
def test_stopped_in_either_stage_and_resumed_it_is_the_uninterrupted_run(
    kind: str,
    recipe_of: Make,
    config: Config,
    tmp_path: Path,
    stop_after: Callable[[str, int], None],
) -> None:
    recipe, run = recipe_of(**KINDS[kind]), tmp_path / "stopped"
    train(recipe, config, tmp_path / "whole")
    for name, step in (("critic", 1), ("critic", 4), ("stopped", 3)):
        stop_after(name, step)
        with pytest.raises(Stopped) as caught:
            train(recipe, config, run, resume="auto")
        folder = run / "critic" if name == "critic" else run
        assert caught.value.where == str(folder / "checkpoints" / f"step-{step + 1:08d}")
        assert (run / "critic" / "critic.json").exists() == (name != "critic")
        assert (run / "checkpoints").exists() == (name != "critic")
        if name != "critic":
            shutil.rmtree(
                run / "critic" / "checkpoints", ignore_errors=True
            )  # stage 1 is over: nothing of it is read again
    stop_after("nothing", 0)
    train(recipe, config, run, resume="auto")
    assert both(run) == both(tmp_path / "whole")
    for name, tensor in weights(run / "critic" / "best").items():
        assert torch.equal(tensor, weights(tmp_path / "whole" / "critic" / "best")[name])
    train(recipe, config, run, resume="auto")
    assert both(run) == both(tmp_path / "whole")


def test_early_stopping_counts_on_over_a_stop(
    recipe_of: Make,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: Callable[[str, int], None],
) -> None:
    aucs = [0.6, 0.7, 0.65, 0.7, 0.69, 0.9, 0.9, 0.9]
    recipe = recipe_of(**{"critic.patience": 3, "train.validate_every": 1, "train.save_every": 50})
    scripted(monkeypatch, aucs)
    train(recipe, config, tmp_path / "whole")
    scripted(monkeypatch, aucs)
    for step in (2, 4):  # after which it saves step 3 and 5, not yet validated
        stop_after("critic", step)
        with pytest.raises(Stopped):
            train(recipe, config, tmp_path / "stopped", resume="auto")
    train(recipe, config, tmp_path / "stopped", resume="auto")
    assert both(tmp_path / "stopped") == both(tmp_path / "whole")
    assert both(tmp_path / "whole")[2]["steps"] == 5


def test_stage_1_keeps_its_precision(
    recipe_of: Make, config: Config, tmp_path: Path, stop_after: Callable[[str, int], None]
) -> None:
    stop_after("critic", 2)
    with pytest.raises(Stopped):
        train(recipe_of(), config, tmp_path / "run")
    other = config.model_copy(update={"devices": config.devices.model_copy(update={"precision": "bf16"})})
    with pytest.raises(
        WMTPError,
        match=r"critic/checkpoints/step-00000003: was trained in fp32, and devices\.precision is bf16",
    ):
        train(recipe_of(), other, tmp_path / "run", resume="auto")


def test_killed_between_the_last_validation_and_the_result(
    recipe_of: Make, config: Config, tmp_path: Path
) -> None:
    recipe, run = recipe_of(), tmp_path / "run"
    train(recipe, config, run)
    whole = both(run)
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "critic" / "critic.json").unlink()
    lines = (run / "critic" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "critic" / "metrics.jsonl").write_text("".join(lines[:-1]))
    train(recipe, config, run, resume="auto")
    assert both(run) == whole


def test_a_run_that_was_moved_goes_on(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    recipe = recipe_of()
    train(recipe, config, tmp_path / "run")
    whole = both(tmp_path / "run")
    checkpoint.checkpoints(tmp_path / "run")[-1].rename(tmp_path / "away")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "run")
    train(recipe, config, Path("elsewhere/run"), resume="auto")
    assert both(tmp_path / "elsewhere" / "run") == whole


def test_stage_1_in_progress_is_not_begun_anew(
    recipe_of: Make, config: Config, tmp_path: Path, stop_after: Callable[[str, int], None]
) -> None:
    recipe, run = recipe_of(), tmp_path / "run"
    stop_after("critic", 4)
    with pytest.raises(Stopped):
        train(recipe, config, run)
    before = records(run / "critic")
    assert refusal(train, recipe, config, run) == (
        f"{run / 'critic'}: has a checkpoint of step 5 already; "
        f"continue it with --resume auto, or choose another name (name=…)"
    )
    assert records(run / "critic") == before


def test_more_steps_leave_a_finished_critic_as_it_is(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    run, longer = tmp_path / "run", recipe_of(**{"train.steps": 10})
    train(recipe_of(), config, run)
    before, _, result = both(run)
    assert "train.steps differ" in refusal(train, longer, config, run, resume="auto")
    for _ in range(2):
        train(longer, config, run, resume="auto", extend=True)
        assert (both(run)[0], both(run)[2]) == (before, result)
        assert records(run)[-1]["step"] == 10


def test_more_steps_before_stage_2_are_another_critics(
    recipe_of: Make, config: Config, tmp_path: Path, stop_after: Callable[[str, int], None]
) -> None:
    run = tmp_path / "run"
    stop_after("run", 1)
    with pytest.raises(Stopped):
        train(recipe_of(**{"train.save_every": 100}), config, run)
    shutil.rmtree(checkpoint.checkpoints(run)[-1])
    longer = recipe_of(**{"train.save_every": 100, "train.steps": 10})
    assert "train.steps differ" in refusal(train, longer, config, run, resume="auto", extend=True)


def test_another_critic_is_not_resumed(
    recipe_of: Make, config: Config, tmp_path: Path, stop_after: Callable[[str, int], None]
) -> None:
    run = tmp_path / "run"
    places = {
        ("critic", 4): run / "critic" / "checkpoints" / "step-00000005",
        ("nothing", 0): run / "critic",  # between the stages
        ("run", 4): run / "checkpoints" / "step-00000005",
    }
    changes = {"critic.gamma": 0.9, "critic.overrides": {"train.lr": 0.01}}
    for (name, step), place in places.items():
        stop_after(name, step)
        if name == "nothing":
            train(recipe_of(), config, run, resume="auto")
            shutil.rmtree(run / "checkpoints")
        else:
            with pytest.raises(Stopped):
                train(recipe_of(), config, run, resume="auto")
        stop_after("nothing", 0)
        for key, value in changes.items():
            message = refusal(train, recipe_of(**{key: value}), config, run, resume="auto")
            assert message.startswith(f"{place}: was trained with another recipe (")
            assert load(run / "recipe.yaml")[0] == recipe_of()
            assert key in message.partition("(")[2].partition(" differ)")[0]
    assert refusal(train, recipe_of(**{"critic.path": str(run)}), config, run, resume="auto").startswith(
        f"{run / 'checkpoints' / 'step-00000005'}: was trained with another recipe (critic.path differ)"
    )
    train(recipe_of(**{"train.max_bad_steps": 4}), config, run, resume="auto")


@pytest.mark.slow
def test_a_critic_of_other_data_is_not_taken(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    recipe, run = recipe_of(), tmp_path / "run"
    train(recipe, config, run)
    shutil.rmtree(run / "checkpoints")
    moved = Path(recipe.data.source).rename(tmp_path / "moved.jsonl")
    there = recipe_of(**{"data.source": str(moved)})
    train(there, config, run, resume="auto")
    shutil.rmtree(run / "checkpoints")
    moved.write_text("".join(reversed(moved.read_text().splitlines(keepends=True))))
    message = refusal(train, there, config, run, resume="auto")
    assert message.startswith(f"data.source: the training data changed since the critic in {run / 'critic'}")


def test_a_given_critic_may_not_be_left_out_on_resuming(
    recipe_of: Make, config: Config, tmp_path: Path
) -> None:
    train(recipe_of(), config, tmp_path / "run")
    head = tmp_path / "run" / "critic" / "best"
    train(recipe_of(**{"critic.path": str(head)}), config, tmp_path / "given")
    message = refusal(train, recipe_of(), config, tmp_path / "given", resume="auto")
    assert "was trained with another recipe (critic.path differ)" in message


# --- what cannot be learnt from ----------------------------------------------------------------------------


def test_held_out_rewards_that_are_all_the_same(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    rows = answers()
    recipe = recipe_of()
    data = load_data(recipe, Path(config.paths.cache))
    held_out = labelled_documents(recipe, config, data.tokenizer)[1]
    shown = data.tokenizer.decode(held_out.documents.tokens)
    for row in rows:
        row["is_correct"] = row["is_correct"] or row["prompt"] in shown
    write_rows(tmp_path / "answers.jsonl", rows)
    message = refusal(train, recipe, config, tmp_path / "run")
    assert message == (
        f"{tmp_path / 'run' / 'critic'}: no validation could tell good from bad documents; "
        f"the held-out rewards may all be the same: raise critic.held_out"
    )


def test_bad_rewards_leave_no_run(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    message = refusal(train, recipe_of(**{"critic.field": "reward"}), config, tmp_path / "run")
    assert "answers.jsonl, line 1: no field 'reward' (critic.field)" in message
    assert not (tmp_path / "run").exists()
    for scorer in ("critic-delta-v1", "grpo-v1"):  # a dry run says so too
        with pytest.raises(WMTPError, match="line 1: no field 'reward'"):
            plan(recipe_of(**{"critic.field": "reward", "train.scorer": scorer}), config)
    assert plan(recipe_of(), config).steps == 8
    train(recipe_of(), config, tmp_path / "run")


def test_rewards_that_changed_are_refused_on_resuming(
    recipe_of: Make, config: Config, tmp_path: Path
) -> None:
    recipe, rows = recipe_of(**{"train.scorer": "critic-gae-v1"}), answers()
    train(recipe, config, tmp_path / "run")
    rows[-1]["is_correct"] = not rows[-1]["is_correct"]
    write_rows(tmp_path / "answers.jsonl", rows)
    message = refusal(train, recipe, config, tmp_path / "run", resume="auto")
    assert message == "rewards of the training data changed since the checkpoint (critic.reward)"


# --- many processes ----------------------------------------------------------------------------------------


def trained(
    group: ProcessGroup | None, rank: int, values: dict[str, Any], environment: Config, run: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Both stages on these processes; what they left."""
    torch.set_num_threads(1)
    train(Recipe.model_validate(values), environment, run)
    return both(run)


def assert_alike(found: Any, expected: Any) -> None:
    """Losses to 1e-6, and everything else as far as it can be told in float32."""
    for stage, wanted in zip(found[:2], expected[:2], strict=True):
        assert [list(record) for record in stage] == [list(record) for record in wanted]
        for record, like in zip(stage, wanted, strict=True):
            for name, value in like.items():
                if isinstance(value, str | None):
                    assert record[name] == value
                elif name in ("loss", "ce"):
                    assert record[name] == pytest.approx(value, rel=1e-6), (name, like["step"])
                else:
                    assert record[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, like["step"])
    assert found[2].keys() == expected[2].keys()
    assert found[2]["best_step"] == expected[2]["best_step"]


MANY = {
    **KINDS,
    "full": {"critic.backbone": "separate", "critic.trunk": "full", "critic.gae_lambda": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"parallel": "ddp"}, {"parallel": "fsdp"}], ids=str)
@pytest.mark.parametrize("kind", MANY)
def test_two_processes_train_like_one(
    kind: str, layout: dict[str, Any], recipe_of: Make, config: Config, tmp_path: Path
) -> None:
    changes = MANY[kind] | {"train.micro_batch_size": 2}
    recipe = recipe_of(**changes)
    if recipe.critic.base_id is not None:  # in this folder, which is not that of the other processes
        recipe = recipe_of(**changes | {"critic.base_id": str(tmp_path / "base")})
    alone = trained(None, 0, to_dict(recipe), config, tmp_path / "alone")
    devices = config.devices.model_copy(update=layout)
    environment = config.model_copy(update={"devices": devices})
    run = tmp_path / "together"
    for found in run_on_ranks(trained, 2, to_dict(recipe), environment, run):
        assert_alike(found, alone)
    # What processes saved, one goes on with.
    for folder in (run / "critic", run):
        checkpoint.checkpoints(folder)[-1].rename(folder / "away")
    shutil.rmtree(run / "checkpoints")
    (run / "critic" / "critic.json").unlink()
    train(recipe, config, run, resume="auto")
    assert_alike(both(run), alone)


@pytest.mark.slow
def test_one_process_may_shard_too(recipe_of: Make, config: Config, tmp_path: Path) -> None:
    devices = config.devices.model_copy(update={"parallel": "fsdp"})
    train(recipe_of(), config, tmp_path / "plain")
    train(recipe_of(), config.model_copy(update={"devices": devices}), tmp_path / "sharded")
    assert_alike(both(tmp_path / "sharded"), both(tmp_path / "plain"))
