import math
import subprocess
import sys

import pytest
import torch

from wmtp.config import Recipe, Rho1Config
from wmtp.errors import WMTPError
from wmtp.weighting.scorers import SCORERS
from wmtp.weighting.scorers.base import ScoreInputs
from wmtp.weighting.scorers.rho1_excess import RELATIVE_FLOOR, Rho1Excess

NAN = math.nan
LEARNER = torch.tensor([[2.0, 0.5, 3.0, NAN], [1.0, 4.0, 0.25, NAN]])
REFERENCE = torch.tensor([[0.5, 2.0, 3.0, NAN], [0.0, 0.05, NAN, NAN]])
VALID = torch.tensor([[True, True, True, False], [True, True, True, False]])


def score(excess: str) -> torch.Tensor:
    scorer = SCORERS.create("rho1-excess-v1", Recipe(rho1=Rho1Config(excess=excess)))
    return scorer(ScoreInputs(LEARNER, REFERENCE, VALID))


def check(scores: torch.Tensor, expected: list[list[float]]) -> None:
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores, torch.tensor(expected), equal_nan=True)


def test_signed_excess_is_high_where_the_learner_is_worse():
    check(score("signed"), [[1.5, -1.5, 0, 0], [1, 3.95, NAN, 0]])


def test_absolute_excess_forgets_who_is_worse():
    check(score("absolute"), [[1.5, 1.5, 0, 0], [1, 3.95, NAN, 0]])


def test_relative_excess_divides_by_the_reference_but_never_by_less_than_the_floor():
    check(
        score("relative"),
        [[1.5 / 0.5, -1.5 / 2.0, 0, 0], [1 / RELATIVE_FLOOR, 3.95 / RELATIVE_FLOOR, NAN, 0]],
    )


def test_scores_carry_no_gradient():
    learner = torch.ones(1, 2, requires_grad=True)
    scores = Rho1Excess()(ScoreInputs(learner, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)))
    assert not scores.requires_grad


def test_half_precision_reference_scores_are_read():
    valid = torch.ones(1, 2, dtype=torch.bool)
    reference = torch.tensor([[0.5, 8.0]], dtype=torch.float16)
    check(Rho1Excess()(ScoreInputs(torch.tensor([[1.0, 1.0]]), reference, valid)), [[0.5, -7.0]])


def test_rho1_asks_for_both_models_and_its_default_is_signed():
    scorer = SCORERS.create("rho1-excess-v1", Recipe())
    assert scorer == Rho1Excess("signed")
    assert scorer.needs_learner
    assert scorer.needs_reference


def test_an_unknown_excess_is_refused():
    with pytest.raises(WMTPError, match=r"rho1\.excess 'sqared' should be one of signed, absolute, relative"):
        Rho1Excess("sqared")


def test_uniform_asks_for_nothing_and_scores_zero():
    scorer = SCORERS.create("uniform", Recipe())
    assert not scorer.needs_learner
    assert not scorer.needs_reference
    check(scorer(ScoreInputs(None, None, VALID)), [[0.0] * 4] * 2)


def test_an_unknown_scorer_is_named_with_the_nearest():
    with pytest.raises(WMTPError, match=r"unknown scorer 'rho1-exces-v1'; did you mean 'rho1-excess-v1'\?"):
        SCORERS.create("rho1-exces-v1", Recipe())


def test_listing_the_scorers_does_not_import_torch():
    code = """
import sys
from wmtp.weighting.scorers import SCORERS
list(SCORERS.names())
print('torch' in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"
