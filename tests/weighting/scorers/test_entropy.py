import math

import pytest
import torch
from scorer_inputs import make_inputs

from wmtp.config import Recipe
from wmtp.weighting.scorers import create_scorer


@pytest.mark.parametrize(("prefer", "sign"), [("high", 1), ("low", -1)])
def test_it_is_the_entropy_with_either_sign(prefer: str, sign: int) -> None:
    scorer = create_scorer("entropy-v1", Recipe(), {"prefer": prefer})
    assert scorer.needs == {"entropy"}
    assert scorer.mode == "soft"
    inputs = make_inputs()
    assert inputs.entropy_bs is not None
    scores = scorer(inputs)
    for (b, s), is_valid in zip(
        torch.cartesian_prod(*map(torch.arange, scores.shape)).tolist(),
        inputs.valid_bs.flatten().tolist(),
        strict=True,
    ):
        assert float(scores[b, s]) == (sign * float(inputs.entropy_bs[b, s]) if is_valid else 0)


def test_uncertain_tokens_come_first_unless_asked_otherwise() -> None:
    inputs = make_inputs()
    assert inputs.entropy_bs is not None
    known = inputs.entropy_bs[inputs.valid_bs]
    scores = create_scorer("entropy-v1", Recipe())(inputs)[inputs.valid_bs]
    assert scores.argmax() == known.argmax()
    assert scores.argmin() == known.argmin()


def test_an_entropy_that_is_not_finite_stays_so() -> None:
    inputs = make_inputs()
    assert inputs.entropy_bs is not None
    place = tuple(inputs.valid_bs.nonzero()[0].tolist())
    inputs.entropy_bs[place] = math.inf
    assert not create_scorer("entropy-v1", Recipe())(inputs)[place].isfinite()
