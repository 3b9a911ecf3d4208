"""What every scorer adds to a training step.

Times whole optimiser steps of the real trainer on random tokens, interleaved. Each scorer is set against uniform MTP,
and against a scorer that asks for the same (cross-entropies, entropy, values, …) and gives zeros: the difference is
what scoring costs on top of computing its inputs. Ratios are to the uniform step, medians over interleaved pairs.
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trainers import (
    lone_trainer,
    random_documents,
    step_arguments,
    step_recipe,
    step_seconds,
    step_title,
    word_tokenizer,
)
from wmtp.config import DevicesConfig, override
from wmtp.critic.model import Critic
from wmtp.critic.value_head import ValueHead
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Batch, collate
from wmtp.environment import choose_device, choose_dtype
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.train.trainer import Trainer
from wmtp.weighting.scorers.base import ScoreInputs, Scorer

UNIFORM = "uniform"
SCORERS = {
    "uniform": {},
    "rho1-excess-v1": {},
    "critic-delta-v1": {},
    "critic-gae-v1": {},
    "entropy-v1": {},
    "grad-norm-v1": {},
    "grpo-v1": {},
    "learned-v1": {},
    "blend": {"parts": {"rho1-excess-v1": 0.5, "entropy-v1": 0.5}},
}


class Zeros(Scorer):
    """Asks for what another scorer asks for, and gives zeros."""

    def __init__(self, needs: frozenset[str]) -> None:
        self.needs = needs

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S]."""
        return torch.zeros_like(inputs.valid_bs, dtype=torch.float32)


@dataclass(frozen=True)
class Result:
    """Shares of the uniform step: computing the inputs (`must_run`), and the scorer itself."""

    scorer: str
    seconds: float
    must_run: float
    scoring: float


def main() -> None:
    """Measure and print; with --json, also write."""
    arguments = step_arguments(__doc__, repeats=7)
    device = choose_device(DevicesConfig(device=arguments.device))
    dtype = choose_dtype(DevicesConfig(device=arguments.device, precision=arguments.precision), device)
    with tempfile.TemporaryDirectory() as folder:
        trainers = _trainers(arguments, Path(folder), device, dtype)
        times: dict[tuple[str, bool], list[float]] = {key: [] for key in trainers}
        for repeat in range(arguments.repeats + 2):
            for key, trainer in trainers.items():
                seconds = step_seconds(trainer)
                if repeat >= 2:
                    times[key].append(seconds)
    base = times[UNIFORM, True]
    results = [
        Result(
            name,
            statistics.median(times[name, True]),
            _share(times[name, False], base, base),
            _share(times[name, True], times[name, False], base),
        )
        for name in SCORERS
    ]
    title = step_title(arguments, device, dtype)
    table = Table("scorer", "seconds a step", "inputs", "scoring on top", title=title)
    for result in results:
        shares = (f"{100 * share:+.1f}%" for share in (result.must_run, result.scoring))
        table.add_row(result.scorer, f"{result.seconds:.4f}", *shares)
    Console(width=110).print(table)
    if arguments.json is not None:
        facts = {"title": title, "python": platform.python_version(), "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(facts, indent=1))


def _share(more: list[float], less: list[float], base: list[float]) -> float:
    return statistics.median((a - b) / c for a, b, c in zip(more, less, base, strict=True))


def _trainers(
    arguments: argparse.Namespace, folder: Path, device: torch.device, dtype: torch.dtype
) -> dict[tuple[str, bool], Trainer]:
    """By scorer, and whether it scores or gives zeros. All share one model, whose weights do not matter."""
    tokenizer = word_tokenizer(arguments.vocab_size)
    base = step_recipe(arguments)
    dataset = random_documents(8 * arguments.batch_size, arguments.sequence_length, arguments.vocab_size)
    rng = np.random.default_rng(1)
    columns = {
        "reference_ce": rng.exponential(3, len(dataset.tokens)).astype(np.float16),
        "rewards": np.repeat(rng.integers(0, 2, len(dataset)), dataset.lengths).astype(np.float32),
        "advantages": np.repeat(rng.standard_normal(len(dataset)), dataset.lengths).astype(np.float32),
    }
    model = build_model(base, tokenizer)

    def trainer(name: str, settings: dict[str, Any], is_scoring: bool) -> Trainer:
        recipe = override(base, {"scorer": {"name": name, **settings}}, name)
        critic = Critic(ValueHead(arguments.hidden_size, seed=1), None, reads_trunk=True).requires_grad_(
            False
        )
        module = WeightedMTP(
            model,
            recipe,
            compute_dtype=dtype,
            critic=critic,
            clean=_clean(dataset, arguments.sequence_length),
        )
        if not is_scoring:
            module.scorer = Zeros(module.scorer.needs)
        return lone_trainer(module, dataset, tokenizer, folder, device, columns)

    return {(n, scores): trainer(n, c, scores) for n, c in SCORERS.items() for scores in (True, False)}


def _clean(dataset: TokenDataset, length: int) -> Callable[[int], Batch]:
    return lambda step: collate(dataset, [[step % len(dataset)], [(step + 1) % len(dataset)]], length)


if __name__ == "__main__":
    main()
