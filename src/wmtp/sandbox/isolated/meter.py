"""Measures the time of a candidate's process, less the time that the judge caused.

Arguments and results are turned into bytes and back in both processes, with the same code. So the judge's own time
for that, doubled, and a fixed time for each call are added to the candidate's limits.
"""

from __future__ import annotations

import time

from . import kernel
from .channel import DeadlineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .confine import Plan

_PER_CALL = 0.0001
_FACTOR = 2.0
_OFTEN = 4.0
"""Processor seconds per second that the process may use at most until the next look: so many threads at once."""

_SHORTEST_WAIT = 0.01
_WORTH_TELLING = 0.25


class OverdueError(DeadlineError):
    """The process has used up its processor time."""


class Meter:
    """Limits of one process.

    Args:
        pid: its id.
        plan: `cpu_seconds` and `wall_seconds`.
        extend: called with the seconds by which the wall-clock limit moves.

    Attributes:
        deadline: moment (`time.monotonic()`) by which it must be done.
    """

    def __init__(self, pid: int, plan: Plan, extend: Callable[[float], None]) -> None:
        self.deadline = time.monotonic() + plan["wall_seconds"]
        self._clock = kernel.processor_clock(pid)
        self._next_look = float("inf") if self._clock is None else 0.0
        self._started_at = 0.0
        self._limit = -(-plan["cpu_seconds"] // 1)
        self._largest_credit = plan["wall_seconds"]
        self._credit = 0.0
        self._told = 0.0
        self._extend = extend

    def start(self) -> None:
        """Count processor time from now on."""
        if self._clock is not None:
            self._started_at = self._used()

    def look(self) -> float:
        """Seconds until the next look.

        Raises:
            OverdueError: its processor time is used up.
            DeadlineError: its wall-clock time is.
        """
        now = time.monotonic()
        if now >= self.deadline:
            raise DeadlineError
        if now >= self._next_look and self._clock is not None:
            left = self._limit + self._credit - (self._used() - self._started_at)
            if left <= 0:
                raise OverdueError
            self._next_look = now + max(left / _OFTEN, _SHORTEST_WAIT)
        return min(self.deadline, self._next_look) - now

    def credit(self, seconds: float) -> None:
        """Do not charge for a call for which this process spent `seconds` on turning values into bytes and back."""
        more = min(_FACTOR * seconds + _PER_CALL, self._largest_credit - self._credit)
        self._credit += more
        self.deadline += more
        if self._credit - self._told > _WORTH_TELLING:
            self._extend(self._credit - self._told)
            self._told = self._credit

    def _used(self) -> float:
        assert self._clock is not None
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return 0.0
