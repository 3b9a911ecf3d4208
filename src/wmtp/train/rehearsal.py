"""A few rows forward and backward without learning from them, before training and when memory ran out."""

import re
from collections.abc import Callable

import torch

from wmtp.distributed.world import World
from wmtp.errors import WMTPError, is_out_of_memory

SPARE = 64 * 2**20
"""Bytes that have to be left over: not every step takes the same."""


class Rehearsal:
    """Tries micro-batches.

    Args:
        attempt: forward and backward of micro-batches of so many rows, and so many of them; a collective act where
            there are several ranks.
        release: gives back what an attempt left (gradients, cached blocks).
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

    def run(self) -> None:
        """Settle the order in which DDP sums gradients, which it chooses anew after its first backward.

        On all ranks alike before the first step; so a resumed run goes on to the last bit.
        """
        if self._world.size > 1:
            self._attempt(1, 1)
            self._release()

    def advice(self, failure: BaseException) -> WMTPError:
        """What to tell the user after a step ran out of memory: the largest micro-batch that fits.

        Call it after the `except` block: until then the traceback keeps the tensors of the failed step alive. With
        several ranks it is the next smaller one, untried: whoever fails within a step leaves the others waiting in
        its collectives.
        """
        can_try = self._world.size == 1
        smaller = (n for n in range(self._rows // 2, 0, -1) if self._rows % n == 0)
        rows = next((n for n in smaller if not can_try or self._fits(n)), None)
        wanted = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(failure), re.IGNORECASE)
        detail = f" (tried to allocate {wanted[1]})" if wanted else ""
        if rows is None:
            advice = (
                "not even one row fits: lower data.sequence_length, set train.gradient_checkpointing=true, or shard "
                "the model (more processes with devices.parallel=fsdp, devices.cpu_offload=true)"
            )
        else:
            advice = f"{f'{rows} fits: set' if can_try else 'try'} train.micro_batch_size={rows}"
        return WMTPError(
            f"train.micro_batch_size {self._rows}: out of memory on rank {self._world.rank}{detail}; {advice}"
        )

    def _fits(self, rows: int) -> bool:
        self._release()
        try:
            room = torch.empty(SPARE, dtype=torch.uint8, device=self._world.device)
            self._attempt(rows, self._share // rows)
            del room
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True
