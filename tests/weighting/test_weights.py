"""Weights against their definition, written down naively in float64, and against their invariants."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch._subclasses.fake_tensor import FakeTensorMode

from wmtp.config import WeightConfig
from wmtp.data.targets import make_targets
from wmtp.weighting.weights import expand, normalise, weight_statistics

Floats = NDArray[np.float64]

STANDARDISED = ("soft", "emphasis", "skip")
MODES = (*STANDARDISED, "proportional")
EXTREMES = [1e30, -1e30, 3e38, -3e38, 1e-45, 0.0, -0.0]
NONFINITE = [math.nan, math.inf, -math.inf]

grid = st.integers(-64, 64).map(lambda i: i / 8)
finite_scores = st.one_of(
    st.lists(grid, min_size=1, max_size=60),
    st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=60),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    st.lists(st.one_of(grid, st.sampled_from(EXTREMES)), min_size=1, max_size=40),
)
any_scores = st.one_of(
    finite_scores,
    st.lists(st.one_of(grid, st.sampled_from(NONFINITE + EXTREMES)), min_size=1, max_size=40),
)
masks = st.one_of(st.just([True]), st.just([False]), st.lists(st.booleans(), min_size=1, max_size=60))


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> WeightConfig:
    options = {
        "mode": draw(st.sampled_from(MODES)),
        "lambda_": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "temperature": draw(st.sampled_from([1e-300, 1e-3, 0.1, 0.7, 1.0, 5.0, 1e6])),
        "top_p": draw(st.sampled_from([1e-9, 0.07, 0.1, 0.5, 0.6, 0.999, 1.0])),
        "alpha": draw(st.sampled_from([1e-9, 0.01, 0.5, 100.0])),
        "epsilon": draw(st.sampled_from([0.0, 1e-50, 0.05, 0.7, 0.9999])),
        "max_weight": draw(st.sampled_from([1.0 + 1e-12, 1.0001, 1.7, 3.0, 1e4, 1e300])),
    }
    return WeightConfig(**options | fixed)


def arrays(scores: list[float], mask: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask is repeated or cut to the length of the scores."""
    repeated = (mask * len(scores))[: len(scores)]
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(repeated)


def oracle(scores: torch.Tensor, valid: torch.Tensor, config: WeightConfig) -> Floats:
    """The definition of the weights, for one process."""
    s_all, valid_all = scores.double().numpy(), valid.numpy()
    counted = valid_all & np.isfinite(s_all)
    weights = np.where(valid_all, 1.0, 0.0)
    if counted.any():
        s = s_all[counted]
        w = oracle_skip(s, config) if config.mode == "skip" else oracle_scaled(s, config)
        weights[counted] = 1 - config.lambda_ + config.lambda_ * w
    return weights


def oracle_skip(s: Floats, config: WeightConfig) -> Floats:
    """Fill up from the highest score until top_p N is spent; equal scores are served together."""
    top_p = Fraction(str(config.top_p))
    left = top_p * len(s)
    values, place, counts = np.unique(s, return_inverse=True, return_counts=True)
    w = np.zeros(len(values))
    for i in reversed(range(len(values))):
        share = min(Fraction(1), left / int(counts[i]))
        w[i] = share / top_p
        left -= share * int(counts[i])
    return w[place]


def oracle_scaled(s: Floats, config: WeightConfig) -> Floats:
    if config.mode == "proportional":
        u = np.maximum(s, 0)
        with np.errstate(divide="ignore"):
            log_u = np.log(u / u.max()) if u.max() > 0 else np.zeros_like(s)
        return oracle_clipped(log_u, config)
    std = s.std()
    if std <= 1e-12 * np.abs(s).max():
        s, std = np.zeros_like(s), 1.0
    z = (s - s.mean()) / std
    if config.mode == "soft":
        log_u = (s - s.max()) / std / config.temperature  # of z, but not rounded where they are close
    else:
        kept = math.floor(Fraction(str(config.top_p)) * len(s))
        quantile = np.sort(s)[::-1][kept] if kept < len(s) else -math.inf
        u = np.maximum(z, 0) * (s > quantile) + config.alpha
        log_u = np.log(u / (np.maximum(z, 0).max() + config.alpha))
    return oracle_clipped(log_u, config)


