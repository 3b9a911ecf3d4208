"""Sums up verdicts: pass@k, n@k, exact match, counts by verdict and by problem."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wmtp.evaluate.exact_match import exact_match
from wmtp.evaluate.passk import Estimate, mean, n_at_k, pass_at_k
from wmtp.evaluate.samples import Key
from wmtp.evaluate.tasks import SEVERAL_ANSWERS, Problem
from wmtp.sandbox import Execution, Verdict

Temperatures = Mapping[int, Sequence[float | None]]


@dataclass(frozen=True)
class Judged:
    """Every sample of every problem with its verdict, none of which is an error.

    Attributes:
        problems: in order.
        completions: by key, what was executed of each.
        executions: by key, of the same keys.
    """

    problems: Sequence[Problem]
    completions: Mapping[Key, str]
    executions: Mapping[Key, Execution]

    @cached_property
    def by_problem(self) -> dict[tuple[str, float | None], list[Key]]:
        """A problem's keys at a temperature, in order of their number."""
        groups: dict[tuple[str, float | None], list[Key]] = {}
        for key in sorted(self.executions, key=lambda key: key.sample):
            groups.setdefault((key.task_id, key.temperature), []).append(key)
        return groups

    def at(self, temperature: float | None) -> list[list[Key]]:
        """Keys by problem, at a temperature."""
        return [self.by_problem[problem.task_id, temperature] for problem in self.problems]

    def passed(self, keys: Sequence[Key]) -> int:
        """Number that passed everything."""
        return sum(self.executions[key].verdict is Verdict.PASSED for key in keys)

    def submittable(self, keys: Sequence[Key]) -> int:
        """Number that passed the public tests, as far as that is known."""
        found = [self.executions[key] for key in keys]
        return sum(e.verdict is Verdict.PASSED or e.public is True for e in found)

    def pass_at(self, k: int, temperature: float | None) -> Estimate:
        """pass@k."""
        groups = self.at(temperature)
        return pass_at_k([len(keys) for keys in groups], [self.passed(keys) for keys in groups], k)

    def base_pass_at(self, k: int, temperature: float | None) -> Estimate:
        """pass@k of the public tests alone."""
        groups = self.at(temperature)
        return pass_at_k([len(keys) for keys in groups], [self.submittable(keys) for keys in groups], k)

    def n_at(self, n: int, k: int, temperature: float | None) -> Estimate:
        """n@k."""
        groups = self.at(temperature)
        public = [self.submittable(keys) for keys in groups]
        return n_at_k([len(keys) for keys in groups], public, [self.passed(keys) for keys in groups], n, k)


def summarise(judged: Judged, temperatures: Temperatures, submissions: Sequence[int] = ()) -> dict[str, Any]:
    """The numbers of an evaluation, as JSON values.

    Args:
        judged: the samples and their verdicts.
        temperatures: by k, where pass@k is looked for; the highest counts, and says of how many it is the best.
        submissions: n of n@k.

    Returns:
        `pass_at`, `base_pass_at` (where problems have a base), `n_at_k` (with submissions), `verdicts`,
        `judged_inside`, `several_answers` (problems that accept any of several), `exact_match` (with references),
        `by_temperature` (with several) and `by_problem`. The last two columns, and `by_problem`, are about the
        temperature at which the smallest k is best.
    """
    pass_at = {k: _best({t: judged.pass_at(k, t) for t in temperatures[k]}) for k in sorted(temperatures)}
    chosen = pass_at[min(pass_at)]["temperature"]
    every = sorted({t for group in temperatures.values() for t in group if t is not None})
    result: dict[str, Any] = {"pass_at": {str(k): estimate for k, estimate in pass_at.items()}}
    if all(problem.has_base for problem in judged.problems):
        result["base_pass_at"] = {
            str(k): _best({t: judged.base_pass_at(k, t) for t in temperatures[k]})
            for k in sorted(temperatures)
        }
    if submissions:
        result["n_at_k"] = {
            f"{n}@{k}": _best({t: judged.n_at(n, k, t) for t in temperatures[k]})
            for k in sorted(temperatures)
            for n in submissions
            if n < k
        }
    result["verdicts"] = dict(Counter(str(e.verdict) for e in judged.executions.values()))
    inside = {key.task_id for key, execution in judged.executions.items() if execution.inside}
    result["judged_inside"] = [p.task_id for p in judged.problems if p.task_id in inside]
    if several := [p.task_id for p in judged.problems if p.metadata.get(SEVERAL_ANSWERS)]:
        result[SEVERAL_ANSWERS] = several
    if any(problem.reference is not None for problem in judged.problems):
        result["exact_match"] = _strict(mean(_exact(judged, chosen)))
    if len(every) > 1:
        result["by_temperature"] = {
            f"{t:g}": {str(k): _strict(judged.pass_at(k, t)) for k in sorted(temperatures)} for t in every
        }
    result["by_problem"] = [
        {
            "task_id": problem.task_id,
            "samples": len(keys),
            "passed": judged.passed(keys),
            "verdict": str(judged.executions[keys[0]].verdict),
            **problem.metadata,
        }
        for problem, keys in zip(judged.problems, judged.at(chosen), strict=True)
    ]
    return result


def _best(estimates: Mapping[float | None, Estimate]) -> dict[str, Any]:
    """The highest; of equal ones the first."""
    temperature = max(estimates, key=lambda t: estimates[t].value)
    found: dict[str, Any] = {**_strict(estimates[temperature]), "temperature": temperature}
    if len(estimates) > 1:
        found["best_of"] = list(estimates)
    return found


def _exact(judged: Judged, temperature: float | None) -> list[float]:
    """By problem, the share of its samples that are its reference solution."""
    shares = []
    for problem, keys in zip(judged.problems, judged.at(temperature), strict=True):
        texts = Counter(judged.completions[key] for key in keys)
        reference = problem.reference
        matching = (n for text, n in texts.items() if reference is not None and exact_match(text, reference))
        shares.append(sum(matching) / len(keys))
    return shares


def _strict(estimate: Estimate) -> dict[str, float | None]:
    """JSON values without NaN, which JSON lacks: a single problem gives no standard error."""
    return {
        "value": estimate.value,
        "stderr": None if math.isnan(estimate.stderr) else estimate.stderr,
    }
