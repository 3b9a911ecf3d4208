import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from wmtp.experiment.statistics import interval, mean_interval, paired_difference

shares = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0])
shapes = st.tuples(st.integers(1, 4), st.integers(1, 7))
passes = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=shares))
pairs = shapes.flatmap(
    lambda shape: st.tuples(*[arrays(np.float64, shape, elements=shares) for _ in range(2)])
)


def looped_interval(passes_sp: np.ndarray, resamples: int) -> tuple[float, float]:
    """The same bootstrap spelt out: draw indices, take the sub-table, average it."""
    rng = np.random.default_rng(123)
    seeds, problems = passes_sp.shape
    means = []
    for _ in range(resamples):
        s = rng.integers(seeds, size=seeds)
        p = rng.integers(problems, size=problems)
        means.append(passes_sp[np.ix_(s, p)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def enumerated_p(differences: list[float]) -> float:
    """Two-sided signed-rank p: all sign patterns of the non-zero differences are equally likely."""
    kept = [d for d in differences if d != 0]
    if not kept:
        return 1.0
    ranks = stats.rankdata(np.abs(kept))
    observed = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    sums = [np.dot(ranks, signs) for signs in itertools.product([0, 1], repeat=len(kept))]
    below = np.mean([s <= observed + 1e-9 for s in sums])
    above = np.mean([s >= observed - 1e-9 for s in sums])
    return float(min(1.0, 2 * min(below, above)))


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.4), (5, 0.0)])
def test_interval_equals_the_looped_bootstrap(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(seeds)
    chance = np.clip(0.5 + spread * np.linspace(-1, 1, seeds)[:, None], 0, 1) if seeds > 1 else 0.4
    passes_sp = (rng.random((seeds, 40)) < chance).astype(float)
    found = interval(passes_sp, resamples=20_000)
    low, high = looped_interval(passes_sp, 6_000)
    assert found.value == pytest.approx(passes_sp.mean())
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_interval_of_one_seed_has_binomial_quantiles() -> None:
    passes_sp = np.array([[1.0] * 10 + [0.0] * 30])
    found = interval(passes_sp, resamples=20_000)
    low, high = stats.binom.ppf([0.025, 0.975], 40, 0.25) / 40
    assert (found.low, found.high) == (pytest.approx(low, abs=1 / 40), pytest.approx(high, abs=1 / 40))


def test_interval_reaches_the_extreme_resamples_of_a_tiny_table() -> None:
    # 2 × 2: each of the four corners alone is drawn with probability 1/16 > 2.5%.
    found = interval(np.array([[0.0, 0.25], [0.5, 1.0]]))
    assert (found.value, found.low, found.high) == (0.4375, 0.0, 1.0)


def test_seeds_that_differ_widen_the_interval() -> None:
    apart = np.array([[0.0] * 50, [1.0] * 50])
    assert interval(apart).low == 0.0
    assert interval(apart).high == 1.0
    mixed = np.tile([0.0, 1.0], (2, 25))
    assert interval(mixed).low > 0.3


@given(passes)
@settings(deadline=None, max_examples=25)
def test_interval_contains_its_value_and_stays_in_range(passes_sp: np.ndarray) -> None:
    found = interval(passes_sp, resamples=200)
    assert found.low <= found.value <= found.high
    assert found.low >= passes_sp.min() - 1e-12
    assert found.high <= passes_sp.max() + 1e-12


@pytest.mark.parametrize(("shape", "share"), [((2, 3), 0.1), ((2, 3), 0.7), ((4, 5), 1 / 3)])
def test_rounding_does_not_push_the_value_out(shape: tuple[int, int], share: float) -> None:
    found = interval(np.full(shape, share))
    assert found.low <= found.value <= found.high
    assert (found.low, found.high) == pytest.approx((share, share))


def test_interval_depends_on_the_seed_only() -> None:
    passes_sp = np.random.default_rng(0).random((3, 30))
    assert interval(passes_sp, seed=1) == interval(passes_sp, seed=1)
    assert interval(passes_sp, seed=1) != interval(passes_sp, seed=2)


@pytest.mark.parametrize("bad", [np.empty((0, 3)), np.zeros(3), np.array([[np.nan]])])
def test_interval_refuses_tables_without_meaning(bad: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        interval(bad)


@given(pairs)
@settings(deadline=None, max_examples=25)
def test_swapping_the_arms_negates_the_difference(tables: tuple[np.ndarray, np.ndarray]) -> None:
    one, other = tables
    there = paired_difference(one, other, resamples=200)
    back = paired_difference(other, one, resamples=200)
    assert back.value == pytest.approx(-there.value, abs=1e-12)
    assert back.low == pytest.approx(-there.high, abs=1e-12)
    assert back.high == pytest.approx(-there.low, abs=1e-12)
    assert back.p == pytest.approx(there.p)


@given(passes)
@settings(deadline=None, max_examples=30)
def test_an_arm_does_not_differ_from_itself(passes_sp: np.ndarray) -> None:
    found = paired_difference(passes_sp, passes_sp, resamples=100)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_what_both_arms_share_cancels_out() -> None:
    baseline = np.random.default_rng(0).choice([0.0, 0.25, 0.5], size=(4, 30))
    found = paired_difference(baseline + 0.25, baseline)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.p < 1e-5


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8))
@settings(deadline=None, max_examples=25)
def test_p_is_the_exact_signed_rank_p_of_few_problems(differences: list[float]) -> None:
    arm = np.clip(np.array([differences]), 0, 1)
    baseline = np.clip(-np.array([differences]), 0, 1)
    assert paired_difference(arm, baseline, resamples=10).p == pytest.approx(enumerated_p(differences))


