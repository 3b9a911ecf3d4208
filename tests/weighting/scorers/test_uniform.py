import torch
from scorer_inputs import make_inputs

from wmtp.config import Recipe
from wmtp.weighting.scorers import create_scorer


def test_it_asks_for_nothing_and_scores_zero() -> None:
    scorer, inputs = create_scorer("uniform", Recipe()), make_inputs()
    assert scorer.needs == frozenset()
    assert scorer.mode == "soft"
    scores = scorer(inputs)
    assert scores.dtype == torch.float32
    assert scores.shape == inputs.valid_bs.shape
    assert (scores == 0).all()
