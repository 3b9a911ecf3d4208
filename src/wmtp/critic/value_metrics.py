"""How good values are as predictions of rewards. Pairs of which one is not finite are left out."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a random positive has a higher score than a random negative; a tie counts half.

    With R the sum of the positives' ranks, n₊ and n₋ the counts: (R - n₊ (n₊ + 1) / 2) / (n₊ n₋).

    Args:
        scores: [N] float.
        positive: [N] bool.
    Returns:
        A number in [0, 1]; NaN if there are no positives or no negatives.
    """
    from scipy.stats import rankdata  # 0.3 s that every training would wait for

    kept, is_positive = _finite_pairs(scores, positive)
    positives = float(is_positive.sum())
    negatives = len(kept) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    rank_sum = float(rankdata(kept) @ is_positive)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def expected_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> float:
    """Σ_b n_b / N |mean probability - mean outcome| over bins of equal width on [0, 1].

    What is predicted outside [0, 1] counts as it is, in the first or the last bin.

    Args:
        probabilities: [N] float.
        outcomes: [N] float or bool, in [0, 1].
        bins: how many; each holds its lower edge, and the last also 1.
    Returns:
        The error; NaN without pairs.
    """
    p, y = _finite_pairs(probabilities, outcomes)
    if len(p) == 0:
        return float("nan")
    places = np.minimum(np.clip(p, 0, 1) * bins, bins - 1).astype(np.int64)
    gaps_b = np.bincount(places, weights=p - y, minlength=bins)
    return float(np.abs(gaps_b).sum() / len(p))


def explained_variance(values: ArrayLike, rewards: ArrayLike) -> float:
    """1 - Var(R - V) / Var(R): 1 for perfect values, 0 for a constant; it is blind to a constant offset.

    Args:
        values: [N] float.
        rewards: [N] float.
    Returns:
        A number up to 1; NaN if the rewards are all the same or there are none.
    """
    v, r = _finite_pairs(values, rewards)
    if len(r) == 0 or r.min() == r.max():
        return float("nan")
    return float(1 - (r - v).var() / r.var())


def _finite_pairs(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.ndim == 1, a.shape
    finite = np.isfinite(a) & np.isfinite(b)
    return a[finite], b[finite]
