"""Time and memory of the weighted linear cross-entropy, forward and backward, and of other ways to compute it.

    python benchmarks/loss.py [--n 2048 --d 512 --v 32000 --heads 4] [--dtype fp32 bf16] [--device cuda]

It is the loss of one training step over H heads: N·H rows of D numbers, one unembedding [V, D], a weight for
every row. No weight is zero unless the name of a variant says so. torch.nn.functional.linear_cross_entropy
has weights for classes only: reduced, it computes an unweighted loss; unreduced, it is weighted outside.

Extra memory is the peak during forward and backward, minus what was there before (the inputs), minus the
gradients of hidden states and unembedding, which every implementation returns (as many bytes as these two).
On a CPU it is read from the resident set of a process of its own, so that scratch space of libraries and
habits of the allocator count too. Seconds are the median of the repeats; the variants take turns, so that a
busy machine slows all of them.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from wmtp.loss import reference, weighted_linear_cross_entropy

MIB = 2**20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATERIALISED = "materialised"
CHUNKED = "wmtp, chunked"
TARGET_SECONDS, TARGET_MEMORY = 0.9, 1 / 8  # of the materialised version's
QUICK = {"n": 256, "d": 64, "v": 4000, "repeats": 1, "chunk_size": 64, "memory_heads": [1, 2]}


@dataclass(frozen=True)
class Case:
    """Sizes, dtype and device of a measurement."""

    n: int
    d: int
    v: int
    heads: int
    dtype: str
    device: str
    chunk_size: int


@dataclass(frozen=True)
class Inputs:
    """hidden [N·H, D] head by head, unembedding [V, D], targets and weights [N·H]."""

    case: Case
    hidden: Tensor
    unembedding: Tensor
    targets: Tensor
    weights: Tensor


def make_inputs(case: Case) -> Inputs:
    torch.manual_seed(0)
    rows, device, dtype = case.n * case.heads, case.device, DTYPES[case.dtype]
    weights = torch.rand(rows, device=device) + 0.5
    return Inputs(
        case,
        hidden=torch.randn(rows, case.d, device=device, dtype=dtype, requires_grad=True),
        unembedding=(torch.randn(case.v, case.d, device=device) / case.d**0.5).to(dtype).requires_grad_(),
        targets=torch.randint(0, case.v, (rows,), device=device),
        weights=weights / weights.sum(),
    )


def gradients(loss: Tensor, inputs: Inputs) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [inputs.hidden, inputs.unembedding]))


def materialised(x: Inputs) -> list[Tensor]:
    loss, _ = reference.weighted_linear_cross_entropy(x.hidden, x.unembedding, x.targets, x.weights)
    return gradients(loss, x)


def one_head_at_a_time(x: Inputs) -> list[Tensor]:
    heads = torch.chunk(x.hidden.detach(), x.case.heads)
    targets, weights = torch.chunk(x.targets, x.case.heads), torch.chunk(x.weights, x.case.heads)
    gradients_of_heads, total = [], None
    for h in range(x.case.heads):
        hidden = heads[h].requires_grad_()
        loss, _ = reference.weighted_linear_cross_entropy(hidden, x.unembedding, targets[h], weights[h])
        grad_hidden, grad_unembedding = torch.autograd.grad(loss, [hidden, x.unembedding])
        gradients_of_heads.append(grad_hidden)
        total = grad_unembedding if total is None else total.add_(grad_unembedding)
    assert total is not None
    return [*gradients_of_heads, total]


def chunked(x: Inputs) -> list[Tensor]:
    loss, _ = weighted_linear_cross_entropy(
        x.hidden, x.unembedding, x.targets, x.weights, chunk_size=x.case.chunk_size
    )
    return gradients(loss, x)


def chunked_skipping(x: Inputs) -> list[Tensor]:
    skipped = torch.arange(len(x.weights), device=x.weights.device) % 5 < 2
    return chunked(replace(x, weights=torch.where(skipped, 0, x.weights)))


def torch_plain(x: Inputs) -> list[Tensor]:
    loss = functional.linear_cross_entropy(x.hidden, x.unembedding, x.targets, reduction="sum")
    return gradients(loss, x)


def torch_options(x: Inputs) -> list[Tensor]:
    loss = functional.linear_cross_entropy(
        x.hidden,
        x.unembedding,
        x.targets,
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    return gradients(loss, x)


def torch_options_per_token(x: Inputs) -> list[Tensor]:
    ce = functional.linear_cross_entropy(
        x.hidden,
        x.unembedding,
        x.targets,
        reduction="none",
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    return gradients((x.weights * ce).sum(), x)


@dataclass(frozen=True)
class Variant:
    name: str
    run: Callable[[Inputs], list[Tensor]]
    weights: str
    """What the variant itself can weight."""


VARIANTS = [
    Variant(MATERIALISED, materialised, "token"),
    Variant("one head at a time", one_head_at_a_time, "token"),
    Variant(CHUNKED, chunked, "token"),
    Variant("wmtp, 40% zero weights", chunked_skipping, "token"),
]
if hasattr(functional, "linear_cross_entropy"):  # since torch 2.13
    VARIANTS += [
        Variant("torch, no options", torch_plain, "class"),
        Variant("torch, options", torch_options, "class"),
        Variant("torch, options, unreduced", torch_options_per_token, "outside"),
    ]
BY_NAME = {variant.name: variant for variant in VARIANTS}


def measure_seconds(case: Case, repeats: int) -> dict[str, list[float]]:
    small, inputs = make_inputs(replace(case, n=-(-case.n // 8))), make_inputs(case)
    for variant in VARIANTS:
        variant.run(small)
    seconds: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    for _ in range(repeats):
        for variant in VARIANTS:
            wait_for_device(case)
            start = time.perf_counter()
            variant.run(inputs)
            wait_for_device(case)
            seconds[variant.name].append(time.perf_counter() - start)
    return seconds


def wait_for_device(case: Case) -> None:
    if case.device != "cpu":
        torch.cuda.synchronize(case.device)


def measure_extra_mib(case: Case, name: str, threads: int) -> float:
    """Peak extra memory of one forward and backward, for a process that has done nothing else."""
    torch.set_num_threads(threads)
    run = BY_NAME[name].run
    run(make_inputs(replace(case, n=min(case.n, 16), v=min(case.v, 1000))))
    inputs = make_inputs(case)
    if case.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
        before = resident_bytes("VmRSS")
    else:
        torch.cuda.reset_peak_memory_stats(case.device)
        before = torch.cuda.memory_allocated(case.device)
    computed = run(inputs)
    wait_for_device(case)
    peak = resident_bytes("VmHWM") if case.device == "cpu" else torch.cuda.max_memory_allocated(case.device)
    return (peak - before - sum(gradient.nbytes for gradient in computed)) / MIB


def resident_bytes(field: str) -> int:
    """A size in /proc/self/status, which gives it in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class FreshProcesses:
    """Measures memory, a CPU's each time in a process that has only imported torch: a GPU's allocator keeps count."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "wmtp.loss"])

    def extra_mib(self, case: Case, name: str) -> float:
        if case.device != "cpu":
            return measure_extra_mib(case, name, torch.get_num_threads())
        with ProcessPoolExecutor(1, mp_context=self._context) as pool:
            return pool.submit(measure_extra_mib, case, name, torch.get_num_threads()).result()


def benchmark(case: Case, repeats: int, memory_heads: list[int]) -> dict[str, Any]:
    """All measurements for one dtype."""
    processes = FreshProcesses()
    seconds = measure_seconds(case, repeats)
    return {
        "case": asdict(case),
        "variants": [
            {
                "name": variant.name,
                "weights": variant.weights,
                "seconds": statistics.median(seconds[variant.name]),
                "all_seconds": seconds[variant.name],
                "extra_mib": processes.extra_mib(case, variant.name),
            }
            for variant in VARIANTS
        ],
        "chunked_extra_mib_by_heads": {
            heads: processes.extra_mib(replace(case, heads=heads), CHUNKED) for heads in memory_heads
        },
    }


def show(result: dict[str, Any], console: Console) -> None:
    case, variants = result["case"], {row["name"]: row for row in result["variants"]}
    base, ours = variants[MATERIALISED], variants[CHUNKED]
    sizes = f"N={case['n']} D={case['d']} V={case['v']} H={case['heads']}, chunks of {case['chunk_size']}"
    table = Table(title=f"{sizes}, {case['dtype']} on {case['device']}", box=SIMPLE)
    table.add_column("forward + backward", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for column in ("seconds", "ratio", "extra MiB", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in variants.values():
        table.add_row(
            row["name"],
            row["weights"],
            f"{row['seconds']:.3f}",
            f"{row['seconds'] / base['seconds']:.2f}",
            f"{row['extra_mib']:.0f}",
            f"{row['extra_mib'] / base['extra_mib']:.3f}",
        )
    console.print(table)
    by_heads = ", ".join(f"H={h} {mib:.0f}" for h, mib in result["chunked_extra_mib_by_heads"].items())
    console.print(f"{CHUNKED}, extra MiB by number of heads: {by_heads}")
    for quantity, key, target in (
        ("time", "seconds", TARGET_SECONDS),
        ("memory", "extra_mib", TARGET_MEMORY),
    ):
        ratio = ours[key] / base[key]
        verdict = "reached" if ratio <= target else "missed"
        console.print(f"{quantity}: {ratio:.3f} × materialised, target at most {target:.3f}: {verdict}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2048, help="tokens")
    parser.add_argument("--d", type=int, default=512, help="hidden size")
    parser.add_argument("--v", type=int, default=32000, help="vocabulary size")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--chunk-size", type=int, default=512, help="rows of logits in memory at a time")
    parser.add_argument("--memory-heads", type=int, nargs="*", default=[1, 4, 8], help="numbers of heads")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers here too")
    first, _ = parser.parse_known_args()
    if first.quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    console = Console()
    results = []
    for dtype in arguments.dtype:
        case = Case(
            n=arguments.n,
            d=arguments.d,
            v=arguments.v,
            heads=arguments.heads,
            dtype=dtype,
            device=arguments.device,
            chunk_size=arguments.chunk_size,
        )
        with console.status(f"measuring {dtype}"):
            results.append(benchmark(case, arguments.repeats, arguments.memory_heads))
        show(results[-1], console)
    if arguments.json:
        facts = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }
        arguments.json.write_text(json.dumps({"environment": facts, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