def test_problems_without_a_difference_do_not_make_a_small_sample_look_large() -> None:
    arm, baseline = np.zeros((1, 100)), np.zeros((1, 100))
    arm[0, :5] = 1
    assert paired_difference(arm, baseline).p == pytest.approx(2 / 2**5)


def test_p_averages_over_seeds_first_and_ignores_rounding() -> None:
    # Every problem: +0.1, +0.2 and -0.3 over three seeds; in floating point that is 2e-17, not 0.
    arm = np.tile([[0.1], [0.2], [0.0]], (1, 6))
    baseline = np.tile([[0.0], [0.0], [0.3]], (1, 6))
    assert paired_difference(arm, baseline).p == 1.0


def test_p_of_many_problems_is_the_normal_approximation() -> None:
    rng = np.random.default_rng(3)
    arm, baseline = rng.random((2, 60)), rng.random((2, 60)) * 0.8
    expected = stats.wilcoxon((arm - baseline).mean(axis=0), method="asymptotic").pvalue
    assert paired_difference(arm, baseline).p == pytest.approx(expected, rel=0.02)


def test_mean_interval_is_the_t_interval() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / np.sqrt(3)  # t(0.975; 2 degrees of freedom), standard deviation 1
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half))


def test_mean_interval_of_one_seed_has_no_bounds() -> None:
    found = mean_interval([0.7])
    assert (found.value, found.low, found.high) == (0.7, None, None)


def coverage(seeds: int, seed_spread: float, runs: int = 200, problems: int = 80) -> float:
    """How often the interval holds the true mean of problems ~ N(0, 1.5²), seeds ~ N(0, spread²), in logits."""
    rng = np.random.default_rng(11)
    draws = rng.normal(0, np.hypot(1.5, seed_spread), 1_000_000)
    truth = float((1 / (1 + np.exp(-draws))).mean())
    held = 0
    for run in range(runs):
        logits = rng.normal(0, 1.5, problems)[None] + rng.normal(0, seed_spread, seeds)[:, None]
        passes_sp = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
        found = interval(passes_sp, seed=run, resamples=400)
        held += found.low <= truth <= found.high
    return held / runs


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (5, 0.3), (8, 0.5)])
def test_intervals_hold_the_truth_about_95_times_in_100(seeds: int, spread: float) -> None:
    assert 0.90 <= coverage(seeds, spread) <= 0.995


def test_one_seed_leaves_the_variation_between_seeds_out() -> None:
    assert coverage(1, 0.6) < 0.8
