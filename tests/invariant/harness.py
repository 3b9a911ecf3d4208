"""The real command line on a tiny recipe: start it, wait for a step, kill it, and read back what it left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.config import Config, Recipe, override, to_yaml
from wmtp.data.corpus import load_data
from wmtp.metrics import MetricsLog

STEPS = 50
POLL_SECONDS = 0.005
DEADLINE = 240.0
"""Seconds within which everything that is waited for happens, also on a busy machine."""
TAIL_BYTES = 2**13

RECIPE = {
    "seed": 1,
    "model.ref_id": "./reference",
    "model.hidden_size": 32,
    "model.layers": 2,
    "model.attention_heads": 2,
    "model.heads": 3,
    "model.init_std": 0.1,
    "data.source": "sums.jsonl",
    "data.fields": {"prompt": "prompt", "completion": "completion", "text": None},
    "data.validation": 0.1,
    "data.vocab_size": 300,
    "data.sequence_length": 64,
    "train.algo": "rho1-wmtp",
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.lr": 0.003,
    "train.warmup_steps": 5,
    "train.log_every": 1,
    "train.validate_every": 25,
    "train.save_every": 25,
}
TIMES = ("seconds", "data_seconds", "tokens_per_second", "memory_mib")
ONE = ("devices.parallel=auto",)
DDP = ("devices.parallel=ddp",)
FSDP = ("devices.parallel=fsdp",)


def prepare(folder: Path, **changes: Any) -> None:
    """Write what a run reads: documents of uneven length, a reference model, recipe.yaml and config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    rows = [
        {"prompt": f"add {i} to {i % 7}: ", "completion": f"{i + i % 7}" + " done" * chance.randrange(8)}
        for i in range(300)
    ]
    write_rows(folder / "sums.jsonl", rows)
    language_model(seed=1).save_pretrained(folder / "reference")
    recipe = override(Recipe(), RECIPE | changes, "recipe of the tests")
    if recipe.model.base_id is None:
        at_home = {"data.source": str(folder / "sums.jsonl")} if recipe.data.source == "sums.jsonl" else {}
        data = load_data(override(recipe, at_home, "recipe of the tests"), folder / "cache")
        data.tokenizer.save_pretrained(folder / "reference")
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    config = Config.model_validate({"devices": {"device": "cpu", "precision": "fp32", "threads": 1}})
    (folder / "config.yaml").write_text(to_yaml(config))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def language_model(seed: int) -> Any:
    """A next-token model with random weights, its embedding and its unembedding apart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def records(run: Path) -> list[dict[str, Any]]:
    """What a run wrote of its steps and validations, without times and memory."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in MetricsLog(run)]


def largest_difference(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> float:
    """The largest relative difference between numbers of two runs; infinite where anything else differs."""
    if [sorted(r) for r in found] != [sorted(r) for r in expected]:
        return float("inf")
    pairs = zip(_values(found), _values(expected), strict=True)
    return max((_difference(a, b) for a, b in pairs), default=0.0)


def _values(of: Sequence[Mapping[str, Any]]) -> list[Any]:
    values = [value for record in of for _, value in sorted(record.items())]
    return [part for value in values for part in (value if isinstance(value, list) else [value])]


def _difference(found: Any, expected: Any) -> float:
    if found == expected:
        return 0.0
    if not isinstance(found, float) or not isinstance(expected, float):
        return float("inf")
    return abs(found - expected) / max(abs(found), abs(expected))


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status, and everything on standard error."""

    status: int
    errors: str

    @property
    def messages(self) -> list[str]:
        """The lines on standard error that are not progress."""
        return [line for line in self.errors.splitlines() if "tok/s" not in line and line.strip()]


class Training:
    """`wmtp train` at work in a folder that `prepare` filled.

    Args:
        settings: `key=value`.
        nproc: for `--nproc`, or for torchrun if that is to start it; None for one plain process.
        options: more options of `wmtp train`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *settings: str,
        nproc: int | None = None,
        resume: str = "never",
        options: Sequence[str] = (),
        by_torchrun: bool = False,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.run = folder / "runs" / name
        words = ["train", "recipe.yaml", f"name={name}", *settings, "--config", "config.yaml"]
        words += ["--resume", resume, *options]
        start = ["-m", "wmtp"]
        if by_torchrun:
            start = ["-m", "torch.distributed.run", f"--nproc-per-node={nproc}", "--standalone", *start]
        elif nproc is not None:
            words += ["--nproc", str(nproc)]
        self._errors = folder / f"{name}.{time.monotonic_ns()}.stderr"
        self.started = time.time()
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *start, *words],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=before,
            )
        self._seen = {self.process.pid}

    def end(self) -> Ended:
        """Wait until all of its processes are gone."""
        self.wait_until(lambda: self.process.poll() is not None)
        self.wait_until(lambda: not any(map(is_alive, self._seen)))
        return Ended(self.process.wait(), self.errors())

    def errors(self) -> str:
        """What it has said on standard error so far."""
        return self._errors.read_text().replace("\r", "\n")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look again and again, and remember the workers meanwhile."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, self.errors()
            self.workers()
            time.sleep(POLL_SECONDS)

    def wait_for_step(self, step: int) -> None:
        """Wait until this process (not one before it) has told of a step that high."""
        self.wait_until(lambda: self.process.poll() is not None or self.last_step() >= step)
        assert self.process.poll() is None, self.errors()

    def last_step(self) -> int:
        """The last step that was trained and told of since this process started, 0 if none was."""
        record = _last_trained(self.run / "metrics.jsonl")
        return record["step"] if record is not None and record["time"] > self.started else 0

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written now."""
        return any((self.run / "checkpoints").glob(".step-*.partial"))

    def workers(self) -> dict[int, int]:
        """The process ids of the living workers by rank; this process's own, if it has none."""
        children = _children(self.process.pid)
        ranks = {int(rank): pid for pid in children if (rank := _variable(pid, "RANK")) is not None}
        self._seen |= set(ranks.values())
        return ranks or {0: self.process.pid}

    def kill(self) -> None:
        """SIGKILL to all of its living processes at once, and wait until they are gone."""
        self.workers()
        for pid in filter(is_alive, self._seen):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.wait_until(lambda: not any(map(is_alive, self._seen)))


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not merely unburied."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _variable(pid: int, name: str) -> str | None:
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    found = [entry for entry in content.split(b"\0") if entry.startswith(f"{name}=".encode())]
    return found[0].partition(b"=")[2].decode() if found else None


def _last_trained(path: Path) -> dict[str, Any] | None:
    """The record of the last step; a validation may be that of the step before a resumed run's first."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    complete = [line for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
    trained = (record for line in reversed(complete) if (record := json.loads(line))["kind"] == "train")
    return next(trained, None)