def oracle_clipped(log_u: Floats, config: WeightConfig) -> Floats:
    log_u = np.maximum(log_u, -700.0)

    def weights(log_c: float) -> Floats:
        return np.clip(np.exp(log_u + log_c), config.epsilon, config.max_weight)

    def surplus(log_c: float) -> float:
        return float(weights(log_c).mean()) - 1

    if surplus(0.0) >= 0:
        return weights(0.0)
    if surplus(700.0) <= 0:
        return weights(700.0)
    return weights(brentq(surplus, 0.0, 700.0, xtol=1e-13, rtol=1e-15, maxiter=1000))


@settings(max_examples=500, deadline=None)
@given(any_scores, masks, configs())
def test_agrees_with_the_definition(scores, mask, config):
    scores, valid = arrays(scores, mask)
    with np.errstate(over="ignore"):
        expected = oracle(scores, valid, config)
    actual = normalise(scores, valid, config)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=2e-6, atol=1e-7)


@settings(max_examples=300, deadline=None)
@given(any_scores, masks, configs())
def test_finite_zero_where_invalid_mean_one_and_never_negative(scores, mask, config):
    scores, valid = arrays(scores, mask)
    weights = normalise(scores, valid, config)
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights[~valid] == 0).all()
    if valid.any():
        assert weights[valid].double().mean().item() == pytest.approx(1, abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(any_scores, configs(lambda_=1.0), st.sampled_from(["soft", "emphasis", "proportional"]))
def test_bounds_hold_exactly(scores, config, mode):
    scores, valid = arrays(scores, [True])
    config = config.model_copy(update={"mode": mode})
    weights = normalise(scores, valid, config).double()
    counted = scores.isfinite()
    assert (weights[counted] >= config.epsilon).all()
    assert (weights[counted] <= config.max_weight).all()


@settings(deadline=None)
@given(
    st.lists(grid, min_size=1, max_size=60),
    st.integers(-1000, 1000),
    masks,
    configs(),
    st.sampled_from(STANDARDISED),
)
def test_unaffected_by_adding_a_constant(scores, constant, mask, config, mode):
    scores, valid = arrays(scores, mask)
    config = config.model_copy(update={"mode": mode})
    shifted = normalise(scores + constant, valid, config)
    torch.testing.assert_close(shifted, normalise(scores, valid, config), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.lists(grid, min_size=1, max_size=60), st.integers(-40, 40), masks, configs())
def test_unaffected_by_a_positive_factor(scores, exponent, mask, config):
    scores, valid = arrays(scores, mask)
    scaled = normalise(scores * 2.0**exponent, valid, config)
    torch.testing.assert_close(scaled, normalise(scores, valid, config), rtol=1e-6, atol=1e-7)


@settings(deadline=None)
@given(any_scores, masks, configs(), st.randoms(use_true_random=False))
def test_order_and_shape_and_what_is_invalid_play_no_part(scores, mask, config, random):
    scores, valid = arrays(scores, mask)
    order = torch.tensor(random.sample(range(len(scores)), len(scores)))
    weights = normalise(scores, valid, config)
    torch.testing.assert_close(normalise(scores[order], valid[order], config), weights[order])
    padded = torch.stack([scores, torch.full_like(scores, random.choice([*NONFINITE, 7.0]))])[:, None]
    padded_valid = torch.stack([valid, torch.zeros_like(valid)])[:, None]
    torch.testing.assert_close(normalise(padded, padded_valid, config)[0, 0], weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("score", [0.0, 0.1, -1e30, 1e-45, 3e38])
@pytest.mark.parametrize("count", [1, 2, 7, 1000, 40_000])
def test_equal_scores_give_exactly_one(mode, score, count):
    scores = torch.full((count,), score)
    weights = normalise(
        scores, torch.ones(count, dtype=torch.bool), WeightConfig(mode=mode, temperature=0.01)
    )
    assert (weights == 1).all()


@pytest.mark.parametrize("mode", MODES)
def test_both_zeros_are_the_same_score(mode):
    weights = normalise(
        torch.tensor([0.0, -0.0, 0.0]), torch.ones(3, dtype=torch.bool), WeightConfig(mode=mode)
    )
    assert (weights == 1).all()


@pytest.mark.parametrize(
    ("below", "second", "others"),
    [(600, 3.0, 46 / 50), (699, 49 * math.e / (50 + math.e), 49 / (50 + math.e)), (701, 49 / 51, 49 / 51)],
)
def test_unscaled_weights_differ_by_at_most_exp_700(below, second, others):
    """The first weighs W_max = 3; the second has exp(-below) of it before scaling, the others next to nothing."""
    scores, valid = torch.tensor([0.0, -1.0, *[-100.0] * 50]), torch.ones(52, dtype=torch.bool)
    config = WeightConfig(temperature=1 / (scores.double().std(correction=0).item() * below))
    expected = torch.tensor([3.0, second, *[others] * 50])
    torch.testing.assert_close(normalise(scores, valid, config), expected)


@settings(deadline=None)
@given(any_scores, masks, configs(lambda_=0.0))
def test_lambda_zero_is_exactly_the_baseline(scores, mask, config):
    scores, valid = arrays(scores, mask)
    assert torch.equal(normalise(scores, valid, config), valid.float())


@settings(deadline=None)
@given(any_scores, masks, configs())
def test_a_nonfinite_score_gives_one_and_leaves_the_others_alone(scores, mask, config):
    scores, valid = arrays(scores, mask)
    weights = normalise(scores, valid, config)
    nonfinite = valid & ~scores.isfinite()
    assert (weights[nonfinite] == 1).all()
    torch.testing.assert_close(normalise(scores, valid & ~nonfinite, config), weights * ~nonfinite)


def test_a_score_beyond_float32_counts_as_not_finite():
    scores = torch.tensor([1e300, 1.0, 2.0], dtype=torch.float64)
    weights = normalise(scores, torch.ones(3, dtype=torch.bool), WeightConfig())
    assert weights[0] == 1
    assert weights[1] < 1 < weights[2]


def test_higher_scores_weigh_more_and_temperature_flattens():
    scores, valid = torch.arange(8.0), torch.ones(8, dtype=torch.bool)
    spreads = []
    for temperature in (0.5, 1.0, 4.0):
        weights = normalise(
            scores, valid, WeightConfig(temperature=temperature, epsilon=0.0, max_weight=100.0)
        )
        assert (weights.diff() > 0).all()
        softmax = 8 * torch.softmax((scores - scores.mean()) / scores.std(correction=0) / temperature, 0)
        torch.testing.assert_close(weights, softmax)
        spreads.append(weights.std().item())
    assert spreads == sorted(spreads, reverse=True)


def test_skip_keeps_the_top_fraction():
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    weights = normalise(scores, torch.ones(5, dtype=torch.bool), WeightConfig(mode="skip", top_p=0.6))
    torch.testing.assert_close(weights, torch.tensor([1 / 0.6, 0.0, 1 / 0.6, 0.0, 1 / 0.6]))
    assert (weights == 0).sum() == 2


def test_skip_leaves_no_dust_where_only_rounding_exceeds_a_whole_number():
    scores, valid = torch.arange(100.0), torch.ones(100, dtype=torch.bool)
    weights = normalise(scores, valid, WeightConfig(mode="skip", top_p=0.07))
    assert 0.07 * 100 > 7
    assert (weights > 0).sum() == 7


def test_skip_shares_a_tie_at_the_threshold():
    scores = torch.tensor([9.0, 1.0, 1.0, 1.0, 0.0])
    weights = normalise(scores, torch.ones(5, dtype=torch.bool), WeightConfig(mode="skip", top_p=0.4))
    torch.testing.assert_close(weights, torch.tensor([2.5, *[2.5 / 3] * 3, 0.0]))


def test_emphasis_raises_only_scores_above_the_quantile_and_the_mean():
    scores, valid = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]), torch.ones(8, dtype=torch.bool)
    options = {"mode": "emphasis", "alpha": 0.5, "epsilon": 0.0, "max_weight": 100.0}
    weights = normalise(scores, valid, WeightConfig(top_p=0.25, **options))
    assert len(weights[:6].unique()) == 1
    assert weights[5] < weights[6] < weights[7]
    wide = normalise(scores, valid, WeightConfig(top_p=1.0, **options))
    assert len(wide[:5].unique()) == 1, "scores under the mean (1.25) get no more than α"
    assert wide[4] < wide[5] < wide[6]


