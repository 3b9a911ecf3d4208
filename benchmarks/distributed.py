"""Two processes with a thread each against one process with two threads: tokens/s through the command line.

Runs `wmtp train` on the demo's model, alternately, and reads metrics.jsonl. The ratio is the median over rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wmtp.environment import processor_name
from wmtp.metrics import MetricsLog

LAYOUTS = {
    "1 process": ([], 1),
    "2 processes, DDP": (["devices.parallel=ddp"], 2),
    "2 processes, FSDP2": (["devices.parallel=fsdp"], 2),
}
SMALL = [
    "model.hidden_size=32",
    "model.layers=2",
    "data.vocab_size=300",
    "data.sequence_length=256",
    "data.tinycode.train=400",
    "data.tinycode.validation=20",
    "data.tinycode.test=20",
    "data.tinycode.curated=100",
]


def main() -> None:
    """Measure and print; with --json, also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="in total")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.rounds = 4, 1
    rates: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    for _ in range(arguments.rounds):
        for name, (settings, processes) in LAYOUTS.items():
            rates[name].append(_tokens_per_second(settings, processes, arguments))
    base = rates["1 process"]
    table = Table(
        "layout", "tokens/s", "ratio", title=f"{processor_name()}, {arguments.threads} threads in all"
    )
    found = {}
    for name, own in rates.items():
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        found[name] = {"tokens_per_second": statistics.median(own), "ratio": ratio}
        table.add_row(name, f"{statistics.median(own):,.0f}", f"{ratio:.3f}")
    Console(width=100).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1))


def _tokens_per_second(settings: list[str], processes: int, arguments: argparse.Namespace) -> float:
    """The median over all steps but the first few."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-m",
            "wmtp",
            "train",
            "demo",
            f"train.steps={arguments.steps}",
            "train.warmup_steps=null",
        ]
        words += ["train.log_every=1", "train.save_every=1000000", "train.validate_every=1000000"]
        words += [f"paths.runs={folder}", f"devices.threads={arguments.threads // processes}", *settings]
        words += [f"devices.precision={arguments.precision}"]
        words += SMALL if arguments.quick else []
        words += ["--nproc", str(processes)] if processes > 1 else []
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode:
            sys.exit(done.stderr)
        records = [r for r in MetricsLog(Path(folder) / "demo") if r["kind"] == "train"]
        return statistics.median(r["tokens_per_second"] for r in records[3:])


if __name__ == "__main__":
    main()
