"""The unbiased estimator of pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wmtp.errors import WMTPError


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its standard error (nan for a single problem, which says nothing about others)."""

    value: float
    stderr: float


def pass_at_k(samples: Sequence[int], passed: Sequence[int], k: int) -> Estimate:
    """Chance that at least one of k samples passes, averaged over problems.

    For a problem with n samples of which c passed, 1 - C(n-c, k) / C(n, k): the share of the k-subsets of the samples
    that hold a passing one. The binomials are integers and divided once, so that each value is correctly rounded.
    Over P problems with values x_i and mean m, the standard error is sqrt(Σ (x_i - m)² / (P - 1) / P): the spread
    that another draw of problems would bring, and, through the x_i, that of another draw of samples.

    Args:
        samples: n of each problem.
        passed: c of each problem, 0 <= c <= n.
        k: size of the subsets.

    Raises:
        WMTPError: no problems, or a problem with fewer than k samples.
    """
    assert len(samples) == len(passed)
    assert k >= 1
    assert all(0 <= c <= n for n, c in zip(samples, passed, strict=True))
    if not samples:
        raise WMTPError("pass@k of no problems: the task is empty, or evaluate.limit leaves nothing of it")
    if min(samples) < k:
        raise WMTPError(
            f"pass@{k} needs {k} samples of each problem, and one has {min(samples)}; set evaluate.samples >= {k}"
        )
    values = [_of_problem(n, c, k) for n, c in zip(samples, passed, strict=True)]
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Estimate(mean, math.sqrt(variance / len(values)))


def _of_problem(n: int, c: int, k: int) -> float:
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets
