"""Checkpoints of a run: finding, checking and reading them.

`checkpoints/step-XXXXXXXX/` holds config.json, the tokenizer and model-*.safetensors as transformers reads them,
training/*.safetensors, state.json, and manifest.json with a checksum of every other file. It appears complete or not
at all.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from wmtp.checkpoint.legacy import is_legacy
from wmtp.checkpoint.tensors import read_tensors, tensor_sizes
from wmtp.distributed.agreement import agree
from wmtp.distributed.world import rank, world_size
from wmtp.errors import WMTPError, one_line
from wmtp.layout import CHECKPOINTS
from wmtp.storage import directories, mend, point, read_json, sha256_file

FORMAT = 3
READABLE = (2, 3)
STATE = "state.json"
MANIFEST = "manifest.json"
LATEST = "latest"
ESSENTIAL = {"config.json", STATE}

Part = Literal["model", "training"]


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [p for p in directories(run / CHECKPOINTS) if re.fullmatch(r"step-\d{8,}", p.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimiser steps behind a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of this package, and not one of transformers' model folders."""
    return (folder / MANIFEST).is_file()


def digests(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its name relative to the checkpoint, as written down when it was saved.

    Raises:
        WMTPError: not a checkpoint of this format, or its manifest is damaged.
    """
    if not is_checkpoint(checkpoint):
        raise WMTPError(f"{checkpoint}: not a WMTP checkpoint (no {MANIFEST})")
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except WMTPError:
        raise WMTPError(f"{checkpoint}: damaged: {MANIFEST} cannot be read") from None
    if not isinstance(manifest, dict) or manifest.get("format") not in READABLE:
        raise WMTPError(f"{checkpoint}: not a WMTP checkpoint of format {' or '.join(map(str, READABLE))}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not files.keys() >= ESSENTIAL:
        raise WMTPError(f"{checkpoint}: damaged: {MANIFEST} is not what was saved")
    return files


def verify(checkpoint: Path, group: ProcessGroup | None = None, *, without: Part | None = None) -> None:
    """Compare every file, or all but those of a part, with the manifest; the ranks share the work.

    Raises:
        WMTPError: not a checkpoint of this format, or damaged; every rank raises it.
    """
    reason = _objection(checkpoint, group, without)
    if reason is not None:
        advice = "; take another checkpoint" if reason.startswith("damaged") else ""
        raise WMTPError(f"{checkpoint}: {reason}{advice}")


def newest_good(run: Path, say: Callable[[str], None], group: ProcessGroup | None = None) -> Path | None:
    """The newest checkpoint that is not damaged, the same on every rank; None where the run has none at all.

    Args:
        say: called on rank 0 with a line about every newer, damaged one.

    Raises:
        WMTPError: all are damaged.
    """
    found = agree(lambda: checkpoints(run), group)[0]
    damaged: dict[str, str] = {}
    for checkpoint in reversed(found):
        reason = _objection(checkpoint, group)
        if reason is None:
            if rank(group) == 0:
                for name, why in damaged.items():
                    say(f"{name} is damaged ({why}); going on from {checkpoint.name}")
            return checkpoint
        damaged[checkpoint.name] = reason.removeprefix("damaged: ")
    if damaged:
        listed = ", ".join(f"{name} ({why})" for name, why in damaged.items())
        raise WMTPError(f"{run}: no checkpoint is good: {listed}; restore one, or start a new run (name=…)")
    return None


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What is not a tensor: counters, positions, the recipe."""
    state: dict[str, Any] = read_json(checkpoint / STATE)
    return state


def load_tensors(
    checkpoint: Path, part: Part, into: dict[str, Tensor], group: ProcessGroup | None = None
) -> None:
    """Fill tensors, plain or DTensors of any layout, from a checkpoint of any world size and layout.

    Raises:
        WMTPError: a tensor is missing or has another shape, or a file cannot be read; every rank raises it.
    """
    read_tensors(_folder(checkpoint, part), into, group)


def tensor_names(checkpoint: Path, part: Part) -> dict[str, torch.Size]:
    """Names and shapes of the tensors in a checkpoint."""
    return tensor_sizes(_folder(checkpoint, part))


def resolve_model(location: str, key: str) -> Path | str:
    """A run's newest checkpoint, a checkpoint or model folder, or else a hub name.

    Raises:
        WMTPError: a run without a checkpoint, or a path that is not there.
    """
    path = Path(location)
    if (path / CHECKPOINTS).is_dir():
        found = checkpoints(path)
        if not found:
            raise WMTPError(f"{key} {location!r}: the run has no checkpoint yet")
        return found[-1]
    if path.is_dir():
        if not (path / "config.json").exists():
            raise WMTPError(f"{key} {location!r}: neither a run nor a model folder (no config.json)")
        return path
    if location.startswith((".", "/", "~")) or location.count("/") > 1 or path.exists():
        raise WMTPError(f"{key} {location!r}: no such folder")
    return location


def recover(run: Path) -> None:
    """Finish or undo what a process that was killed while saving left; for one process that holds the run's lock.

    Raises:
        WMTPError: it cannot be done.
    """
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return
    try:
        mend(folder)
        found = checkpoints(run)
        point(folder / LATEST, found[-1] if found else None)
    except OSError as error:
        raise WMTPError(f"{folder}: what an interrupted save left cannot be cleared up: {error}") from error


def _folder(checkpoint: Path, part: Part) -> Path:
    """Where the tensors are; since format 3 the model's are beside config.json."""
    folder = checkpoint / part
    return folder if part == "training" or is_legacy(folder) else checkpoint


def _objection(checkpoint: Path, group: ProcessGroup | None, without: Part | None = None) -> str | None:
    """What is wrong with a checkpoint, the same on every rank; None if nothing is."""
    found = agree(lambda: _objection_to_share(checkpoint, rank(group), world_size(group), without), group)
    return next((reason for reason in found if reason is not None), None)


def _objection_to_share(checkpoint: Path, share: int, shares: int, without: Part | None) -> str | None:
    try:
        expected = digests(checkpoint)
    except WMTPError as error:
        return str(error).removeprefix(f"{checkpoint}: ")
    names = sorted(name for name in expected if not name.startswith(f"{without}/"))
    for name in names[share::shares]:
        try:
            if sha256_file(checkpoint / name) != expected[name]:
                return f"damaged: {name} is not what was saved"
        except FileNotFoundError:
            return f"damaged: {name} is missing"
        except (OSError, ValueError) as error:
            return f"damaged: {name} cannot be read: {one_line(error)}"
    return None
