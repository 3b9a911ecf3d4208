"""Packed rows with everything that a scorer may know of them, and scorers to mix."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wmtp.config import WeightConfig
from wmtp.data.loader import Batch
from wmtp.data.targets import make_targets
from wmtp.weighting.scorers.base import ScoreInputs, Scorer, StepInfo

HEADS = 3
LAYOUT = [[5, 1, 6], [9, 2], [3, 4, 5], [12]]
"""Lengths of the documents of each row; what is left of 14 places is padding."""


def make_inputs(seed: int = 0, layout: list[list[int]] = LAYOUT, length: int = 14) -> ScoreInputs:
    """Random numbers in every field; NaN where nothing is known, and what is about targets where there is none."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(layout), length)
    document_ids = torch.zeros(shape, dtype=torch.int64)
    rewards, advantages = torch.full(shape, math.nan), torch.full(shape, math.nan)
    for b, row in enumerate(layout):
        at = 0
        for number, size in enumerate(row, start=1):
            place = slice(at, at + size)
            document_ids[b, place] = number
            rewards[b, place] = torch.randn((), generator=generator)
            advantages[b, place] = 2 * torch.randn((), generator=generator)
            at += size
    is_token = document_ids > 0
    supervised = is_token & (torch.rand(shape, generator=generator) < 0.8)
    batch = Batch(
        ids=torch.randint(50, shape, generator=generator),
        document_ids=document_ids,
        position_ids=torch.zeros(shape, dtype=torch.int64),
        supervised=supervised,
        token_keys=torch.arange(document_ids.numel()).view(shape),
    )
    valid_bs = valid_of(batch)[..., 0]

    def of_targets(x: Tensor) -> Tensor:
        return x.where(valid_bs, math.nan)

    return ScoreInputs(
        batch,
        valid_bs,
        learner_ce_bs=of_targets(4 * torch.rand(shape, generator=generator)),
        entropy_bs=of_targets(3 * torch.rand(shape, generator=generator)),
        gradient_norm_bs=of_targets(torch.rand(shape, generator=generator)),
        alignment_bs=of_targets(torch.randn(shape, generator=generator)),
        reference_ce_bs=of_targets(4 * torch.rand(shape, generator=generator)),
        values_bs=torch.randn(shape, generator=generator).where(is_token, math.nan),
        rewards_bs=rewards,
        advantages_bs=advantages,
    )


def valid_of(batch: Batch) -> Tensor:
    """[B, S, H]."""
    return make_targets(batch.ids, batch.document_ids, batch.supervised, HEADS)[1]


def step_info(inputs: ScoreInputs, *, is_training: bool = True, **changes: Any) -> StepInfo:
    """The step of these rows alone."""
    known: dict[str, Any] = {"step": 0, "steps": 10, "config": WeightConfig()}
    return StepInfo(valid_of(inputs.batch), is_training=is_training, **known | changes)


def documents(inputs: ScoreInputs) -> Iterator[tuple[int, list[int]]]:
    """Row and places of every document."""
    for b, ids in enumerate(inputs.batch.document_ids.tolist()):
        for number in range(1, max(ids) + 1):
            yield b, [s for s, i in enumerate(ids) if i == number]


class PerHead(Scorer):
    """[B, S, H]: an importance for every head, of its own."""

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        return torch.stack([(inputs.batch.ids * (h + 2) % 7).float() for h in range(HEADS)], dim=2)


class SometimesNaN(Scorer):
    """The token itself, but NaN where its id is even."""

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        ids = inputs.batch.ids
        return ids.float().where(ids % 2 == 1, math.nan)
