"""Packs documents into rows and hands out the same batches for any number of ranks and micro-batches."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wmtp.data.dataset import TokenDataset
from wmtp.errors import WMTPError

OPEN_ROWS = 16


@dataclass(frozen=True)
class Batch:
    """Packed rows, all tensors [B, S].

    document_ids count from 1 within a row, 0 is padding; position_ids restart with each document;
    token_keys is a token's place in the data set (-1: padding); columns hold what else is known of each token,
    float32, NaN in padding: `reference_ce`, the reference model's cross-entropy of the token itself (NaN for the
    first of a document), `rewards` and `advantages`, of its whole document.
    """

    ids: Tensor
    document_ids: Tensor
    position_ids: Tensor
    supervised: Tensor
    token_keys: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        tensors = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if k != "columns"}
        columns = {k: v.to(device, non_blocking=True) for k, v in self.columns.items()}
        return replace(self, **tensors, columns=columns)

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.document_ids > 0).sum())


Columns = Mapping[str, NDArray[np.floating[Any]]]
"""By name, [T] values, one for each token of a data set."""


def pack(lengths: Sequence[int], order: Sequence[int], sequence_length: int) -> list[list[int]]:
    """First-fit: each document, in this order, goes into the oldest of the last few rows that has room."""
    rows: list[list[int]] = []
    open_rows: list[list[int]] = []  # [row, room left]
    for document in order:
        length = int(lengths[document])
        for candidate in open_rows:
            if candidate[1] >= length:
                rows[candidate[0]].append(int(document))
                candidate[1] -= length
                break
        else:
            open_rows.append([len(rows), sequence_length - length])
            rows.append([int(document)])
            if len(open_rows) > OPEN_ROWS:
                open_rows.remove(min(open_rows, key=lambda candidate: candidate[1]))
    return rows


def collate(
    dataset: TokenDataset,
    rows: Sequence[Sequence[int]],
    sequence_length: int,
    columns: Columns | None = None,
) -> Batch:
    """The batch of these rows, each a list of documents, padded to the row's length."""
    shape = (len(rows), sequence_length)
    pad = np.zeros(shape, dtype=np.int64)
    ids, document_ids, position_ids = pad.copy(), pad.copy(), pad.copy()
    token_keys = np.full(shape, -1, dtype=np.int64)
    supervised = np.zeros(shape, dtype=np.bool_)
    known = {name: np.full(shape, np.nan, dtype=np.float32) for name in columns or ()}
    for b, documents in enumerate(rows):
        at = 0
        for number, document in enumerate(documents, start=1):
            start, end = int(dataset.offsets[document]), int(dataset.offsets[document + 1])
            place = slice(at, at + end - start)
            ids[b, place] = dataset.tokens[start:end]
            document_ids[b, place] = number
            position_ids[b, place] = np.arange(end - start)
            token_keys[b, place] = np.arange(start, end)
            supervised[b, place] = dataset.supervised[start:end]
            for name, values in (columns or {}).items():
                known[name][b, place] = values[start:end]
            at += end - start
    return Batch(
        ids=torch.from_numpy(ids),
        document_ids=torch.from_numpy(document_ids),
        position_ids=torch.from_numpy(position_ids),
        supervised=torch.from_numpy(supervised),
        token_keys=torch.from_numpy(token_keys),
        columns={name: torch.from_numpy(values) for name, values in known.items()},
    )


@dataclass(frozen=True)
class BatchShape:
    """Tokens of a packed row, rows of an optimiser step over all ranks, and rows of a micro-batch."""

    sequence_length: int
    batch_size: int
    micro_batch_size: int


