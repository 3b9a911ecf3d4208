"""What scorers may ask for is a table: where each comes from, and how a new one is added."""

import pytest
import torch
from small_step import Small, make_small, run_step

from wmtp.weighting.needs import NEEDS, Provider, sources_of
from wmtp.weighting.scorers.base import ScoreInputs, Scorer


class Confident(Scorer):
    """Tokens that the learner gives a high probability."""

    needs = frozenset({"probability"})

    def __call__(self, inputs: ScoreInputs) -> torch.Tensor:
        return inputs.probability_bs


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("cache"))


def test_a_new_need_is_one_entry(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    probability = Provider(frozenset({"ce"}), lambda sources: sources.learner("ce").neg().exp())
    monkeypatch.setitem(NEEDS, "probability", probability)
    batch = small.batch([[0, 1], [3, 4, 5]])
    for batches in ([batch], [small.batch([[0, 1]]), small.batch([[3, 4, 5]])]):
        outputs = run_step(small.module(f"{__name__}:Confident"), batches)
        for output in outputs:
            valid = output.valid_bsh[..., 0]
            expected = output.ce_bsh[..., 0][valid].neg().exp().float()
            torch.testing.assert_close(output.scores_bsh[..., 0][valid], expected)


def test_only_what_is_needed_is_known() -> None:
    shape = torch.ones(1, 2, dtype=torch.bool)
    inputs = ScoreInputs(None, shape, entropy_bs=torch.zeros(1, 2))  # type: ignore[arg-type]
    assert inputs.entropy_bs.shape == shape.shape
    with pytest.raises(AttributeError, match="values_bs is not known; add 'values' to the scorer's needs"):
        _ = inputs.values_bs
    assert sources_of({"learner_ce", "values"}) == {"ce", "values"}
