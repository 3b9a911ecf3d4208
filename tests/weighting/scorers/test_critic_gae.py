import math
from dataclasses import replace

import pytest
import torch
from scorer_inputs import documents, make_inputs, step_info
from torch import Tensor

from wmtp.config import CriticConfig, Recipe, WeightConfig
from wmtp.weighting.scorers import create_scorer
from wmtp.weighting.scorers.base import ScoreInputs
from wmtp.weighting.scorers.critic_gae import LARGEST_EXPONENT, MOMENTUM, CriticGAE
from wmtp.weighting.weights import expand, normalise

GAMMA, LAMBDA, BETA = 0.9, 0.8, 1.5


def make_scorer(beta: float = BETA) -> CriticGAE:
    recipe = Recipe(critic=CriticConfig(gamma=GAMMA, gae_lambda=LAMBDA, beta=beta))
    scorer = create_scorer("critic-gae-v1", recipe)
    assert isinstance(scorer, CriticGAE)
    return scorer


def advantages(inputs: ScoreInputs) -> Tensor:
    """A_t = Σ_l (γ λ)^l δ_{t+l} of the token at s + 1, by its sum, in float64."""
    assert inputs.values_bs is not None
    assert inputs.rewards_bs is not None
    out = torch.zeros(inputs.valid_bs.shape, dtype=torch.float64)
    for b, places in documents(inputs):
        values = inputs.values_bs[b, places].double().tolist()
        reward = float(inputs.rewards_bs[b, places[0]])
        last = len(places) - 1
        deltas = [
            (reward if s + 1 == last else GAMMA * values[s + 1]) - values[s] for s in range(len(places) - 1)
        ]
        for s in range(last):
            out[b, places[s]] = sum((GAMMA * LAMBDA) ** i * d for i, d in enumerate(deltas[s:]))
    return out


def test_raw_scores_are_the_advantages_of_the_definition() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    assert scorer.needs == {"values", "rewards"}
    assert scorer.mode == "proportional"
    torch.testing.assert_close(scorer(inputs).double(), advantages(inputs), rtol=1e-5, atol=1e-6)


def test_whitening_by_running_statistics_is_that_of_a_loop_over_steps() -> None:
    scorer = make_scorer()
    number = total = squares = 0.0
    for step in range(6):
        inputs = make_inputs(seed=step, layout=[[4, 3], [9]] if step % 2 else [[12]])
        scores = scorer(inputs) * (1 + step) - step
        own = [float(a) for a in scores[inputs.valid_bs]]
        number = MOMENTUM * number + len(own)
        total = MOMENTUM * total + sum(own)
        squares = MOMENTUM * squares + sum(a * a for a in own)
        mean = total / number
        std = math.sqrt(squares / number - mean**2)
        expected = [math.exp((a - mean) / std / BETA) for a in own]
        found = scorer.complete(scores, step_info(inputs, step=step))
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found[inputs.valid_bs].double(), torch.tensor(expected).double(), rtol=1e-5, atol=0
        )
    torch.testing.assert_close(
        scorer.state()["moments"], torch.tensor([number, total, squares]).double(), rtol=1e-6, atol=1e-9
    )


def test_what_is_not_supervised_plays_no_part() -> None:
    inputs = make_inputs()
    results = []
    for filler in (0.0, 1e6, math.nan):
        scorer = make_scorer()
        scores = scorer(inputs).where(inputs.valid_bs, filler)
        results.append((scorer.complete(scores, step_info(inputs))[inputs.valid_bs], scorer.moments))
    for weights, moments in results[1:]:
        assert torch.equal(weights, results[0][0])
        assert torch.equal(moments, results[0][1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_advantage_that_is_not_finite_stays_so_and_enters_no_statistic(bad: float) -> None:
    inputs, scorer, other = make_inputs(), make_scorer(), make_scorer()
    scores = scorer(inputs)
    place = tuple(inputs.valid_bs.nonzero()[0].tolist())
    scores[place] = bad
    found = scorer.complete(scores, step_info(inputs))
    without = replace(step_info(inputs))
    without.valid_bsh[place] = False
    expected = other.complete(scores, without)
    rest = inputs.valid_bs.clone()
    rest[place] = False
    assert torch.equal(scorer.moments, other.moments)
    torch.testing.assert_close(found[rest], expected[rest], rtol=0, atol=0)
    assert not found[place].isfinite(), "it should be counted, and get weight 1"


def test_only_training_updates_the_statistics() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    scores = scorer(inputs)
    own = scorer.complete(scores, step_info(inputs, is_training=False))
    assert (scorer.moments == 0).all()
    trained = scorer.complete(scores, step_info(inputs))
    # Where there are none yet, they are the step's own.
    assert torch.equal(own[inputs.valid_bs], trained[inputs.valid_bs])
    before = scorer.moments.clone()
    assert before[0] == inputs.valid_bs.sum()
    later = 3 * scores + 1
    seen = scorer.complete(later, step_info(inputs, is_training=False))
    assert torch.equal(scorer.moments, before)
    a = scores[inputs.valid_bs].double()
    expected = ((later[inputs.valid_bs].double() - a.mean()) / a.std(correction=0) / BETA).exp()
    torch.testing.assert_close(seen[inputs.valid_bs].double(), expected, rtol=1e-5, atol=0)


def test_its_state_is_saved_and_restored_in_place() -> None:
    steps = [make_inputs(seed) for seed in range(4)]
    going_on, resumed = make_scorer(), make_scorer()
    for inputs in steps[:3]:
        going_on.complete(going_on(inputs), step_info(inputs))
    saved = {name: tensor.clone() for name, tensor in going_on.state().items()}
    for name, tensor in resumed.state().items():
        tensor.copy_(saved[name])
    last = steps[3]
    expected = going_on.complete(going_on(last), step_info(last))
    found = resumed.complete(resumed(last), step_info(last))
    assert torch.equal(found[last.valid_bs], expected[last.valid_bs])
    assert torch.equal(resumed.state()["moments"], going_on.state()["moments"])
    assert not torch.equal(resumed.state()["moments"], saved["moments"])


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 3e-30])
def test_constant_advantages_give_equal_weights(constant: float) -> None:
    inputs, scorer = make_inputs(), make_scorer()
    info = step_info(inputs)
    for _ in range(3):
        found = scorer.complete(torch.full(inputs.valid_bs.shape, constant), info)
        config = WeightConfig(mode=scorer.mode)
        weights = normalise(expand(found, info.valid_bsh.shape[2], 0.0), info.valid_bsh, config)
        assert torch.equal(weights, info.valid_bsh.float())


def test_a_huge_advantage_is_bounded() -> None:
    inputs, scorer = make_inputs(), make_scorer(beta=1e-3)
    found = scorer.complete(scorer(inputs), step_info(inputs))[inputs.valid_bs]
    assert found.isfinite().all()
    assert found.max().item() == pytest.approx(math.exp(LARGEST_EXPONENT), rel=1e-5)
    assert found.min().item() == pytest.approx(math.exp(-LARGEST_EXPONENT), rel=1e-5)


def test_nothing_supervised_is_no_error() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    info = step_info(inputs)
    info.valid_bsh[:] = False
    assert scorer.complete(scorer(inputs), info).shape == inputs.valid_bs.shape
    assert (scorer.moments == 0).all()