class Loader:
    """Endless shuffled epochs of packed rows.

    Rows come in one global order that depends on the seed alone; step t takes the next `batch_size` of them, rank r
    its share of those, in micro-batches. Resuming with another number of ranks continues the same order.

    Args:
        columns: columns that batches carry.
        units: documents that stay together, one behind the other in a row; by default every one is on its own.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        shape: BatchShape,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        columns: Columns | None = None,
        units: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if shape.batch_size % world_size:
            raise WMTPError(
                f"train.batch_size {shape.batch_size} does not divide among {world_size} processes; "
                f"use a multiple of {world_size}"
            )
        self.dataset = dataset
        self.shape = shape
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.columns = columns
        self._units = units
        self.epoch = 0
        self.next_row = 0
        self._rows = self._plan(0)

    @property
    def rows_per_epoch(self) -> int:
        """Packed rows of the current epoch."""
        return len(self._rows)

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        """This rank's micro-batches of the next optimiser step."""
        shape = self.shape
        rows = self._take(shape.batch_size)
        share = shape.batch_size // self.world_size
        mine = rows[self.rank * share : (self.rank + 1) * share]
        return [
            collate(self.dataset, mine[i : i + shape.micro_batch_size], shape.sequence_length, self.columns)
            for i in range(0, share, shape.micro_batch_size)  # the last may be smaller
        ]

    def sample(self, rows: int) -> Batch:
        """So many rows of the present epoch, the same on every rank, without moving on."""
        first = [self._rows[i % len(self._rows)] for i in range(rows)]
        return collate(self.dataset, first, self.shape.sequence_length, self.columns)

    def state_dict(self) -> dict[str, Any]:
        """State from which the next step starts."""
        return {
            "epoch": self.epoch,
            "next_row": self.next_row,
            "data": self.dataset.fingerprint,
            "columns": self._column_digests,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there.

        Raises:
            WMTPError: the data is not that of the state.
        """
        if state["data"] != self.dataset.fingerprint:
            raise WMTPError(
                f"data.source: the training data changed since the checkpoint: fingerprint "
                f"{self.dataset.fingerprint[:16]} now, {state['data'][:16]} then"
            )
        own = self._column_digests
        for name, digest in state["columns"].items():
            if own.get(name) != digest:
                raise WMTPError(f"{name} of the training data changed since the checkpoint (critic.reward)")
        self.epoch, self.next_row = state["epoch"], state["next_row"]
        self._rows = self._plan(self.epoch)

    @cached_property
    def _column_digests(self) -> dict[str, str]:
        """Fingerprints of the columns in memory; those on disk have their own."""
        in_memory = {n: c for n, c in (self.columns or {}).items() if not isinstance(c, np.memmap)}
        return {name: hashlib.sha256(c.tobytes()).hexdigest() for name, c in in_memory.items()}

    def _take(self, count: int) -> list[list[int]]:
        taken: list[list[int]] = []
        while len(taken) < count:
            part = self._rows[self.next_row : self.next_row + count - len(taken)]
            taken += part
            self.next_row += len(part)
            if self.next_row == len(self._rows):
                self.epoch, self.next_row = self.epoch + 1, 0
                self._rows = self._plan(self.epoch)
        return taken

    def _plan(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        lengths = self.dataset.lengths
        if self._units is None:
            return pack(lengths.tolist(), rng.permutation(len(lengths)).tolist(), self.shape.sequence_length)
        units = self._units
        together = [int(lengths[list(unit)].sum()) for unit in units]
        rows = pack(together, rng.permutation(len(units)).tolist(), self.shape.sequence_length)
        return [[document for unit in row for document in units[unit]] for row in rows]


def in_order(
    dataset: TokenDataset,
    sequence_length: int,
    batch_size: int,
    columns: Columns | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every document once over all ranks, in packed batches, unshuffled.

    All ranks get the same number of batches; one that has run out of rows gets a row of padding.
    """
    rows = pack(dataset.lengths.tolist(), range(len(dataset)), sequence_length)
    for start in range(0, len(rows), batch_size * world_size):
        own = rows[start : start + batch_size * world_size][rank::world_size]
        yield collate(dataset, own or [[]], sequence_length, columns)
