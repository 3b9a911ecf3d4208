"""A loss that is not a number on one rank only."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DDP, FSDP, Training, language_model, largest_difference, prepare, records, write_rows

from wmtp.checkpoint import store as checkpoint

pytestmark = pytest.mark.slow

RARE = "~"


def prepare_rare_token(folder: Path) -> None:
    """A pretrained backbone that gives NaN for one token, which a single training document holds."""
    import torch

    from wmtp.data.tokenizer import load_tokenizer, train_tokenizer

    prepare(folder, **{"model.base_id": "./base"})
    rows = [json.loads(line) for line in (folder / "sums.jsonl").read_text().splitlines()]
    rows[6]["completion"] += RARE  # rows 0 and 5 are held out
    write_rows(folder / "sums.jsonl", rows)
    tokenizer = train_tokenizer([r["prompt"] + r["completion"] for r in rows], 300, folder / "tokenizer")
    for place in ("base", "reference"):
        tokenizer.save_pretrained(folder / place)
    model = language_model(seed=2)
    (rare,) = load_tokenizer(str(folder / "base")).backend_tokenizer.encode(RARE).ids
    with torch.no_grad():
        model.get_input_embeddings().weight[rare] = torch.nan
    model.save_pretrained(folder / "base")


def test_all_ranks_skip_the_step_and_stay_the_same(start: Callable[..., Training], tmp_path: Path) -> None:
    prepare_rare_token(tmp_path)
    runs = {}
    for name, nproc, settings in (("one", None, ()), ("ddp", 2, DDP), ("fsdp", 2, FSDP)):
        training = start(name, *settings, nproc=nproc, folder=tmp_path)
        ended = training.end()
        assert (ended.status, ended.messages) == (0, [])
        runs[name] = records(training.run)
    skipped = [r["step"] for r in runs["one"] if r["kind"] == "train" and r["loss"] is None]
    assert 1 < len(skipped) < 10
    for name in ("ddp", "fsdp"):
        assert largest_difference(runs[name], runs["one"]) < 1e-6
        assert runs[name][-1]["kind"] == "validation"
        assert runs[name][-2]["skipped_steps"] == len(skipped)


def test_a_resumed_run_skips_the_same_steps(start: Callable[..., Training], tmp_path: Path) -> None:
    prepare_rare_token(tmp_path)
    whole = start("whole", *DDP, nproc=2, folder=tmp_path)
    assert whole.end().status == 0
    killed = start("killed", *DDP, "train.save_every=1", nproc=2, folder=tmp_path)
    killed.wait_for_step(random.randrange(15, 30))
    killed.kill()
    assert checkpoint.checkpoints(killed.run)
    ended = start("killed", *DDP, "train.save_every=1", nproc=2, folder=tmp_path, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(killed.run) == records(whole.run)
