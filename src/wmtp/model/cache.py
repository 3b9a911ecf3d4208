"""Keys and values of earlier positions, with a write position of its own for every row."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

CLEARED_AHEAD = 32  # positions


class PositionCache(Cache):
    """A preallocated cache in which the entry of a token lies at the token's position.

    A query at position p sees the keys at positions j <= p of its row. So what a rejected draft left behind lies
    above its row's position, is never seen, and is overwritten when the row gets there: rolling back is to write the
    next tokens at earlier positions. Before each forward, `write_at` says which positions the tokens have.
    """

    def __init__(self, capacity: int) -> None:
        """An empty cache for positions 0..capacity-1; a layer gets its memory when it is first written."""
        super().__init__(layers=[])
        self.capacity = capacity
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows = 0
        self._length = 0
        self._cleared = 0
        self._slots = torch.empty(0, dtype=torch.long)

    def write_at(self, positions_bt: Tensor, rows: int, length: int) -> Tensor:
        """Place the tokens of the next forward and return their attention mask.

        Args:
            positions_bt: [B, T], or [1, T] when all rows have the same positions.
            rows: B.
            length: one more than the largest position, the number of keys that attention sees.

        Returns:
            [B, 1, T, length] bool ([1, 1, T, length] when all rows are the same), true where attended.
        """
        device = positions_bt.device
        self._rows, self._length = rows, length
        if length > self._cleared:
            self._clear_until(min(length + CLEARED_AHEAD, self.capacity))
        first_slots = torch.arange(0, rows * self.capacity, self.capacity, device=device)
        self._slots = (first_slots[:, None] + positions_bt).flatten()
        return positions_bt[:, None, :, None] >= torch.arange(length, device=device)

    def _clear_until(self, position: int) -> None:
        """What was never written is multiplied by a weight of zero, so it has to be finite."""
        for buffer in (each for pair in self._buffers.values() for each in pair):
            buffer[: self._rows, self._cleared : position] = 0
        self._cleared = position

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store what a layer computed for the tokens, [B, heads, T, size], and return its entries so far.

        Returns:
            Keys and values [B, heads, length, size], views of the cache.
        """
        if layer_idx not in self._buffers:
            self._buffers[layer_idx] = self._allocate(key_states), self._allocate(value_states)
        keys, values = self._buffers[layer_idx]
        return self._store(keys, key_states), self._store(values, value_states)

    def _allocate(self, states: Tensor) -> Tensor:
        buffer = states.new_empty(self._rows, self.capacity, states.shape[1], states.shape[3])
        buffer[:, : self._cleared] = 0
        return buffer

    def _store(self, buffer: Tensor, states: Tensor) -> Tensor:
        buffer.flatten(0, 1).index_copy_(0, self._slots, states.transpose(1, 2).flatten(0, 1))
        return buffer[: self._rows, : self._length].transpose(1, 2)

    def move_rows(self, moves: dict[int, int]) -> None:
        """Copy the entries of rows (keys of `moves`) over those of other rows (values); no row is both."""
        for buffer in (each for pair in self._buffers.values() for each in pair):
            for source, target in moves.items():
                buffer[target, : self._length] = buffer[source, : self._length]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Keys that attention sees."""
        return self._length