def test_proportional_weights_are_the_scores_where_these_have_mean_1_and_keep_the_bounds():
    scores = torch.tensor([0.5, 1.5, 0.25, 1.75, 1.0, 1.0])
    config = WeightConfig(mode="proportional")
    valid = torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(normalise(scores, valid, config), scores)
    torch.testing.assert_close(normalise(40 * scores, valid, config), scores)
    assert normalise(scores, valid, config.model_copy(update={"temperature": 0.1})).equal(
        normalise(scores, valid, config)
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.4])
def test_proportional_gives_epsilon_to_scores_that_are_not_above_0(epsilon):
    scores, valid = torch.tensor([0.0, -3.0, -0.0, 1.0, 1.0, 2.0]), torch.ones(6, dtype=torch.bool)
    weights = normalise(scores, valid, WeightConfig(mode="proportional", epsilon=epsilon))
    rest = (6 - 3 * epsilon) / 4
    expected = torch.tensor([epsilon, epsilon, epsilon, rest, rest, 2 * rest])
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-30)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**120), 0, width=32), min_size=1), masks, configs(mode="proportional"))
def test_proportional_is_uniform_where_no_score_is_above_0(scores, mask, config):
    scores, valid = arrays(scores, mask)
    assert torch.equal(normalise(scores, valid, config), valid.float())


