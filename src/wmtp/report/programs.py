"""Chooses the generated programs that a report shows: by outcome, in file order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wmtp.records import Sample
from wmtp.report.format import shortened, visible

MAX_COMPLETION = 1500
MAX_MESSAGE = 300

SHOWN = {"Some arms pass": 2, "Every arm passes": 1, "No arm passes": 1}


@dataclass(frozen=True)
class ShownProgram:
    """One arm's program for a problem, safe to show."""

    arm: str
    verdict: str
    message: str
    completion: str


@dataclass(frozen=True)
class ShownProblem:
    """One problem with the programs of all arms, and the kind of outcome that it illustrates."""

    kind: str
    task_id: str
    programs: list[ShownProgram]


def shown_problems(samples: Mapping[str, Sequence[Sample]]) -> list[ShownProblem]:
    """The first problems in file order of every kind in `SHOWN`.

    Args:
        samples: by arm, the samples of one run; only each problem's first sample counts.
    """
    firsts = {arm: {s.task_id: s for s in rows if s.sample == 0} for arm, rows in samples.items()}
    common = set.intersection(*(set(rows) for rows in firsts.values()))
    order = [task_id for task_id in next(iter(firsts.values())) if task_id in common]
    by_kind: dict[str, list[ShownProblem]] = {kind: [] for kind in SHOWN}
    for task_id in order:
        verdicts = [rows[task_id].verdict == "passed" for rows in firsts.values()]
        kind = "Every arm passes" if all(verdicts) else "Some arms pass" if any(verdicts) else "No arm passes"
        if len(by_kind[kind]) < SHOWN[kind]:
            programs = [_program(arm, rows[task_id]) for arm, rows in firsts.items()]
            by_kind[kind].append(ShownProblem(kind, visible(task_id), programs))
    return [problem for problems in by_kind.values() for problem in problems]


def _program(arm: str, sample: Sample) -> ShownProgram:
    return ShownProgram(
        arm=arm,
        verdict=visible(sample.verdict),
        message=shortened(visible(sample.message), MAX_MESSAGE),
        completion=shortened(visible(sample.completion.strip("\n")), MAX_COMPLETION),
    )
