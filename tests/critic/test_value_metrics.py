"""Metrics against brute force: counting pairs, summing bin by bin, rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.critic.value_metrics import auc, expected_calibration_error, explained_variance

NONFINITE = [math.nan, math.inf, -math.inf]

eighths = st.integers(-16, 16).map(lambda i: i / 8)
any_score = st.one_of(eighths, st.sampled_from(NONFINITE))


@given(st.lists(st.tuples(any_score, st.booleans()), max_size=40))
def test_auc_counts_pairs(pairs):
    positives = [s for s, positive in pairs if positive and math.isfinite(s)]
    negatives = [s for s, positive in pairs if not positive and math.isfinite(s)]
    actual = auc([s for s, _ in pairs], [p for _, p in pairs])
    if not positives or not negatives:
        assert math.isnan(actual)
        return
    won = sum(Fraction(p > n) + Fraction(p == n, 2) for p in positives for n in negatives)
    assert actual == pytest.approx(float(won / (len(positives) * len(negatives))), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [False, False, True, True], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [False, False, True, True], 0.0),
        ([3.0, 3.0, 3.0], [True, False, True], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),
        ([1.0, 2.0, math.nan], [False, True, True], 1.0),
        ([1.0, math.inf], [False, True], math.nan),
        ([1.0, 2.0], [True, True], math.nan),
        ([], [], math.nan),
    ],
)
def test_auc_by_hand(scores, positive, expected):
    assert auc(scores, positive) == pytest.approx(expected, nan_ok=True)


def test_auc_of_many_is_exact():
    """More pairs than an int32 counts; the rank sum of 200,000 scores."""
    count = 100_000
    scores = np.arange(2 * count, dtype=np.float32)
    assert auc(scores, scores >= count) == 1.0
    assert auc(scores, scores % 2 == 1) == pytest.approx(0.5 + 0.5 / count, abs=1e-15)


@given(
    st.lists(st.tuples(st.integers(-10, 74).map(lambda i: i / 64), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([1, 2, 4, 8, 16]),
)
def test_calibration_error_bin_by_bin(pairs, bins):
    error = 0.0
    for i in range(bins):
        low = -math.inf if i == 0 else i / bins
        high = math.inf if i == bins - 1 else (i + 1) / bins
        members = [(p, y) for p, y in pairs if low <= p < high]
        if members:
            gap = np.mean([p for p, _ in members]) - np.mean([y for _, y in members])
            error += len(members) / len(pairs) * abs(gap)
    actual = expected_calibration_error([p for p, _ in pairs], [y for _, y in pairs], bins)
    assert actual == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "outcomes", "expected"),
    [
        ([0.05, 0.95], [0, 1], 0.05),
        ([0.25] * 4, [0, 0, 0, 1], 0.0),
        ([0.35, 0.45], [1, 0], (0.65 + 0.45) / 2),
        ([0.31, 0.39], [1, 0], 0.15),
        ([0.0, 1.0], [1, 0], 1.0),
        ([1.5, 1.0], [1, 1], 0.25),
        ([-1e308, 0.5, math.nan], [0, 0.5, 1], 5e307),
        ([], [], math.nan),
    ],
)
def test_calibration_error_by_hand(probabilities, outcomes, expected):
    assert expected_calibration_error(probabilities, outcomes) == pytest.approx(expected, nan_ok=True)


def test_explained_variance():
    rewards = np.array([0.0, 1.0, 1.0, 0.0])
    assert explained_variance(rewards, rewards) == 1.0
    assert explained_variance(rewards + 3, rewards) == pytest.approx(1.0), "blind to an offset"
    assert explained_variance(np.full(4, 0.7), rewards) == pytest.approx(0.0)
    assert explained_variance(1 - rewards, rewards) == pytest.approx(-3.0)
    assert explained_variance(rewards / 2, rewards) == pytest.approx(0.75)
    assert explained_variance([0.0, 1.0, 9.0], [0.0, 1.0, math.nan]) == 1.0


@pytest.mark.parametrize("rewards", [[], [0.1], [0.1] * 7, [1.0, 1.0, math.nan]])
def test_explained_variance_of_constant_rewards_is_undefined(rewards):
    assert math.isnan(explained_variance(np.arange(len(rewards)), rewards))


@given(st.lists(st.tuples(eighths, eighths), min_size=2, max_size=30))
def test_explained_variance_agrees_with_fractions(pairs):
    def variance(x: list[Fraction]) -> Fraction:
        mean = sum(x) / len(x)
        return sum((e - mean) ** 2 for e in x) / len(x)

    values, rewards = ([Fraction(x) for x in side] for side in zip(*pairs, strict=True))
    actual = explained_variance([float(v) for v in values], [float(r) for r in rewards])
    if len(set(rewards)) == 1:
        assert math.isnan(actual)
    else:
        residuals = [r - v for r, v in zip(rewards, values, strict=True)]
        assert actual == pytest.approx(float(1 - variance(residuals) / variance(rewards)), abs=1e-9)


def test_lengths_must_agree():
    with pytest.raises(AssertionError):
        auc([1.0, 2.0], [True])
