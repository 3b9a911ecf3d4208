"""Weights, their statistics and the controls do not depend on how a step is split over ranks."""

import math
from typing import Any

import pytest
import torch
from torch.distributed import ProcessGroup

from ranks import run_on_ranks
from wmtp.config import CONTROLS, WeightConfig
from wmtp.weighting.controls import apply_control
from wmtp.weighting.weights import normalise, weight_statistics

ROWS, S, H = 12, 40, 3
SPLITS = {1: (12,), 2: (9, 3), 4: (5, 0, 1, 6)}
CONFIGS = [
    WeightConfig(mode=mode, temperature=temperature, lambda_=lambda_)
    for mode, temperature, lambda_ in [
        ("soft", 1.0, 1.0),
        ("soft", 1e-3, 1.0),
        ("soft", 1.0, 0.4),
        ("emphasis", 1.0, 1.0),
        ("skip", 1.0, 1.0),
        ("proportional", 1.0, 1.0),
        ("proportional", 1.0, 0.4),
    ]
]


def make_cases() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Scores and validity of a whole step."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(ROWS, S, H, generator=generator)
    some = torch.rand(ROWS, S, H, generator=generator) < 0.7
    dirty = noise.clone()
    dirty[0, :5], dirty[-1, 3:5], dirty[4] = math.nan, math.inf, 1e30
    first_row = torch.zeros_like(some)
    first_row[0] = some[0]
    single = torch.zeros_like(some)
    single[7, 1, 1] = True
    return {
        "noise": (noise, some),
        "ties": (noise.round(), some),
        "dirty": (dirty, some),
        "equal": (torch.full_like(noise, 0.1), some),
        "one row": (noise, first_row),
        "one entry": (noise, single),
        "nothing": (noise, torch.zeros_like(some)),
    }


def weigh(group: ProcessGroup | None, rank: int, split: tuple[int, ...]) -> dict[tuple[Any, ...], Any]:
    """This rank's share of every case, under every configuration and control."""
    keys = torch.arange(ROWS * S).view(ROWS, S) * 7
    keys[8] = keys[2]  # tokens seen twice, on different ranks
    keys = keys.split(split)[rank]
    results: dict[tuple[Any, ...], Any] = {}
    for name, case in make_cases().items():
        scores, valid = (x.split(split)[rank] for x in case)
        for i, config in enumerate(CONFIGS):
            weights = normalise(scores, valid, config, group)
            results[name, i] = weights
            results[name, i, "statistics"] = weight_statistics(weights, valid, group)
        for control in CONTROLS:
            results[name, control] = apply_control(
                control, results[name, 0], valid, keys, seed=1, step=2, group=group
            )
    return results


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_on_any_number_of_ranks(world_size):
    whole = weigh(None, 0, SPLITS[1])
    shares = run_on_ranks(weigh, world_size, SPLITS[world_size])
    for key, expected in whole.items():
        if "statistics" in key:
            for share in shares:
                torch.testing.assert_close(share[key], expected, rtol=1e-6, atol=0)
        else:
            together = torch.cat([share[key] for share in shares])
            torch.testing.assert_close(together, expected, rtol=2e-7, atol=0, msg=str(key))
