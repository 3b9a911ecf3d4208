import math
from itertools import pairwise

import torch
from scorer_inputs import documents, make_inputs

from wmtp.config import Recipe
from wmtp.weighting.scorers import create_scorer


def test_it_is_the_rise_of_the_value_at_every_target() -> None:
    inputs = make_inputs()
    scorer = create_scorer("critic-delta-v1", Recipe())
    assert scorer.needs == {"values"}
    assert scorer.mode == "soft"
    assert inputs.values_bs is not None
    expected = torch.zeros(inputs.valid_bs.shape)
    for b, places in documents(inputs):
        for before, after in pairwise(places):
            if inputs.batch.supervised[b, after]:
                expected[b, before] = float(inputs.values_bs[b, after]) - float(inputs.values_bs[b, before])
    assert (expected != 0).sum() == inputs.valid_bs.sum()
    torch.testing.assert_close(scorer(inputs), expected)


def test_a_value_that_is_not_finite_stays_so_for_the_two_tokens_it_is_about() -> None:
    inputs = make_inputs(layout=[[6]], length=6)
    assert inputs.values_bs is not None
    inputs.valid_bs[:] = torch.tensor([[True] * 5 + [False]])
    inputs.values_bs[0, 2] = math.nan
    scores = create_scorer("critic-delta-v1", Recipe())(inputs)
    assert scores[0].isnan().tolist() == [False, True, True, False, False, False]
