import math

import pytest
import torch
from scorer_inputs import documents, make_inputs

from wmtp.config import Recipe
from wmtp.weighting.scorers import create_scorer
from wmtp.weighting.scorers.base import Scorer


def make_scorer(clip: float) -> Scorer:
    return create_scorer("grpo-v1", Recipe(), {"clip": clip})


@pytest.mark.parametrize("clip", [0.5, 2.0, 1e6])
def test_it_maps_the_clipped_advantage_to_between_0_and_2(clip: float) -> None:
    inputs, scorer = make_inputs(), make_scorer(clip)
    assert scorer.needs == {"advantages"}
    assert scorer.mode == "proportional"
    assert inputs.advantages_bs is not None
    expected = torch.zeros(inputs.valid_bs.shape, dtype=torch.float64)
    for b, places in documents(inputs):
        advantage = float(inputs.advantages_bs[b, places[0]])
        for s in places:
            if inputs.valid_bs[b, s]:
                expected[b, s] = 1 + max(-clip, min(clip, advantage)) / clip
    scores = scorer(inputs)
    assert scores.dtype == torch.float32
    assert scores.min() >= 0
    assert scores.max() <= 2
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-7)
    if clip == 0.5:
        known = scores[inputs.valid_bs]
        assert (known == 0).any(), "no advantage was clipped from below"
        assert (known == 2).any(), "no advantage was clipped from above"


def test_the_average_completion_gets_1_and_an_unknown_one_stays_unknown() -> None:
    inputs = make_inputs()
    assert inputs.advantages_bs is not None
    inputs.advantages_bs[inputs.batch.document_ids == 1] = 0.0
    inputs.advantages_bs[inputs.batch.document_ids == 2] = math.nan
    scores = make_scorer(2.0)(inputs)
    first, second = (inputs.valid_bs & (inputs.batch.document_ids == n) for n in (1, 2))
    assert first.any()
    assert second.any()
    assert (scores[first] == 1).all()
    assert scores[second].isnan().all()
