"""How long saving holds training up: in the background against in the foreground.

Real steps of the trainer on random tokens, with a checkpoint (parameters and Adam's two moments, float32) after every
few of them: at the demo's size, and at 200M parameters. "Blocked" is the time that `save` takes before it returns;
"slower" what the steps lose beside it while the checkpoint is being written.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from trainers import card_name, lone_trainer, random_documents, step_seconds, word_tokenizer
from wmtp.config import DevicesConfig, Recipe, override
from wmtp.environment import choose_device, choose_dtype
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.train.trainer import Trainer

SIZES = {
    "demo": {"hidden": 128, "layers": 3, "attention_heads": 4, "vocab": 768, "rows": 10, "length": 128},
    "200M": {"hidden": 1024, "layers": 12, "attention_heads": 16, "vocab": 8192, "rows": 4, "length": 256},
}
QUICK = {"demo": {"hidden": 32, "layers": 2, "attention_heads": 2, "vocab": 300, "rows": 2, "length": 32}}


@dataclass(frozen=True)
class Result:
    """Seconds, medians; ratios are to the median step without saving."""

    size: str
    parameters: int
    background: bool
    step: float
    blocked: float
    blocked_ratio: float
    slower_ratio: float


def main() -> None:
    """Measure and print; with --json, also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    arguments = parser.parse_args()
    device = choose_device(DevicesConfig(device=arguments.device))
    sizes = QUICK if arguments.quick else SIZES
    results = [
        _measure(name, size, background, arguments.saves, device)
        for name, size in sizes.items()
        for background in (True, False)
    ]
    table = Table(
        "size", "saving", "step s", "blocked s", "blocked / step", "slower beside it", title=_title(device)
    )
    for result in results:
        table.add_row(
            f"{result.size} ({result.parameters / 1e6:.1f}M)",
            "in the background" if result.background else "in the foreground",
            f"{result.step:.3f}",
            f"{result.blocked:.4f}",
            f"{100 * result.blocked_ratio:.1f}%",
            f"{100 * result.slower_ratio:+.1f}%",
        )
    Console(width=110).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1))


def _title(device: torch.device) -> str:
    return f"{card_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _measure(name: str, size: dict[str, int], background: bool, saves: int, device: torch.device) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(size, background, Path(folder), device)
        for _ in range(2):
            step_seconds(trainer)
        trainer.save()  # buffers are made once
        trainer.writer.wait()
        plain, blocked, beside = [], [], []
        for _ in range(saves):
            plain.append(step_seconds(trainer))
            started = time.perf_counter()
            trainer.save()
            blocked.append(time.perf_counter() - started)
            beside.append(step_seconds(trainer))
            trainer.writer.wait()
        step = statistics.median(plain)
        return Result(
            name,
            sum(p.numel() for p in trainer.module.model.parameters()),
            background,
            step,
            statistics.median(blocked),
            statistics.median(blocked) / step,
            statistics.median(beside) / step - 1,
        )


def _trainer(size: dict[str, int], background: bool, folder: Path, device: torch.device) -> Trainer:
    recipe = override(
        Recipe(),
        {
            "model.hidden_size": size["hidden"],
            "model.layers": size["layers"],
            "model.attention_heads": size["attention_heads"],
            "data.sequence_length": size["length"],
            "train.batch_size": size["rows"],
            "train.steps": 1_000_000,
            "train.log_every": 1_000_000,
            "train.async_save": background,
            "train.keep_checkpoints": 1,
        },
        "benchmark",
    )
    dataset = random_documents(8 * size["rows"], size["length"], size["vocab"])
    tokenizer = word_tokenizer(size["vocab"])
    dtype = choose_dtype(DevicesConfig(), device)
    module = WeightedMTP(build_model(recipe, tokenizer), recipe, compute_dtype=dtype)
    return lone_trainer(module, dataset, tokenizer, folder, device)


if __name__ == "__main__":
    main()
