"""However a step is split over processes and micro-batches, the same numbers come out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DDP, FSDP, STEPS, largest_difference, records

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, tuple[int | None, tuple[str, ...]]] = {
    "1, two micro-batches": (None, ("train.micro_batch_size=4",)),
    "1, eight micro-batches": (None, ("train.micro_batch_size=1",)),
    "1, sharded": (None, FSDP),
    "2, ddp": (2, DDP),
    "2, ddp, two micro-batches": (2, (*DDP, "train.micro_batch_size=2")),
    "4, ddp, two micro-batches": (4, (*DDP, "train.micro_batch_size=1")),
    "2, fsdp": (2, FSDP),
    "2, fsdp, two micro-batches": (2, (*FSDP, "train.micro_batch_size=2")),
    "2, fsdp, not resharded": (2, (*FSDP, "devices.reshard_after_forward=false")),
    "2, fsdp, offloaded": (2, ("devices.cpu_offload=true",)),
    "4, fsdp": (4, FSDP),
    "4, hybrid": (4, ("devices.mesh={replicate: 2, shard: 2}", "train.micro_batch_size=1")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_numbers_of_one_process(layout: str, whole: Callable[..., Path]) -> None:
    """Losses, cross-entropies by head, gradient norms and statistics of the weights, to 1e-6."""
    nproc, settings = LAYOUTS[layout]
    found, expected = records(whole(nproc, *settings)), records(whole())
    assert len(expected) == STEPS + 2
    assert largest_difference(found, expected) < 1e-6
