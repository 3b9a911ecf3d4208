"""A few rows forward and backward without learning from them: what memory they take, and what would fit."""

from collections.abc import Callable

import torch

from wmtp.distributed.world import World
from wmtp.errors import WMTPError
from wmtp.train.memory import (
    Growth,
    largest_divisor,
    largest_fitting,
    measure_growth,
    memory_limit,
    out_of_memory_error,
)

SPARE = 64 * 2**20
"""Bytes that have to be left over: not every step takes the same."""


class Rehearsal:
    """Finds out which micro-batch fits.

    Args:
        attempt: forward and backward of micro-batches of so many rows, and so many of them; a collective act where
            there are several ranks.
        release: gives back what an attempt left.
        rows: of a micro-batch.
        share: rows of a step of this rank.
    """

    def __init__(
        self,
        attempt: Callable[[int, int], None],
        release: Callable[[], None],
        rows: int,
        share: int,
        world: World,
    ) -> None:
        self._attempt = attempt
        self._release = release
        self._rows = min(rows, share)
        self._share = share
        self._world = world
        self._growth: Growth | None = None

    def run(self) -> None:
        """Before the first step, on all ranks alike; one process alone can try when it comes to that.

        It also settles the order in which DDP sums gradients, which it chooses anew after its first backward:
        so a resumed run goes on to the last bit.
        """
        if self._world.size > 1:
            self._growth = measure_growth(
                lambda rows: self._attempt(rows, 2), self._release, self._world.device
            )

    def advice(self, failure: BaseException) -> WMTPError:
        """What to tell the user after a step ran out of memory."""
        if self._growth is None:
            fits = largest_fitting(self._rows, self._attempt_with_room, self._release)
        else:
            limit = memory_limit(self._world.device)
            estimate = min(self._growth.rows_within(limit), self._rows // 2)
            fits = largest_divisor(self._rows, estimate)
        return out_of_memory_error(
            self._rows,
            fits,
            error=failure,
            rank=self._world.rank,
            is_estimate=self._growth is not None,
        )

    def _attempt_with_room(self, rows: int) -> None:
        room = torch.empty(SPARE, dtype=torch.uint8, device=self._world.device)
        self._attempt(rows, self._share // rows)
        del room
