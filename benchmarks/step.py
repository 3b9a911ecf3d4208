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

from trainers import lone_trainer, random_documents, step_seconds, word_tokenizer
from wmtp.config import DevicesConfig, Recipe, override
from wmtp.data.dataset import TokenDataset
from wmtp.environment import choose_device, choose_dtype, processor_name
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.train.trainer import Trainer

VARIANTS = {
    "next-token": {"model.heads": 1},
    "uniform MTP": {},
    "Rho-1 soft, cached scores": {"train.algo": "rho1-wmtp"},
    "Rho-1 skip 60%, cached scores": {"train.algo": "rho1-wmtp", "loss.mode": "skip", "loss.top_p": 0.6},
    "Rho-1 soft, live reference": {"train.algo": "rho1-wmtp"},
}


@dataclass(frozen=True)
class Result:
    """Seconds of the median step, and its ratio to the uniform MTP step (median of interleaved pairs)."""

    variant: str
    seconds: float
    ratio: float


def main() -> None:
    """Measure and print; with --json, also write."""
    arguments = _arguments()
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
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    title = (
        f"{card}, {torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}, torch {torch.__version__}: "
        f"D={arguments.hidden_size} L={arguments.layers} V={arguments.vocab_size} H={arguments.heads}, "
        f"{arguments.batch_size}×{arguments.sequence_length} tokens"
    )
    table = Table("variant", "seconds a step", "ratio", title=title)
    for result in results:
        table.add_row(result.variant, f"{result.seconds:.4f}", f"{result.ratio:.3f}")
    Console(width=110).print(table)
    if arguments.json is not None:
        facts = {"title": title, "python": platform.python_version(), "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(facts, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.hidden_size, arguments.layers, arguments.vocab_size = 32, 2, 300
        arguments.batch_size, arguments.sequence_length, arguments.repeats = 2, 32, 2
    return arguments


def _trainers(
    arguments: argparse.Namespace, folder: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, Trainer]:
    tokenizer = word_tokenizer(arguments.vocab_size)
    base = override(
        Recipe(),
        {
            "model.hidden_size": arguments.hidden_size,
            "model.layers": arguments.layers,
            "model.heads": arguments.heads,
            "model.attention_heads": max(2, arguments.hidden_size // 64),
            "data.sequence_length": arguments.sequence_length,
            "train.batch_size": arguments.batch_size,
            "train.steps": 1_000_000,
            "train.log_every": 1_000_000,
        },
        "benchmark",
    )
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
    return lone_trainer(module, dataset, tokenizer, folder, device, None if live_reference else scores)


if __name__ == "__main__":
    main()
