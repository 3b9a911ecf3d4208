"""Unbiased estimators: pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1) and n@k."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

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
    _check(samples, k)
    return mean([_of_problem(n, c, k) for n, c in zip(samples, passed, strict=True)])


def mean(values: Sequence[float]) -> Estimate:
    """The mean over problems, at least one, and its standard error."""
    center = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(center, math.nan)
    variance = math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)
    return Estimate(center, math.sqrt(variance / len(values)))


def n_at_k(samples: Sequence[int], public: Sequence[int], passed: Sequence[int], n: int, k: int) -> Estimate:
    """n@k: chance that one of at most n submissions passes, averaged over problems (arXiv 2203.07814).

    Of k samples those that pass the public tests are left, and n of them, or all if they are fewer, are submitted at
    random. For a problem with N samples of which p pass the public tests and c pass all, the number j of the k that
    pass the public ones is hypergeometric, and the submissions are a random subset of the p:
    Σ_j C(p, j) C(N-p, k-j) / C(N, k) · (1 - C(p-c, m) / C(p, m)), m = min(n, j).

    Args:
        samples: N of each problem.
        public: p of each problem.
        passed: c of each problem, 0 <= c <= p <= N.
        n: submissions at most.
        k: samples that they are chosen from.

    Raises:
        WMTPError: no problems, or a problem with fewer than k samples.
    """
    assert 1 <= n <= k
    assert all(0 <= c <= p <= each for each, p, c in zip(samples, public, passed, strict=True))
    _check(samples, k)
    return mean([_submitted(each, p, c, n, k) for each, p, c in zip(samples, public, passed, strict=True)])


def _check(samples: Sequence[int], k: int) -> None:
    if not samples:
        raise WMTPError("pass@k of no problems: the task is empty, or evaluate.limit leaves nothing of it")
    if min(samples) < k:
        raise WMTPError(
            f"pass@{k} needs {k} samples of each problem, and one has {min(samples)}; set evaluate.samples >= {k}"
        )


def _submitted(samples: int, public: int, passed: int, n: int, k: int) -> float:
    found = Fraction(0)
    for j in range(max(0, k - (samples - public)), min(k, public) + 1):
        m = min(n, j)
        drawn = math.comb(public, j) * math.comb(samples - public, k - j)
        found += drawn * (1 - Fraction(math.comb(public - passed, m), math.comb(public, m)))
    return float(found / math.comb(samples, k))


def _of_problem(n: int, c: int, k: int) -> float:
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets
