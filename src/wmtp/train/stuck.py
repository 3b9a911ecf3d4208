"""Last heartbeat of each rank; decides which rank to name when training stalls."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

PHASES = ("start", "save", "validate", "data", "forward", "optimizer")
"""In the order in which they follow each other after as many finished steps."""


@dataclass(frozen=True)
class Beat:
    """A sign of life.

    count: grows with every beat; step: how many are finished; seconds: since the rank last said where it is;
    left: the rank is not training any more; failure: because of this error of its own.
    """

    step: int = 0
    phase: str = "start"
    count: int = 0
    seconds: float = 0.0
    left: bool = False
    failure: str | None = None

    @property
    def place(self) -> str:
        """Where the rank is, for people."""
        return f"in {self.phase!r} after step {self.step}"


Beats = Mapping[int, Beat]
"""By rank; a rank that has not told anything yet is missing."""


def gone(before: Beats, after: Beats, ranks: range) -> str | None:
    """The ranks that cannot take part any more, and why; the beats were read long enough apart for one more each."""
    failed = [f"rank {r} failed: {beat.failure}" for r, beat in after.items() if beat.failure is not None]
    if failed:
        return "; ".join(failed)
    if absent := [r for r in ranks if r not in after]:
        return f"{_name(absent)} did not begin training"
    if left := [r for r, beat in after.items() if beat.left]:
        return f"{_name(left)} left training"
    if silent := [r for r, beat in after.items() if r in before and beat.count == before[r].count]:
        return f"{_name(silent)} no longer answers, last seen {after[silent[0]].place}"
    return None


def behind(beats: Beats) -> str:
    """The ranks that all the others wait for, where all of them answer."""
    order = {rank: (beat.step, PHASES.index(beat.phase)) for rank, beat in beats.items()}
    last = [rank for rank in beats if order[rank] == min(order.values())]
    where = f"has been {beats[last[0]].place} for {beats[last[0]].seconds:.0f} s"
    others = Counter(beat.place for rank, beat in beats.items() if rank not in last)
    if not others:
        return f"every rank {where}"
    return f"{_name(last)} {where} while the others wait {others.most_common(1)[0][0]}"


def _name(ranks: list[int]) -> str:
    """One rank, or the first few of many."""
    shown = ", ".join(str(r) for r in ranks[:8])
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"{'rank' if len(ranks) == 1 else 'each of ranks'} {shown}{more}"
