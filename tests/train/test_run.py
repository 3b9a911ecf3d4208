"""Training as a user meets it: runs, checkpoints, resuming, and what can go wrong."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wmtp.checkpoint import store as checkpoint
from wmtp.config import Config, Recipe, override, to_dict, to_yaml
from wmtp.data.corpus import load_data
from wmtp.data.loader import Batch, Loader
from wmtp.distributed.world import World
from wmtp.errors import WMTPError
from wmtp.metrics import MetricsLog
from wmtp.model.loading import load_causal_lm
from wmtp.train.module import WeightedMTP
from wmtp.train.resume import Start, keep_precision, note_extension
from wmtp.train.run import plan, train, write_reference_scores
from wmtp.train.state import Counters
from wmtp.train.validation import validation_ce

Make = Callable[..., Recipe]


def trajectory(run: Path) -> list[tuple[Any, ...]]:
    """What must be the same in two runs: everything but times and memory."""
    timed = ("seconds", "data_seconds", "tokens_per_second", "memory_mib")
    return [tuple((k, str(v)) for k, v in record.items() if k not in timed) for record in MetricsLog(run)]


def tensors(saved: Path, part: checkpoint.Part) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds of one part."""
    like = {n: torch.zeros(size) for n, size in checkpoint.tensor_names(saved, part).items()}
    like |= {n: torch.zeros_like(t, dtype=torch.uint8) for n, t in like.items() if n.startswith("rng.")}
    checkpoint.load_tensors(saved, part, like)
    return like


def reference(make_recipe: Make, config: Config, tmp_path: Path) -> tuple[Path, Path]:
    """A trained reference and its scores of the training data."""
    recipe = make_recipe(**{"model.heads": 1, "name": "reference", "seed": 3})
    run = tmp_path / "runs" / "reference"
    train(recipe, config, run)
    data = load_data(recipe, Path(config.paths.cache))
    write_reference_scores(recipe, config, data, str(run), tmp_path / "scores")
    return run, tmp_path / "scores"


def test_a_run_directory_holds_what_it_should(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    recipe = make_recipe()
    last = train(recipe, config, tmp_path / "run")
    run = tmp_path / "run"
    assert (run / "recipe.yaml").read_text() == to_yaml(recipe)
    assert (run / "config.yaml").read_text() == to_yaml(config)
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    data = load_data(recipe, Path(config.paths.cache))
    summary = json.loads((run / "data.json").read_text())
    assert summary["training"]["tokens"] == len(data.train.tokens)
    assert summary["validation"]["supervised_tokens"] == data.validation.supervised.sum()
    assert summary["training"]["documents"] == data.train.counts.documents
    assert summary["notes"] == data.notes
    records = list(MetricsLog(run))
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [3, 6]
    assert all(len(r["ce"]) == 3 for r in records)
    losses = [r["loss"] for r in records if r["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert [c.name for c in checkpoint.checkpoints(run)] == ["step-00000003", "step-00000006"]
    assert (run / "checkpoints" / "latest").resolve() == last.resolve()
    assert load_causal_lm(str(last), "last").config.heads == 3


@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.slow), {"train.algo": "rho1-wmtp", "train.control": "shuffled"}],
)
def test_resuming_gives_the_uninterrupted_run(
    changes: dict[str, Any], make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    if changes:
        run, scores = reference(make_recipe, config, tmp_path)
        changes = {**changes, "model.ref_id": str(run), "data.reference_scores": str(scores)}
    recipe = make_recipe(**changes)
    train(recipe, config, tmp_path / "whole")
    train(recipe, config, tmp_path / "stopped")
    newest = checkpoint.checkpoints(tmp_path / "stopped")[-1]
    newest.rename(tmp_path / "away")
    train(recipe, config, tmp_path / "stopped", resume="auto")
    assert trajectory(tmp_path / "stopped") == trajectory(tmp_path / "whole")
    again = checkpoint.checkpoints(tmp_path / "stopped")[-1]
    for part in ("model", "training"):
        for name, tensor in tensors(again, part).items():
            assert torch.equal(tensor, tensors(tmp_path / "away", part)[name]), name
    before = trajectory(tmp_path / "stopped")
    train(recipe, config, tmp_path / "stopped", resume="auto")
    assert trajectory(tmp_path / "stopped") == before


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"train.scorer": "entropy-v1"}], ids=["uniform", "weighted"])
def test_resuming_on_a_gpu_gives_the_uninterrupted_run(
    changes: dict[str, Any], make_recipe: Make, config: Config, gpu_device: str, tmp_path: Path
) -> None:
    deterministic = {"device": gpu_device, "precision": "bf16", "deterministic": True}
    config = config.model_copy(update={"devices": config.devices.model_copy(update=deterministic)})
    recipe = make_recipe(**changes)
    try:
        train(recipe, config, tmp_path / "whole")
        newest = train(recipe, config, tmp_path / "stopped")
        newest.rename(tmp_path / "away")
        train(recipe, config, tmp_path / "stopped", resume="auto")
    finally:
        torch.use_deterministic_algorithms(False)
    assert trajectory(tmp_path / "stopped") == trajectory(tmp_path / "whole")
    again = checkpoint.checkpoints(tmp_path / "stopped")[-1]
    for part in ("model", "training"):
        expected = tensors(tmp_path / "away", part)
        for name, tensor in tensors(again, part).items():
            assert torch.equal(tensor, expected[name]), name


