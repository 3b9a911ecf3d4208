import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scorer_inputs import make_inputs, step_info
from torch import Tensor

from wmtp.config import Recipe
from wmtp.weighting.scorers import create_scorer
from wmtp.weighting.scorers.base import ScoreInputs
from wmtp.weighting.scorers.learned import Learned

HIDDEN = 5
Floats = NDArray[np.float64]


def make_scorer(**changes: float) -> Learned:
    scorer = create_scorer("learned-v1", Recipe(), {"hidden": HIDDEN, **changes})
    assert isinstance(scorer, Learned)
    return scorer


def weights_by_loops(parameters: Floats, ce: Floats, entropy: Floats) -> Floats:
    """2 σ(W₂ tanh(W₁ x + b₁) + b₂), one token after the other, in float64."""
    w1 = parameters[: HIDDEN * 3].reshape(HIDDEN, 3)
    b1, w2 = parameters[HIDDEN * 3 : HIDDEN * 4], parameters[HIDDEN * 4 : HIDDEN * 5]
    out = []
    for c, e in zip(ce, entropy, strict=True):
        x = (math.log(1 + c), e, c - e)
        total = parameters[-1]
        for k in range(HIDDEN):
            total += w2[k] * math.tanh(sum(w1[k, i] * x[i] for i in range(3)) + b1[k])
        out.append(2 / (1 + math.exp(-total)))
    return np.array(out)


def known(inputs: ScoreInputs) -> tuple[Floats, Floats, Floats]:
    """Cross-entropy, entropy and alignment of the targets."""
    fields = (inputs.learner_ce_bs, inputs.entropy_bs, inputs.alignment_bs)
    return tuple(x[inputs.valid_bs].double().numpy() for x in fields if x is not None)


def scramble(scorer: Learned, seed: int = 0) -> None:
    """A network that is not the one that training starts with."""
    generator = torch.Generator().manual_seed(seed)
    parameters = scorer.memory["parameters"]
    parameters.copy_(torch.randn(parameters.shape, generator=generator))


def copy_of(scorer: Learned) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in scorer.state().items()}


def unchanged(scorer: Learned, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in scorer.state().items())


def test_it_hands_on_cross_entropy_entropy_and_alignment() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    assert scorer.needs == {"learner_ce", "entropy", "alignment"}
    assert scorer.mode == "proportional"
    raw = scorer(inputs)
    assert raw.shape == (*inputs.valid_bs.shape, 3)
    for k, field in enumerate((inputs.learner_ce_bs, inputs.entropy_bs, inputs.alignment_bs)):
        assert field is not None
        assert torch.equal(raw[inputs.valid_bs][:, k], field[inputs.valid_bs])


def test_every_weight_is_1_before_it_has_learnt() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    found = scorer.complete(scorer(inputs), step_info(inputs, is_training=False))
    assert found.dtype == torch.float32
    assert (found[inputs.valid_bs] == 1).all()
    assert found[~inputs.valid_bs].isnan().all()


def test_the_first_layer_is_drawn_from_the_seed() -> None:
    first, again = make_scorer(), make_scorer()
    other = create_scorer("learned-v1", Recipe(seed=1), {"hidden": HIDDEN})
    assert torch.equal(first.state()["parameters"], again.state()["parameters"])
    assert not torch.equal(first.state()["parameters"], other.state()["parameters"])


def test_weights_are_those_of_the_network() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    scramble(scorer)
    found = scorer.complete(scorer(inputs), step_info(inputs, is_training=False))
    ce, entropy, _ = known(inputs)
    expected = weights_by_loops(scorer.state()["parameters"].double().numpy(), ce, entropy)
    np.testing.assert_allclose(found[inputs.valid_bs].numpy(), expected, rtol=1e-5)
    assert found[inputs.valid_bs].std() > 0.05


