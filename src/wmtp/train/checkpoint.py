"""Checkpoints: written aside, checksummed, renamed; loadable by transformers as they are."""

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from wmtp.errors import WMTPError
from wmtp.model.modeling import MTPForCausalLM
from wmtp.storage import new_directory, read_json, sha256_file, write_json

FORMAT = 1
STATE = "training.pt"
MANIFEST = "manifest.json"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def step_of(checkpoint: Path) -> int:
    """The number of optimiser steps behind a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def save(
    run: Path,
    step: int,
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `checkpoints/step-XXXXXXXX` and then delete all but the newest `keep`.

    Raises:
        WMTPError: it could not be written; what was there before is untouched.
    """
    path = run / "checkpoints" / f"step-{step:08d}"
    try:
        with new_directory(path) as aside:
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            torch.save(state, aside / STATE)
            files = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
            write_json(aside / MANIFEST, {"format": FORMAT, "step": step, "files": files})
    except (OSError, SafetensorError, RuntimeError) as error:
        kept = [c.name for c in checkpoints(run)]
        usable = f"{kept[-1]} is still good" if kept else "there is none before it"
        raise WMTPError(f"{path}: cannot be saved: {error}; {usable}") from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return path


def verify(checkpoint: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        WMTPError: not a checkpoint of this package, or damaged.
    """
    if not (checkpoint / MANIFEST).exists():
        raise WMTPError(f"{checkpoint}: not a WMTP checkpoint (no {MANIFEST})")
    manifest = read_json(checkpoint / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise WMTPError(f"{checkpoint}: not a WMTP checkpoint of format {FORMAT}")
    for name, digest in manifest["files"].items():
        file = checkpoint / name
        if not file.exists() or sha256_file(file) != digest:
            raise WMTPError(
                f"{checkpoint}: damaged: {name} is not what was saved; "
                f"resume from another checkpoint with --resume PATH"
            )


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The training state of a verified checkpoint, on the CPU."""
    verify(checkpoint)
    state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    return state


def resolve_model(location: str, key: str) -> Path | str:
    """A run's newest checkpoint, a checkpoint or model folder, or else a hub name.

    Raises:
        WMTPError: a run without a checkpoint, or a path that is not there.
    """
    path = Path(location)
    if (path / "checkpoints").is_dir():
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
