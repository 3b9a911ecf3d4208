"""Intervals and tests for a comparison over problems and seeds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wmtp.experiment.results import Difference, Interval

Floats = NDArray[np.float64]

LEVEL = 0.95
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def interval(passes_sp: Floats, seed: int = 0, resamples: int = 5000) -> Interval:
    """Mean with a 95% percentile interval from a bootstrap over seeds and problems.

    Every resample draws as many seeds and as many problems as there are, with replacement, and crosses them
    (the pigeonhole bootstrap, Owen 2007): with multinomial counts c (seeds) and d (problems) its mean is
    cᵀ P d / (seeds · problems). It errs on the wide side when samples are noisy, and on the narrow side for
    fewer than about five seeds. **With one seed only problems are resampled**: the interval then does not
    contain the variation between seeds.

    Args:
        passes_sp: [seeds, problems] float, e.g. the share of a problem's samples that passed.
        seed: of the resampling.
        resamples: how many; needs resamples × problems floats.

    Returns:
        The mean and bounds around it.
    """
    assert passes_sp.ndim == 2, passes_sp.shape
    assert passes_sp.size > 0
    assert np.isfinite(passes_sp).all()
    seeds, problems = passes_sp.shape
    rng = np.random.default_rng(seed)
    counts_rs = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    counts_rp = rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples)
    means_r = np.einsum("rp,rp->r", counts_rs @ passes_sp, counts_rp) / passes_sp.size
    value = float(passes_sp.mean())
    low, high = np.quantile(means_r, _TAILS)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def paired_difference(
    arm_sp: Floats, baseline_sp: Floats, seed: int = 0, resamples: int = 5000
) -> Difference:
    """Arm minus baseline: paired bootstrap interval and Wilcoxon signed-rank p.

    Both arms are resampled with the same seeds and problems, so what they share cancels out. The test is
    two-sided, over problems, on differences averaged over seeds. Problems without a difference are dropped
    (Wilcoxon's own rule, `zero_method="wilcox"`); if that leaves none, p is 1. Up to 13 differing problems the
    p value is exact, above that it is the normal approximation. It says nothing about other seeds.

    Args:
        arm_sp, baseline_sp: [seeds, problems] float; same seeds and problems in the same order.
        seed, resamples: as in `interval`.
    """
    assert arm_sp.shape == baseline_sp.shape, (arm_sp.shape, baseline_sp.shape)
    difference_sp = arm_sp - baseline_sp
    found = interval(difference_sp, seed=seed, resamples=resamples)
    assert found.low is not None
    assert found.high is not None
    return Difference(
        value=found.value, low=found.low, high=found.high, p=_signed_rank_p(difference_sp.mean(axis=0))
    )


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of one scalar per seed with its 95% t interval; one value has no bounds."""
    array = np.asarray(values, dtype=np.float64)
    assert array.ndim == 1
    assert array.size > 0
    value = float(array.mean())
    if array.size == 1:
        return Interval(value=value, low=None, high=None)
    half = float(stats.t.ppf(_TAILS[1], df=array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return Interval(value=value, low=value - half, high=value + half)


def _signed_rank_p(differences_p: Floats) -> float:
    # Shares such as 1/3 + 2/3 - 1 leave rounding dust that would break ties and count as a difference.
    rounded = np.round(differences_p, 12)
    differing = rounded[rounded != 0]
    if differing.size == 0:
        return 1.0
    return float(stats.wilcoxon(differing, zero_method="wilcox").pvalue)
