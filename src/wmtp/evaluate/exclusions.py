"""Excludes problems from every number: their own solution fails here, or a program could not be judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.config import EvaluateConfig
from wmtp.errors import WMTPError
from wmtp.evaluate.summary import Judged
from wmtp.evaluate.tasks import Problem
from wmtp.evaluate.verdicts import judge_once
from wmtp.sandbox import Execution, Verdict

_SHOWN = 5


@dataclass(frozen=True)
class SolutionCheck:
    """Result of judging the problems' own solutions.

    Attributes:
        failed: by task id, those that did not pass.
        unchecked: problems without a solution.
        passed: all others.
    """

    failed: Mapping[str, Execution]
    unchecked: int
    passed: int


def check_solutions(
    task: str, problems: Sequence[Problem], config: EvaluateConfig, cache: Path
) -> SolutionCheck:
    """Judge each problem's own solution as a sample would be judged.

    Args:
        task: its name.
        cache: a folder for verdicts: what was judged before under the same conditions is not executed again.

    Raises:
        WMTPError: every problem has a solution, and none passes.
    """
    solved = [(problem, problem.solution) for problem in problems if problem.solution is not None]
    programs = [problem.program(solution) for problem, solution in solved]
    outcomes = judge_once(programs, config, cache, "check the problems' own solutions")
    failed = {
        problem.task_id: outcome
        for (problem, _), outcome in zip(solved, outcomes, strict=True)
        if outcome.verdict is not Verdict.PASSED
    }
    if len(failed) == len(problems):
        raise WMTPError(
            f"evaluate.task {task}: of {len(problems)} problems, not one's own solution passes here "
            f"({_listed(failed, 1)}); the file's tests or this machine's sandbox (wmtp env) are at fault"
        )
    return SolutionCheck(failed, len(problems) - len(solved), len(solved) - len(failed))


def exclude(judged: Judged, solutions: SolutionCheck) -> tuple[Judged, dict[str, Any]]:
    """Leave out problems whose own solution does not pass, and those with a sample that could not be judged.

    Returns:
        The remaining problems, and JSON values: `solutions`, how many passed, failed and were missing; `excluded`,
        each problem with its verdict and message; `left_out`, a line for each of the two reasons.

    Raises:
        WMTPError: nothing is left.
    """
    errors: dict[str, Execution] = {}
    for key, execution in judged.executions.items():
        if execution.verdict is Verdict.ERROR and key.task_id not in solutions.failed:
            errors.setdefault(key.task_id, execution)
    excluded = {**solutions.failed, **errors}
    kept = [problem for problem in judged.problems if problem.task_id not in excluded]
    lines = []
    if solutions.failed:
        lines.append(
            f"{_problems(len(solutions.failed))} whose own solution does not pass here: "
            f"{_listed(solutions.failed)}"
        )
    if errors:
        programs = [e for key, e in judged.executions.items() if key.task_id in errors]
        broken = sum(execution.verdict is Verdict.ERROR for execution in programs)
        lines.append(
            f"{_problems(len(errors))} of which {broken} of {len(programs)} programs could not be judged: "
            f"{_listed(errors)}"
        )
    if not kept:
        raise WMTPError(f"evaluate: no problem could be scored; left out: {'; '.join(lines)}")
    executions = {key: e for key, e in judged.executions.items() if key.task_id not in excluded}
    facts = {
        "solutions": {
            "passed": solutions.passed,
            "failed": len(solutions.failed),
            "unchecked": solutions.unchecked,
        },
        "excluded": [
            {"task_id": task_id, "verdict": str(execution.verdict), "message": execution.message}
            for task_id, execution in excluded.items()
        ],
        "left_out": lines,
    }
    return Judged(kept, judged.completions, executions), facts


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"


def _listed(outcomes: Mapping[str, Execution], shown: int = _SHOWN) -> str:
    """The first few by name, the first one with its reason."""
    names = list(outcomes)
    first = outcomes[names[0]]
    reason = f"{first.verdict}: {' '.join(first.message.split())}" if first.message else str(first.verdict)
    more = ", …" if len(names) > shown else ""
    return f"{', '.join([f'{names[0]} ({reason})', *names[1:shown]])}{more}"
