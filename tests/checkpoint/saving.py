"""Small states whose every number tells the step they are of, and saving them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp.checkpoint import store as checkpoint
from wmtp.checkpoint.writer import CheckpointWriter

SHAPES = {"layers.0.weight": (7, 5), "layers.0.bias": (3,), "lm_head.weight": (9, 4)}


def value(name: str, step: int, shape: tuple[int, ...]) -> Tensor:
    """What the tensor of this name holds at a step."""
    return torch.arange(torch.Size(shape).numel()).reshape(shape) + 1000.0 * step + len(name)


def model_at(step: int) -> dict[str, Tensor]:
    return {name: value(name, step, shape) for name, shape in SHAPES.items()}


def training_at(step: int) -> dict[str, Tensor]:
    return {f"exp_avg.{name}": value(f"exp_avg.{name}", step, shape) for name, shape in SHAPES.items()} | {
        "step.lm_head.weight": torch.tensor(float(step)),
        "rng.0": torch.full((50,), step % 256, dtype=torch.uint8),
    }


def write_files(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
    (folder / "tokenizer.json").write_text("{}")


def make_writer(run: Path, **changes: Any) -> CheckpointWriter:
    settings = {"keep": 2, "keep_every": None, "in_background": False, "group": None}
    return CheckpointWriter(run, **(settings | changes))


def save(
    writer: CheckpointWriter, step: int, files: Callable[[Path], None] = write_files, of: int | None = None
) -> None:
    """Save the numbers of step `of` as those of `step`."""
    of = step if of is None else of
    writer.save(
        step, model=model_at(of), training=training_at(of), state={"step": step, "of": of}, files=files
    )


def save_and_wait(
    writer: CheckpointWriter, step: int, files: Callable[[Path], None] = write_files, of: int | None = None
) -> Path:
    """As `save`, until it is on disk; the newest checkpoint."""
    save(writer, step, files, of)
    saved = writer.wait()
    assert saved is not None
    return saved


def content(saved: Path) -> int:
    """The step that every number of a checkpoint is of; an error where they are not of one."""
    of = checkpoint.load_state(saved)["of"]
    for part, expected in (("model", model_at(of)), ("training", training_at(of))):
        loaded = {name: torch.full_like(tensor, 99) for name, tensor in expected.items()}
        checkpoint.load_tensors(saved, part, loaded)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    return of


def names(run: Path) -> list[str]:
    """Everything in a run's folder of checkpoints."""
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def flip(file: Path) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
