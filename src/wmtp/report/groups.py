"""pass@1 by kind of problem, from the evaluations of an arm's seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wmtp.errors import WMTPError
from wmtp.experiment.results import Interval
from wmtp.experiment.statistics import interval
from wmtp.records import Evaluation

Key = Literal["operations", "family"]


@dataclass(frozen=True)
class Group:
    """One kind of problem: its name, number of problems, and pass@1 by arm."""

    name: str
    problems: int
    pass_at_1: dict[str, Interval]


def grouped(evaluations: Mapping[str, Sequence[Evaluation]], key: Key) -> list[Group]:
    """pass@1 of every arm in every group of problems; empty if no problem carries the key.

    Args:
        evaluations: by arm, one evaluation a seed, all of the same problems.
        key: what to group by.

    Raises:
        WMTPError: two evaluations are not of the same problems.
    """
    first = next(evaluation for seeds in evaluations.values() for evaluation in seeds)
    kinds = {p.task_id: getattr(p, key) for p in first.by_problem if getattr(p, key) is not None}
    shares = {
        arm: [{p.task_id: p.passed / p.samples for p in e.by_problem} for e in seeds]
        for arm, seeds in evaluations.items()
    }
    known = {p.task_id for p in first.by_problem}
    for arm, rows in shares.items():
        if any(set(row) != known for row in rows):
            raise WMTPError(f"arm {arm!r} was evaluated on different problems from {next(iter(shares))!r}")
    groups = []
    for kind in sorted(set(kinds.values())):
        ids = [task_id for task_id, of in kinds.items() if of == kind]
        by_arm = {
            arm: interval(np.array([[row[i] for i in ids] for row in rows])) for arm, rows in shares.items()
        }
        groups.append(Group(name=str(kind), problems=len(ids), pass_at_1=by_arm))
    return groups
