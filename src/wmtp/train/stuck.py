"""Last heartbeat of each rank; decides which rank to name when training stalls."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

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

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> "Beat":
        return cls(**json.loads(text))

    def as_record(self) -> dict[str, int | float | str | bool | None]:
        """What people want to see of it."""
        return {
            "step": self.step,
            "phase": self.phase,
            "seconds": round(self.seconds, 1),
            "left": self.left,
            "failure": self.failure,
        }

    def next(self, step: int, phase: str, seconds: float) -> "Beat":
        """The beat that follows."""
        return Beat(step, phase, self.count + 1, seconds)

    def leave(self, failure: str | None) -> "Beat":
        """The last beat."""
        return replace(self, count=self.count + 1, left=True, failure=failure)


Beats = Mapping[int, Beat]
"""By rank; a rank that has not told anything yet is missing."""


def gone(before: Beats, after: Beats, ranks: range) -> str | None:
    """The ranks that cannot take part any more, and why; the beats were read long enough apart for one more each."""
    failed = [r for r, beat in after.items() if beat.failure is not None]
    if failed:
        return "; ".join(f"rank {r} failed: {after[r].failure}" for r in failed)
    absent = [r for r in ranks if r not in after]
    if absent:
        return f"{_name(absent)} did not begin training"
    left = [r for r, beat in after.items() if beat.left]
    if left:
        return f"{_name(left)} left training"
    silent = [r for r, beat in after.items() if r in before and beat.count == before[r].count]
    if silent:
        return f"{_name(silent)} no longer answers, last seen {_place(after[silent[0]])}"
    return None


def behind(beats: Beats) -> str:
    """The ranks that all the others wait for, where all of them answer."""
    order = {rank: (beat.step, PHASES.index(beat.phase)) for rank, beat in beats.items()}
    last = [rank for rank in beats if order[rank] == min(order.values())]
    one = beats[last[0]]
    if len(last) == len(beats):
        return f"every rank has been {_place(one)} for {one.seconds:.0f} s"
    others = Counter(_place(beat) for rank, beat in beats.items() if rank not in last)
    where = others.most_common(1)[0][0]
    return f"{_name(last)} has been {_place(one)} for {one.seconds:.0f} s while the others wait {where}"


def _name(ranks: list[int]) -> str:
    """One rank, or the first few of many."""
    shown = ", ".join(str(r) for r in ranks[:8])
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"{'rank' if len(ranks) == 1 else 'each of ranks'} {shown}{more}"


def _place(beat: Beat) -> str:
    return f"in {beat.phase!r} after step {beat.step}"
