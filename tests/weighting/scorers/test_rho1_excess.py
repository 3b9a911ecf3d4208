import math

import pytest
import torch
from scorer_inputs import make_inputs

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.weighting.scorers import create_scorer
from wmtp.weighting.scorers.base import ScoreInputs
from wmtp.weighting.scorers.rho1_excess import RELATIVE_FLOOR

NAN = math.nan
LEARNER = torch.tensor([[2.0, 0.5, 3.0, NAN], [1.0, 4.0, 0.25, NAN]])
REFERENCE = torch.tensor([[0.5, 2.0, 3.0, NAN], [0.0, 0.05, NAN, NAN]])
VALID = torch.tensor([[True, True, True, False], [True, True, True, False]])


def score(
    excess: str,
    learner: torch.Tensor = LEARNER,
    reference: torch.Tensor = REFERENCE,
    valid: torch.Tensor = VALID,
) -> torch.Tensor:
    scorer = create_scorer("rho1-excess-v1", Recipe(), {"excess": excess})
    batch = make_inputs().batch
    return scorer(ScoreInputs(batch, valid, learner_ce_bs=learner, reference_ce_bs=reference))


def check(scores: torch.Tensor, expected: list[list[float]]) -> None:
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores, torch.tensor(expected), equal_nan=True)


def test_signed_excess_is_high_where_the_learner_is_worse() -> None:
    check(score("signed"), [[1.5, -1.5, 0, 0], [1, 3.95, NAN, 0]])


def test_absolute_excess_forgets_who_is_worse() -> None:
    check(score("absolute"), [[1.5, 1.5, 0, 0], [1, 3.95, NAN, 0]])


def test_relative_excess_divides_by_the_reference_but_never_by_less_than_the_floor() -> None:
    check(
        score("relative"),
        [[1.5 / 0.5, -1.5 / 2.0, 0, 0], [1 / RELATIVE_FLOOR, 3.95 / RELATIVE_FLOOR, NAN, 0]],
    )


def test_scores_carry_no_gradient() -> None:
    learner = torch.ones(1, 2, requires_grad=True)
    assert not score("signed", learner, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)).requires_grad


def test_half_precision_reference_scores_are_read() -> None:
    reference = torch.tensor([[0.5, 8.0]], dtype=torch.float16)
    valid = torch.ones(1, 2, dtype=torch.bool)
    check(score("signed", torch.tensor([[1.0, 1.0]]), reference, valid), [[0.5, -7.0]])


def test_it_asks_for_both_models_and_its_default_is_signed() -> None:
    scorer, inputs = create_scorer("rho1-excess-v1", Recipe()), make_inputs()
    assert scorer.needs == {"learner_ce", "reference_ce"}
    assert scorer.mode == "soft"
    assert inputs.learner_ce_bs is not None
    assert inputs.reference_ce_bs is not None
    expected = (inputs.learner_ce_bs - inputs.reference_ce_bs).where(inputs.valid_bs, 0.0)
    torch.testing.assert_close(scorer(inputs), expected, rtol=0, atol=0)


def test_an_unknown_excess_is_refused() -> None:
    with pytest.raises(WMTPError, match=r"^recipe: scorer\.excess: .*'absolute' or 'relative', not 'sqared'"):
        score("sqared")