def test_proportional_caps_what_would_exceed_the_greatest_weight():
    scores, valid = torch.tensor([100.0, *[1.0] * 9]), torch.ones(10, dtype=torch.bool)
    weights = normalise(scores, valid, WeightConfig(mode="proportional"))
    torch.testing.assert_close(weights, torch.tensor([3.0, *[7 / 9] * 9]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_large_batches_of_raw_noise(mode, temperature):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(16, 2500, 4, generator=generator).exp() - 2
    valid = torch.rand(scores.shape, generator=generator) < 0.7
    config = WeightConfig(mode=mode, temperature=temperature)
    weights = normalise(scores, valid, config)
    assert weights[valid].double().mean().item() == pytest.approx(1, abs=1e-7)
    expected = oracle(scores.flatten(), valid.flatten(), config)
    np.testing.assert_allclose(weights.flatten().double().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 8, 2), (2, 8, 2)])
def test_nothing_valid_gives_zeros(mode, shape):
    weights = normalise(
        torch.full(shape, math.nan), torch.zeros(shape, dtype=torch.bool), WeightConfig(mode=mode)
    )
    assert weights.shape == shape
    assert (weights == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_no_value_is_read_back_from_the_device(mode):
    """A tensor without values would raise where one is needed."""
    with FakeTensorMode():
        scores, valid = torch.randn(2, 8, 3), torch.ones(2, 8, 3, dtype=torch.bool)
        weights = normalise(scores, valid, WeightConfig(mode=mode))
        weight_statistics(weights, valid)
    assert weights.shape == (2, 8, 3)


def test_scores_are_left_as_they_are_and_get_no_gradient():
    scores = torch.tensor([1.0, math.nan, -0.0, 5.0], requires_grad=True)
    before = scores.detach().clone()
    weights = normalise(scores, torch.tensor([True, True, True, False]), WeightConfig())
    assert not weights.requires_grad
    torch.testing.assert_close(scores.detach(), before, rtol=0, atol=0, equal_nan=True)


def test_expand_takes_the_score_of_the_token_that_each_head_predicts():
    generator = torch.Generator().manual_seed(0)
    batch, length, heads, decay = 2, 9, 3, 0.4
    documents = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 2]])
    supervised = torch.rand(batch, length, generator=generator) < 0.8
    _, valid = make_targets(torch.zeros_like(documents), documents, supervised, heads)
    token_scores = torch.randn(batch, length, generator=generator).where(valid[..., 0], math.nan)
    scores = expand(token_scores, heads, decay)
    assert scores.shape == (batch, length, heads)
    for b, s, h in valid.nonzero().tolist():
        assert scores[b, s, h].item() == pytest.approx(token_scores[b, s + h].item() * math.exp(-decay * h))
    assert scores[valid].isfinite().all()
