"""One training step: next-token, uniform MTP, Rho-1 weights from cached scores, skip mode, a live reference.

Times whole optimiser steps of the real trainer on random tokens, interleaved, so that a drifting machine touches all
variants alike. Ratios are to the uniform MTP step.
"""

import argparse
import json
import platform
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from trainers import (
    lone_trainer,
    random_documents,
    step_arguments,
    step_recipe,
    step_seconds,
    step_title,
    word_tokenizer,
)
from wmtp.config import DevicesConfig, Recipe, override
from wmtp.data.dataset import TokenDataset
from wmtp.environment import choose_device, choose_dtype
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.train.trainer import Trainer

VARIANTS = {
    "next-token": {"model.heads": 1},
    "uniform MTP": {},
    "Rho-1 soft, cached scores": {"scorer": "rho1-excess-v1"},
    "Rho-1 skip 60%, cached scores": {"scorer": "rho1-excess-v1", "loss.mode": "skip", "loss.top_p": 0.6},
    "Rho-1 soft, live reference": {"scorer": "rho1-excess-v1"},
}


@dataclass(frozen=True)
class Result:
    """Seconds of the median step, and its ratio to the uniform MTP step (median of interleaved pairs)."""

    variant: str
    seconds: float
    ratio: float


def main() -> None:
    """Measure and print; with --json, also write."""
    arguments = step_arguments(__doc__, repeats=5)
    device = choose_device(DevicesConfig(device=arguments.device))
    dtype = choose_dtype(DevicesConfig(device=arguments.device, precision=arguments.precision), device)
    with tempfile.TemporaryDirectory() as folder:
        trainers = _trainers(arguments, Path(folder), device, dtype)
        times: dict[str, list[float]] = {name: [] for name in trainers}
        for repeat in range(arguments.repeats + 2):
            for name, trainer in trainers.items():
                seconds = step_seconds(trainer)
                if repeat >= 2:
                    times[name].append(seconds)
    base = times["uniform MTP"]
    results = [
        Result(
            name,
            statistics.median(own),
            statistics.median(a / b for a, b in zip(own, base, strict=True)),
        )
        for name, own in times.items()
    ]
    title = step_title(arguments, device, dtype)
    table = Table("variant", "seconds a step", "ratio", title=title)
    for result in results:
        table.add_row(result.variant, f"{result.seconds:.4f}", f"{result.ratio:.3f}")
    Console(width=110).print(table)
    if arguments.json is not None:
        facts = {"title": title, "python": platform.python_version(), "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(facts, indent=1))


def _trainers(
    arguments: argparse.Namespace, folder: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, Trainer]:
    tokenizer = word_tokenizer(arguments.vocab_size)
    base = step_recipe(arguments)
    dataset = random_documents(8 * arguments.batch_size, arguments.sequence_length, arguments.vocab_size)
    scores = np.random.default_rng(1).exponential(3, len(dataset.tokens)).astype(np.float16)
    return {
        name: _trainer(
            override(base, changes, name), dataset, scores, "live" in name, tokenizer, folder, device, dtype
        )
        for name, changes in VARIANTS.items()
    }


def _trainer(
    recipe: Recipe,
    dataset: TokenDataset,
    scores: np.ndarray,
    live_reference: bool,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> Trainer:
    reference = None
    if live_reference:
        one_head = override(recipe, {"model.heads": 1}, "reference")
        reference = build_model(one_head, tokenizer).eval().requires_grad_(False)
    module = WeightedMTP(build_model(recipe, tokenizer), recipe, compute_dtype=dtype, reference=reference)
    return lone_trainer(
        module, dataset, tokenizer, folder, device, {} if live_reference else {"reference_ce": scores}
    )


if __name__ == "__main__":
    main()