def test_a_run_stopped_between_saving_and_validating_validates_on_resuming(
    make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    recipe, run = make_recipe(), tmp_path / "run"
    train(recipe, config, run)
    whole = trajectory(run)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]) + '{"kind": "vali')
    train(recipe, config, run, resume="auto")
    assert trajectory(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, os.EX_TEMPFAIL)])
def test_a_signal_saves_and_leaves_a_resumable_run(
    signum: signal.Signals, status: int, make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    recipe = make_recipe(**{"train.steps": 100000, "train.save_every": 100000, "name": "long"})
    (tmp_path / "r.yaml").write_text(to_yaml(recipe))
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "wmtp", "train", "r.yaml", "--config", "c.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "saved" in errors
    assert "Traceback" not in errors
    (saved,) = checkpoint.checkpoints(metrics.parent)
    steps = [r["step"] for r in MetricsLog(metrics.parent)]
    assert checkpoint.step_of(saved) == steps[-1]
    checkpoint.verify(saved)


def test_waiting_for_data_counts(
    make_recipe: Make, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Loader.__next__

    def slowly(self: Loader) -> list[Batch]:
        time.sleep(0.1)
        return ready(self)

    monkeypatch.setattr(Loader, "__next__", slowly)
    train(make_recipe(**{"train.steps": 2}), config, tmp_path / "run")
    records = [r for r in MetricsLog(tmp_path / "run") if r["kind"] == "train"]
    assert len(records) == 2
    before = {"tokens": 0, "data_seconds": 0.0}
    for record in records:
        assert record["data_seconds"] - before["data_seconds"] >= 0.099
        assert record["seconds"] >= record["data_seconds"]
        assert record["tokens_per_second"] <= (record["tokens"] - before["tokens"]) / 0.1
        before = record


def test_an_existing_run_is_not_overwritten(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    train(make_recipe(), config, tmp_path / "run")
    with pytest.raises(WMTPError, match="has a checkpoint of step 6 already; continue it with --resume auto"):
        train(make_recipe(), config, tmp_path / "run")


def test_another_recipe_is_not_resumed(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    train(make_recipe(), config, tmp_path / "run")
    with pytest.raises(WMTPError, match=r"trained with another recipe \(train\.lr differ\)"):
        train(make_recipe(**{"train.lr": 0.1}), config, tmp_path / "run", resume="auto")
    train(make_recipe(**{"evaluate.batch_size": 3}), config, tmp_path / "run", resume="auto")


def test_what_does_not_change_the_course_may_change_on_resuming(
    make_recipe: Make, config: Config, tmp_path: Path, sums: Path
) -> None:
    run = tmp_path / "run"
    train(make_recipe(), config, run)
    whole = [r["loss"] for r in MetricsLog(run) if r["kind"] == "train"]
    shutil.rmtree(checkpoint.checkpoints(run)[-1])
    moved = sums.rename(tmp_path / "moved.jsonl")
    changes = {
        "data.source": str(moved),
        "train.micro_batch_size": 2,
        "train.gradient_checkpointing": True,
        "train.log_every": 2,
    }
    train(make_recipe(**changes), config, run, resume="auto")
    records = {r["step"]: r["loss"] for r in MetricsLog(run) if r["kind"] == "train"}
    assert list(records) == [1, 2, 3, 4, 6]
    assert records[6] == pytest.approx(whole[5], rel=1e-5)
    moved.write_text("".join(reversed(moved.read_text().splitlines(keepends=True))))
    with pytest.raises(WMTPError, match=r"data\.source: the training data changed since the checkpoint"):
        train(make_recipe(**changes), config, run, resume="auto")


def test_more_steps_are_a_new_schedule_that_is_asked_for(
    make_recipe: Make, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a constant learning rate the longer run is the one that had as many steps from the start."""
    constant = {"train.schedule": "constant", "train.validate_every": 5, "train.save_every": 5}
    short, long = (make_recipe(**constant, **{"train.steps": steps}) for steps in (5, 10))
    train(long, config, tmp_path / "whole")
    train(short, config, tmp_path / "run")
    with pytest.raises(WMTPError, match=r"trained with another recipe \(train\.steps differ\)"):
        train(long, config, tmp_path / "run", resume="auto")
    falling = make_recipe(**(constant | {"train.steps": 10, "train.schedule": "linear"}))
    with pytest.raises(WMTPError, match=r"trained with another recipe \(train\.schedule differ\)"):
        train(falling, config, tmp_path / "run", resume="auto", extend=True)
    assert "note: train.steps" not in capsys.readouterr().err
    train(long, config, tmp_path / "run", resume="auto", extend=True)
    assert "note: train.steps 10 instead of 5: the learning rate goes from" in capsys.readouterr().err
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")
    with pytest.raises(WMTPError, match=r"trained with another recipe \(train\.steps differ\)"):
        train(short, config, tmp_path / "run", resume="auto", extend=True)


def test_what_more_steps_do_to_the_learning_rate_is_said(
    make_recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = {
        "train.schedule": "linear",
        "train.warmup_steps": 0,
        "train.min_lr_ratio": 0.0,
        "train.lr": 0.01,
    }
    before, now = (make_recipe(**linear, **{"train.steps": steps}) for steps in (6, 11))
    note_extension(now, Start(tmp_path, {"recipe": to_dict(before), "counters": {"step": 6}}))
    assert capsys.readouterr().err == (
        "note: train.steps 11 instead of 6: the learning rate goes from 0 at step 6 to 0.004 at step 7, "
        "and ends at 0 (train.schedule linear)\n"
    )


def test_changed_data_is_not_resumed(make_recipe: Make, config: Config, tmp_path: Path, sums: Path) -> None:
    recipe = make_recipe()
    train(recipe, config, tmp_path / "run")
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(reversed(lines)))
    with pytest.raises(WMTPError, match=r"data\.source: the training data changed since the checkpoint"):
        train(recipe, config, tmp_path / "run", resume="auto")


def test_a_damaged_checkpoint_is_refused_or_the_one_before_taken(
    make_recipe: Make, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe()
    last = train(recipe, config, tmp_path / "run")
    whole = trajectory(tmp_path / "run")
    (shard,) = last.glob("model-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(WMTPError, match=rf"damaged: {shard.name} is not what was saved"):
        train(recipe, config, tmp_path / "run", resume=str(last))
    train(recipe, config, tmp_path / "run", resume="auto")
    assert "step-00000006 is damaged" in capsys.readouterr().err
    assert trajectory(tmp_path / "run") == whole
    checkpoint.verify(last)


def test_a_foreign_checkpoint_is_refused(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    with pytest.raises(WMTPError, match=r"foreign: not a WMTP checkpoint \(no manifest\.json\)"):
        train(make_recipe(), config, tmp_path / "run", resume=str(tmp_path / "foreign"))
    (tmp_path / "foreign" / "manifest.json").write_text("[]")
    with pytest.raises(WMTPError, match="not a WMTP checkpoint of format 2"):
        train(make_recipe(), config, tmp_path / "run", resume=str(tmp_path / "foreign"))
    with pytest.raises(WMTPError, match="--resume nowhere: should be auto, never or a checkpoint folder"):
        train(make_recipe(), config, tmp_path / "run", resume="nowhere")


def test_a_full_disk_leaves_the_previous_checkpoint(
    make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    """The limit on file sizes stands in for the end of the disk: writing fails half-way, at the kernel's word."""
    recipe, run = make_recipe(), tmp_path / "run"
    train(recipe, config, run)
    (newest, before) = (checkpoint.checkpoints(run)[-1], checkpoint.checkpoints(run)[-2])
    newest.rename(tmp_path / "away")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(
            WMTPError, match=r"step-00000006: cannot be saved: .*; step-00000003 is still good"
        ):
            train(recipe, config, run, resume="auto")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in (run / "checkpoints").glob("*step*")] == [before.name]
    train(recipe, config, run, resume="auto")
    assert len(checkpoint.checkpoints(run)) == 2


def test_non_finite_steps_are_skipped_and_end_the_run_when_they_do_not_stop(
    make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    recipe = make_recipe(**{"train.lr": 1e30, "train.max_bad_steps": 3, "train.steps": 50})
    with pytest.raises(
        WMTPError, match=r"3 steps in a row \(train\.max_bad_steps\) had a non-finite loss"
    ) as e:
        train(recipe, config, tmp_path / "run")
    assert "try a lower train.lr" in str(e.value)


def test_gradient_checkpointing_and_accumulation_change_nothing_but_memory(
    make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    losses = {}
    for name, changes in {
        "plain": {},
        "checkpointed": {"train.gradient_checkpointing": True},
        "accumulated": {"train.micro_batch_size": 2},
    }.items():
        train(make_recipe(**changes), config, tmp_path / name)
        losses[name] = [r["loss"] for r in MetricsLog(tmp_path / name) if r["kind"] == "train"]
    assert losses["checkpointed"] == losses["plain"]
    assert losses["accumulated"] == pytest.approx(losses["plain"], rel=1e-5)


def test_bf16_and_deterministic_training(
    make_recipe: Make, config: Config, device: str, tmp_path: Path
) -> None:
    config = config.model_copy(update={"devices": config.devices.model_copy(update={"device": device})})
    devices = config.devices.model_copy(update={"precision": "bf16", "deterministic": True})
    careful = config.model_copy(update={"devices": devices})
    try:
        for name in ("one", "two"):
            train(make_recipe(), careful, tmp_path / name)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert trajectory(tmp_path / "one") == trajectory(tmp_path / "two")
    assert json.loads((tmp_path / "one" / "environment.json").read_text())["precision"] == "bfloat16"
    train(make_recipe(), config, tmp_path / "fp32")
    low, full = (
        [r["loss"] for r in MetricsLog(tmp_path / n) if r["kind"] == "train"] for n in ("one", "fp32")
    )
    assert low == pytest.approx(full, rel=2e-2)
    assert low != full


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16", "bfloat16"), pytest.param("fp32", "float32", marks=pytest.mark.slow)],
)
def test_a_resumed_run_keeps_its_precision(
    precision: str,
    dtype: str,
    make_recipe: Make,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It goes on where `devices.precision: auto` is the other one."""

    def with_precision(value: str) -> Config:
        return config.model_copy(update={"devices": config.devices.model_copy(update={"precision": value})})

    recipe, run = make_recipe(), tmp_path / "run"
    train(recipe, with_precision(precision), run)
    whole = trajectory(run)
    shutil.rmtree(checkpoint.checkpoints(run)[-1])
    monkeypatch.setattr("wmtp.environment._cpu_multiplies_bf16", lambda: precision == "fp32")
    other = {"bf16": "fp32", "fp32": "bf16"}[precision]
    with pytest.raises(
        WMTPError,
        match=f"step-00000003: was trained in {precision}, and devices.precision is {other}; go on with",
    ):
        train(recipe, with_precision(other), run, resume="auto")
    train(recipe, with_precision("auto"), run, resume="auto")
    assert trajectory(run) == whole
    assert f"step-00000003: going on in {precision} as before" in capsys.readouterr().err
    assert json.loads((run / "environment.json").read_text())["precision"] == dtype
    assert "precision: auto" in (run / "config.yaml").read_text()
    train(recipe, with_precision("auto"), run, resume="auto")
    assert "as before" not in capsys.readouterr().err


def test_a_checkpoint_that_does_not_say_its_precision_leaves_it_to_the_environment(
    make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    start = Start(tmp_path, {"counters": {"step": 1}})
    assert keep_precision(config, start, make_recipe()) == config


def test_the_plan_counts_parameters_without_building(make_recipe: Make, config: Config) -> None:
    from wmtp.model.build import build_model

    for changes in ({}, {"model.placement": "replace", "model.layers": 4}, {"model.tie_embeddings": False}):
        recipe = make_recipe(**changes)
        found = plan(recipe, config)
        data = load_data(recipe, Path(config.paths.cache))
        model = build_model(recipe, data.tokenizer)
        assert found.parameters == sum(p.numel() for p in model.parameters())
        alone = build_model(override(recipe, {"model.heads": 1}, "x"), data.tokenizer)
        if recipe.model.placement == "append":
            assert found.next_token_parameters == sum(p.numel() for p in alone.parameters())
        else:
            assert found.parameters == sum(p.numel() for p in alone.parameters())


def test_a_pretrained_backbone_keeps_its_next_token_model(
    make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from wmtp.model.build import build_model

    data = load_data(make_recipe(), Path(config.paths.cache))
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2
        )
    ).eval()
    base.save_pretrained(tmp_path / "base")
    data.tokenizer.save_pretrained(tmp_path / "base")
    recipe = make_recipe(**{"model.base_id": str(tmp_path / "base"), "model.heads": 3})
    model = build_model(recipe, data.tokenizer).eval()
    ids = torch.randint(2, 300, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, base(ids).logits, rtol=0, atol=1e-5)
    assert len(model.model.layers) == 5
    train(recipe, config, tmp_path / "run")


def test_a_run_starts_from_another_runs_weights(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    last = train(make_recipe(), config, tmp_path / "first")
    recipe = make_recipe(**{"model.base_id": str(tmp_path / "first"), "train.lr": 1e-9})
    again = train(recipe, config, tmp_path / "second")
    before, after = (dict(load_causal_lm(str(at), "run").named_parameters()) for at in (last, again))
    assert before.keys() == after.keys()
    for name, parameter in before.items():
        torch.testing.assert_close(after[name], parameter, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"train.algo": "rho1-wmtp"},
            r"needs a reference model: set model\.ref_id, or data\.reference_scores",
        ),
        ({"train.algo": "rho1-wmtp", "model.ref_id": "./gone"}, r"model\.ref_id './gone': no such folder"),
        ({"model.base_id": "./gone"}, r"model\.base_id './gone': no such folder"),
        ({"train.scorer": "rho1-exces-v1"}, r"unknown scorer 'rho1-exces-v1'; did you mean 'rho1-excess-v1'"),
        (
            {"data.source": "tinycod"},
            r"data\.source 'tinycod' is neither a file nor built in; did you mean 'tinycode'",
        ),
        ({"data.source": "gone.jsonl"}, r"gone\.jsonl: no such file"),
        (
            {"data.fields": {"text": "code", "prompt": None, "completion": None}},
            r", line 1: no field 'code'",
        ),
        ({"data.where": {"clean": 3}}, r"data\.where {'clean': 3} leaves none of"),
        ({"data.where": {"cleen": True}}, r"no field 'cleen', which data\.where asks for"),
        ({"data.sequence_length": 8, "model.heads": 2}, r"data\.sequence_length 8: .* documents are longer"),
        ({"data.tokenizer": "./gone"}, r"data\.tokenizer './gone': cannot be loaded"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line(
    changes: dict[str, Any], expected: str, make_recipe: Make, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(WMTPError, match=expected) as caught:
        train(make_recipe(**changes), config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_empty_data_set_is_refused(make_recipe: Make, config: Config, tmp_path: Path, sums: Path) -> None:
    sums.write_text("")
    with pytest.raises(WMTPError, match="holds no rows"):
        train(make_recipe(), config, tmp_path / "run")


def test_a_broken_model_does_not_look_better(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    """An embedding that is NaN for a token which only validation data hold must not count as a loss of 0."""
    data = load_data(make_recipe(), Path(config.paths.cache))
    from wmtp.model.build import build_model

    model = build_model(make_recipe(), data.tokenizer)
    module = WeightedMTP(model, make_recipe(), compute_dtype=torch.float32)
    world = World(torch.device("cpu"))
    whole = validation_ce(module, data.validation, world, lambda: None)
    assert all(ce is not None and math.isfinite(ce) for ce in whole)
    with torch.no_grad():
        model.model.embed_tokens.weight[int(data.validation.tokens[3])] = torch.nan
    found = module.validate(data.validation, world, lambda: None)
    assert found == {"ce": [None] * module.heads}
    assert math.isnan(module.criterion(found))
    counters = Counters(step=5)
    assert not counters.validated(math.nan)
    assert counters.best_validation is None
    assert counters.validated(2.0)
    assert not counters.validated(math.nan)
    assert (counters.best_validation, counters.best_step, counters.stale_validations) == (2.0, 5, 1)
