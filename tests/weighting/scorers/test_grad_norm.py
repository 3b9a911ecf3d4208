import math

import pytest
import torch
from scorer_inputs import documents, make_inputs

from wmtp.config import Recipe
from wmtp.weighting.scorers import create_scorer
from wmtp.weighting.scorers.base import ScoreInputs, Scorer


def make_scorer(smoothing: float) -> Scorer:
    return create_scorer("grad-norm-v1", Recipe(), {"smoothing": smoothing})


def averages(inputs: ScoreInputs, beta: float) -> torch.Tensor:
    """y = β y + (1 - β) x from one supervised token of a document to the next."""
    assert inputs.gradient_norm_bs is not None
    out = torch.zeros(inputs.valid_bs.shape, dtype=torch.float64)
    for b, places in documents(inputs):
        y: float | None = None
        for s in places:
            if inputs.valid_bs[b, s]:
                x = float(inputs.gradient_norm_bs[b, s])
                y = x if y is None else beta * y + (1 - beta) * x
                out[b, s] = y
    return out


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_moving_average_along_the_document(smoothing: float, seed: int) -> None:
    inputs, scorer = make_inputs(seed), make_scorer(smoothing)
    assert scorer.needs == {"gradient_norm"}
    assert scorer.mode == "soft"
    scores = scorer(inputs)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), averages(inputs, smoothing), rtol=1e-6, atol=1e-7)


def test_without_smoothing_it_is_the_norm_itself() -> None:
    inputs = make_inputs()
    assert inputs.gradient_norm_bs is not None
    scores = make_scorer(0.0)(inputs)
    assert torch.equal(scores[inputs.valid_bs], inputs.gradient_norm_bs[inputs.valid_bs])


def test_what_stands_where_nothing_is_supervised_is_not_averaged() -> None:
    inputs = make_inputs()
    assert inputs.gradient_norm_bs is not None
    expected = make_scorer(0.5)(inputs)
    inputs.gradient_norm_bs[~inputs.valid_bs] = 1e9
    assert torch.equal(make_scorer(0.5)(inputs), expected)


def test_a_norm_that_is_not_finite_reaches_no_other_token() -> None:
    inputs = make_inputs(layout=[[6]], length=6)
    inputs.valid_bs[:] = torch.tensor([[True] * 5 + [False]])
    assert inputs.gradient_norm_bs is not None
    inputs.gradient_norm_bs[:] = torch.tensor([[math.nan, 1.0, math.inf, 3.0, math.nan, 7.0]])
    scores = make_scorer(0.5)(inputs)
    torch.testing.assert_close(scores, torch.tensor([[math.nan, 1, 1, 2, 2, 0]]), equal_nan=True)
