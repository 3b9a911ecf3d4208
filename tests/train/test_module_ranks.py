"""A step split over ranks gives the loss and the gradients of one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from ranks import RECIPE, run_on_ranks
from wmtp.config import override
from wmtp.data.dataset import Document, tokenise
from wmtp.data.loader import BatchShape, Loader
from wmtp.data.tokenizer import train_tokenizer
from wmtp.distributed.world import World
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.train.state import Counters
from wmtp.train.trainer import Trainer

CASES = [
    {},
    {"loss.mode": "skip"},
    {"loss.mode": "emphasis", "loss.decay": 0.2},
    {"train.control": "shuffled"},
    {"train.control": "matched-random"},
]


def step(
    group: ProcessGroup | None, rank: int, world_size: int, micro: int, changes: dict[str, Any], cache: str
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step, averaged over ranks as DDP and FSDP average them."""
    documents = [Document(f"add {i}: ", f"{i} is {i + 1}" + " so" * (i % 5)) for i in range(80)]
    tokenizer = train_tokenizer([d.prompt + d.completion for d in documents], 300, Path(cache))
    recipe = override(RECIPE, {**changes, "train.micro_batch_size": micro}, "test")
    dataset = tokenise(documents, tokenizer, 48, "error")
    ce = np.random.default_rng(0).exponential(2, len(dataset.tokens)).astype(np.float16)
    loader = Loader(
        dataset,
        BatchShape(48, 8, micro),
        seed=0,
        rank=rank,
        world_size=world_size,
        columns={"reference_ce": ce},
    )
    module = WeightedMTP(
        build_model(recipe, tokenizer).double(), recipe, compute_dtype=torch.float64, group=group
    )
    trainer = object.__new__(Trainer)
    trainer.module = trainer.parallel = module
    trainer.world, trainer.counters = World(torch.device("cpu"), group=group), Counters()
    loss = torch.stack([o.loss.detach() for o in trainer._forward_backward(next(loader))]).sum()
    gradients = {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}
    if group is not None:
        for tensor in [loss, *gradients.values()]:
            dist.all_reduce(tensor)
            tensor /= world_size
    return float(loss), gradients


def all_steps(
    group: ProcessGroup, rank: int, cache: str
) -> list[list[tuple[float, dict[str, torch.Tensor]]]]:
    """Of every case, in micro-batches of 4 and of 2."""
    return [[step(group, rank, 2, micro, changes, cache) for micro in (4, 2)] for changes in CASES]


@pytest.fixture(scope="module")
def of_two_ranks(shared: Callable[..., list[Any]]) -> list[Any]:
    """What each rank found; all cases share two processes, which cost more than the steps."""
    return shared("steps-of-two-ranks", lambda folder: run_on_ranks(all_steps, 2, str(folder)))


@pytest.mark.parametrize("case", range(len(CASES)), ids=[str(changes) for changes in CASES])
def test_two_ranks_give_the_step_of_one_process(case: int, of_two_ranks: list[Any], tmp_path: Path) -> None:
    alone_loss, alone = step(None, 0, 1, 8, CASES[case], str(tmp_path))
    for rank in of_two_ranks:
        for loss, gradients in rank[case]:
            assert loss == pytest.approx(alone_loss, rel=1e-12)
            assert gradients.keys() == alone.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(gradient, alone[name], rtol=1e-9, atol=1e-12)
