"""Writing checkpoints: aside, synced, checksummed, renamed; in the calling thread or beside training."""

import copy
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from wmtp.checkpoint.store import FORMAT, LATEST, MANIFEST, STATE, checkpoints, step_of
from wmtp.checkpoint.tensors import local, write_tensors
from wmtp.distributed.agreement import agree
from wmtp.distributed.world import rank, world_size
from wmtp.errors import WMTPError
from wmtp.layout import CHECKPOINTS
from wmtp.storage import free_bytes, point, publish, remove, sha256_file, unfinished, write_json

MARGIN = 16 * 2**20
"""Bytes for the configuration, the tokenizer and the like."""

PER_TENSOR = 2**11
"""Bytes around each tensor that a rank writes."""


@dataclass(frozen=True)
class _Snapshot:
    """What one save writes. By part: tensors, for their layout; values, this rank's parts of them to write."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]
    files: Callable[[Path], None]


class CheckpointWriter:
    """Writes a run's checkpoints, in the calling thread or in the background.

    Args:
        run: its directory; all ranks see the same.
        keep: the newest so many are kept,
        keep_every: and for ever those of steps divisible by this.
        in_background: `save` returns when the tensors are copied, and a thread writes them.
        group: a gloo group that nothing else uses while a save is on its way; None for one process.
    """

    def __init__(
        self,
        run: Path,
        *,
        keep: int,
        keep_every: int | None,
        in_background: bool,
        group: ProcessGroup | None,
    ) -> None:
        self._run = run
        self._folder = run / CHECKPOINTS
        self._keep = keep
        self._keep_every = keep_every
        self._group = group
        self._is_first = rank(group) == 0
        self._thread = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._pending: Future[None] | None = None
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def save(
        self,
        step: int,
        *,
        model: Mapping[str, Tensor],
        training: Mapping[str, Tensor],
        state: dict[str, Any],
        files: Callable[[Path], None],
    ) -> None:
        """Write `checkpoints/step-XXXXXXXX`, move `latest` to it, and remove old ones.

        In the background the previous save is waited for, and its failure raised, first.

        Args:
            model, training: tensors by name; plain ones are the same on all ranks that give the name.
            state: everything else, as JSON.
            files: writes the configuration and the tokenizer into the folder it is given; called on rank 0.

        Raises:
            WMTPError: it could not be written, on every rank; what was there before is untouched.
        """
        self.wait()
        tensors = {"model": model, "training": training}
        values = {part: {n: local(t) for n, t in named.items()} for part, named in tensors.items()}
        if self._thread is None:
            self._write(_Snapshot(step, tensors, values, state, files))
            return
        with self._errors_as_one_line(step):
            agree(lambda: self._copy(values), self._group)
        snapshot = _Snapshot(step, tensors, self._copied(values), copy.deepcopy(state), files)
        self._pending = self._thread.submit(self._write, snapshot)

    def wait(self) -> Path | None:
        """The newest checkpoint, once the last save is on disk.

        Raises:
            WMTPError: the last save failed.
        """
        if self._pending is not None:
            failure = self._pending.exception()
            self._pending = None
            if failure is not None:
                raise failure
        found = checkpoints(self._run)
        return found[-1] if found else None

    def _copy(self, values: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copy the tensors into buffers, which are made once."""
        devices = set()
        for part, named in values.items():
            for name, value in named.items():
                buffer = self._buffers.get((part, name))
                if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
                    buffer = torch.empty(
                        value.shape, dtype=value.dtype, device="cpu", pin_memory=value.is_cuda
                    )
                    self._buffers[part, name] = buffer
                buffer.copy_(value, non_blocking=True)
                devices.add(value.device.type)
        if devices - {"cpu"}:
            torch.accelerator.synchronize()

    def _copied(self, values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        return {part: {n: self._buffers[part, n] for n in named} for part, named in values.items()}

    def _write(self, snapshot: _Snapshot) -> None:
        path = self._path(snapshot.step)
        aside = unfinished(path)
        try:
            with self._errors_as_one_line(snapshot.step):
                self._first(lambda: self._prepare(aside, snapshot))
                agree(lambda: _refuse_unshared(aside), self._group)
                for part, folder in (("model", aside), ("training", aside / "training")):
                    write_tensors(folder, part, snapshot.tensors[part], snapshot.values[part], self._group)
                self._first(lambda: _write_rest(aside, snapshot))
                digests = agree(lambda: _digests(aside, rank(self._group)), self._group)
                self._first(lambda: self._publish(path, snapshot.step, digests))
        finally:
            if self._is_first:
                shutil.rmtree(aside, ignore_errors=True)
        self._first(lambda: self._remove_old(snapshot.step))

    @contextmanager
    def _errors_as_one_line(self, step: int) -> Iterator[None]:
        try:
            yield
        except WMTPError as error:
            kept = checkpoints(self._run)
            good = f"{kept[-1].name} is still good" if kept else "there is none before it"
            raise WMTPError(f"{self._path(step)}: cannot be saved: {error}; {good}") from error

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _first(self, action: Callable[[], None]) -> None:
        """Do something on rank 0 alone; an error is every rank's."""
        agree(action if self._is_first else _nothing, self._group)

    def _prepare(self, aside: Path, snapshot: _Snapshot) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        tensors = [t for named in snapshot.tensors.values() for t in named.values()]
        around = MARGIN + PER_TENSOR * len(tensors) * world_size(self._group)
        needed = sum(t.numel() * t.element_size() for t in tensors) + around
        free = free_bytes(self._folder)
        if free < needed:
            raise WMTPError(f"needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB free on its file system")
        aside.mkdir()

    def _publish(self, path: Path, step: int, digests: list[dict[str, str]]) -> None:
        files = {name: digest for own in digests for name, digest in own.items()}
        manifest = {"format": FORMAT, "step": step, "world_size": world_size(self._group), "files": files}
        write_json(unfinished(path) / MANIFEST, manifest)
        publish(path)
        point(self._folder / LATEST, path)

    def _remove_old(self, step: int) -> None:
        """Keep what is to be kept up to this step; later ones are of a course that was given up."""
        found = checkpoints(self._run)
        past = [c for c in found if step_of(c) <= step]
        every = self._keep_every
        old = [c for c in past[: -self._keep] if every is None or step_of(c) % every != 0]
        for checkpoint in old + found[len(past) :]:
            try:
                remove(checkpoint)
            except OSError as error:
                raise WMTPError(f"{checkpoint}: cannot be removed: {error}") from error


def _nothing() -> None:
    pass


def _refuse_unshared(aside: Path) -> None:
    if not aside.is_dir():
        raise WMTPError(
            "another machine's run directory is not this one's (paths.runs): share its file system"
        )


def _write_rest(aside: Path, snapshot: _Snapshot) -> None:
    snapshot.files(aside)
    write_json(aside / STATE, snapshot.state)


def _digests(aside: Path, own_rank: int) -> dict[str, str]:
    """Checksums of the files that a rank wrote, by their names relative to the checkpoint."""
    files = [p for p in sorted(aside.rglob("*")) if p.is_file() and _written_by(p) == own_rank]
    return {p.relative_to(aside).as_posix(): sha256_file(p) for p in files}


def _written_by(file: Path) -> int:
    shard = re.fullmatch(r"(?:model|training)-(\d+)-of-\d+\.safetensors", file.name)
    return int(shard[1]) - 1 if shard else 0