def test_it_climbs_the_gradient_of_j(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against central differences of J = Σ w a / Σ w in float64."""
    inputs, scorer = make_inputs(), make_scorer()
    scramble(scorer)
    climbed: list[Tensor] = []
    monkeypatch.setattr(scorer, "_ascend", climbed.append)
    scorer.complete(scorer(inputs), step_info(inputs))
    ce, entropy, alignment = known(inputs)

    def j(parameters: Floats) -> float:
        weights = weights_by_loops(parameters, ce, entropy)
        return float((weights * alignment).sum() / weights.sum())

    parameters = scorer.state()["parameters"].double().numpy()
    expected = np.array(
        [(j(parameters + d) - j(parameters - d)) / 2e-5 for d in 1e-5 * np.eye(len(parameters))]
    )
    (gradient,) = climbed
    assert np.abs(expected).min() > 1e-6, "no entry should be trivial"
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_its_adam_is_that_of_torch() -> None:
    scorer = make_scorer(lr=0.03)
    generator = torch.Generator().manual_seed(0)
    theirs = torch.nn.Parameter(scorer.state()["parameters"].clone())
    start = theirs.detach().clone()
    optimizer = torch.optim.Adam([theirs], lr=0.03, betas=(0.9, 0.999), eps=1e-8, maximize=True)
    for step in range(6):
        gradient = torch.randn(theirs.shape, generator=generator).double() * 10.0 ** (-step)
        theirs.grad = gradient.clone()
        optimizer.step()
        scorer._ascend(gradient)
        moved = scorer.state()["parameters"] - start
        torch.testing.assert_close(moved, theirs.detach() - start, rtol=1e-9, atol=1e-12)


def test_tokens_that_help_the_clean_batch_come_to_weigh_more() -> None:
    """Here, those with low cross-entropy."""
    inputs, scorer = make_inputs(layout=[[14]] * 8), make_scorer()
    assert inputs.learner_ce_bs is not None
    assert inputs.alignment_bs is not None
    helps = inputs.valid_bs & (inputs.learner_ce_bs < 2)
    inputs.alignment_bs[:] = torch.where(helps, 1.0, -1.0)
    info = step_info(inputs)
    means = []
    for _ in range(60):
        found = scorer.complete(scorer(inputs), info)
        means.append((found[helps].mean().item(), found[inputs.valid_bs & ~helps].mean().item()))
    assert means[5][0] > 1 > means[5][1]
    ratios = [high / low for high, low in means]
    assert ratios[5] < ratios[20] < ratios[-1]
    assert ratios[-1] > 3, "only the ratio matters to J"


def test_the_weights_of_a_step_come_after_its_update() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    found = scorer.complete(scorer(inputs), step_info(inputs))
    again = scorer.complete(scorer(inputs), step_info(inputs, is_training=False))
    assert scorer.state()["updates"] == 1
    assert torch.equal(found[inputs.valid_bs], again[inputs.valid_bs])
    assert not (found[inputs.valid_bs] == 1).all()


def test_it_learns_only_from_training() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    scramble(scorer)
    before = copy_of(scorer)
    scorer.complete(scorer(inputs), step_info(inputs, is_training=False))
    assert unchanged(scorer, before)
    scorer.complete(scorer(inputs), step_info(inputs))
    assert not unchanged(scorer, before)


def nothing_known(raw: Tensor) -> None:
    raw[:] = math.nan


def too_large(raw: Tensor) -> None:
    raw[..., 2] = 1.7e308


@pytest.mark.parametrize("spoil", [nothing_known, too_large])
def test_a_gradient_that_is_not_finite_changes_nothing(spoil: Callable[[Tensor], None]) -> None:
    inputs, scorer = make_inputs(), make_scorer()
    scramble(scorer)
    before = copy_of(scorer)
    raw = scorer(inputs).double()
    spoil(raw)
    scorer.complete(raw, step_info(inputs))
    assert unchanged(scorer, before)


@pytest.mark.parametrize("field", range(3))
def test_a_token_of_which_something_is_not_finite_gets_no_weight_and_teaches_nothing(field: int) -> None:
    inputs, scorer, other = make_inputs(), make_scorer(), make_scorer()
    raw = scorer(inputs)
    place = tuple(inputs.valid_bs.nonzero()[0].tolist())
    raw[(*place, field)] = math.inf
    found = scorer.complete(raw, step_info(inputs))
    info = step_info(inputs)
    info.valid_bsh[place] = False
    expected = other.complete(raw, info)
    assert found[place].isnan()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert unchanged(scorer, copy_of(other))


def test_what_is_not_supervised_plays_no_part() -> None:
    inputs, scorer, other = make_inputs(), make_scorer(), make_scorer()
    raw = scorer(inputs)
    filled = raw.where(inputs.valid_bs[..., None], 2.5)
    expected = scorer.complete(raw, step_info(inputs))
    found = other.complete(filled, step_info(inputs))
    assert torch.equal(found[inputs.valid_bs], expected[inputs.valid_bs])
    assert unchanged(other, copy_of(scorer))


def test_its_state_is_restored_in_place_and_goes_on_the_same() -> None:
    steps = [make_inputs(seed) for seed in range(5)]
    going_on, resumed = make_scorer(), make_scorer()
    for inputs in steps[:3]:
        going_on.complete(going_on(inputs), step_info(inputs))
    saved = copy_of(going_on)
    for name, tensor in resumed.state().items():
        tensor.copy_(saved[name])
    for inputs in steps[3:]:
        expected = going_on.complete(going_on(inputs), step_info(inputs))
        found = resumed.complete(resumed(inputs), step_info(inputs))
        assert torch.equal(found[inputs.valid_bs], expected[inputs.valid_bs])
    assert unchanged(resumed, copy_of(going_on))
    assert not unchanged(resumed, saved)


def test_nothing_of_it_carries_a_gradient() -> None:
    inputs, scorer = make_inputs(), make_scorer()
    with torch.enable_grad():
        found = scorer.complete(scorer(inputs), step_info(inputs))
    assert not found.requires_grad
    assert not any(tensor.requires_grad for tensor in scorer.state().values())
