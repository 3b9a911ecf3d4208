"""Agreement between processes: an error on one becomes an error on all."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed import ProcessGroup

from wmtp.distributed.world import world_size
from wmtp.errors import WMTPError, one_line
from wmtp.rank import RankLost

T = TypeVar("T")

ENVIRONMENTAL = (WMTPError, OSError, RuntimeError, MemoryError, SafetensorError)
"""Failures that one line explains. Anything else is a bug and keeps its traceback."""


def agree(action: Callable[[], T], group: ProcessGroup | None) -> list[T]:
    """Run `action` on every rank; return its results in order of rank.

    Raises:
        WMTPError: it failed on some rank; every rank raises it. RankLost: a rank is gone.
    """
    value, failure = None, None
    try:
        value = action()
    except Exception as error:
        failure = error
    outcomes = _gather((value, None if failure is None else one_line(failure)), group)
    if failure is not None and not isinstance(failure, ENVIRONMENTAL):
        raise failure
    reasons = {rank: reason for rank, (_, reason) in enumerate(outcomes) if reason is not None}
    if reasons:
        raise WMTPError(blame(reasons, len(outcomes))) from failure
    return [outcome for outcome, _ in outcomes]


def blame(reasons: dict[int, str], ranks: int) -> str:
    """The first of the ranks' reasons, with its rank unless all ranks give the same."""
    first = min(reasons)
    if len(reasons) == ranks and len(set(reasons.values())) == 1:
        return reasons[first]
    return f"rank {first}: {reasons[first]}"


def _gather(value: Any, group: ProcessGroup | None) -> list[Any]:
    if group is None:
        return [value]
    gathered: list[Any] = [None] * world_size(group)
    try:
        dist.all_gather_object(gathered, value, group=group)
    except RuntimeError as error:
        raise RankLost(f"another process is gone or stuck: {one_line(error)}") from error
    return gathered
