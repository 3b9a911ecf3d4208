from typing import Any

import pytest
import torch
from scorer_inputs import HEADS, make_inputs, step_info
from torch import Tensor

from refusals import refusal
from wmtp.config import Recipe, WeightConfig, override
from wmtp.weighting.scorers import create_scorer, scorer_of, with_settings
from wmtp.weighting.scorers.base import ScoreInputs, StepInfo
from wmtp.weighting.scorers.blend import Blend
from wmtp.weighting.weights import expand, normalise

PER_HEAD, SOMETIMES_NAN = "scorer_inputs:PerHead", "scorer_inputs:SometimesNaN"


def make_recipe(**coefficients: Any) -> Recipe:
    return override(Recipe(), {"scorer": {"name": "blend", "parts": coefficients}}, "test")


def make_blend(recipe: Recipe) -> Blend:
    scorer = scorer_of(recipe)
    assert isinstance(scorer, Blend)
    return scorer


def own_weights(name: str, recipe: Recipe, inputs: ScoreInputs, info: StepInfo) -> Tensor:
    """What a scorer would give alone."""
    scorer = create_scorer(name, recipe)
    scores = scorer.complete(scorer(inputs), info)
    if scores.ndim == 2:
        scores = expand(scores, HEADS, info.config.decay)
    config = info.config.model_copy(update={"mode": scorer.mode})
    return normalise(scores, info.valid_bsh, config)


def blended(recipe: Recipe, inputs: ScoreInputs, info: StepInfo) -> Tensor:
    scorer = make_blend(recipe)
    return scorer.complete(scorer(inputs), info)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)


def test_it_needs_what_its_parts_need() -> None:
    scorer = make_blend(make_recipe(**{"rho1-excess-v1": 1.0, "critic-gae-v1": 2.0, "uniform": 1.0}))
    assert scorer.needs == {"learner_ce", "reference_ce", "values", "rewards"}
    assert scorer.mode == "proportional"


def test_constant_coefficients_mix_the_weights() -> None:
    coefficients = {"rho1-excess-v1": 3.0, "entropy-v1": 1.0, "grpo-v1": 4.0}
    recipe, inputs = make_recipe(**coefficients), make_inputs()
    info = step_info(inputs, config=WeightConfig(temperature=0.7, epsilon=0.1, decay=0.2))
    expected = sum(
        (c / 8 * own_weights(name, recipe, inputs, info) for name, c in coefficients.items()),
        start=torch.zeros(info.valid_bsh.shape),
    )
    close(blended(recipe, inputs, info), expected)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (2, 0.75), (4, 0.5), (8, 0.0), (9, 0.0)])
def test_scheduled_coefficients_mix_by_the_step(step: int, share: float) -> None:
    fades = {"start": 2.0, "end": 0.0, "steps": 9}
    rises = {"start": 0.0, "end": 2.0, "steps": 9}
    recipe, inputs = make_recipe(**{"rho1-excess-v1": fades, "entropy-v1": rises}), make_inputs()
    info = step_info(inputs, step=step, steps=20)
    first, second = (own_weights(name, recipe, inputs, info) for name in recipe.scorer.settings["parts"])
    close(blended(recipe, inputs, info), share * first + (1 - share) * second)


def test_the_mean_stays_1_and_normalising_changes_nothing() -> None:
    recipe = make_recipe(**{"rho1-excess-v1": 0.3, "entropy-v1": 0.9, "uniform": 0.1, PER_HEAD: 0.2})
    inputs = make_inputs()
    info = step_info(inputs, config=WeightConfig(temperature=0.3))
    mixed = blended(recipe, inputs, info)
    assert mixed[info.valid_bsh].double().mean().item() == pytest.approx(1, abs=1e-7)
    assert (mixed[~info.valid_bsh] == 0).all()
    config = info.config.model_copy(update={"mode": "proportional"})
    close(normalise(mixed, info.valid_bsh, config), mixed)


def test_parts_may_score_tokens_or_heads() -> None:
    coefficients = {"entropy-v1": 1.0, PER_HEAD: 2.0, "learned-v1": 1.0}
    recipe, inputs = make_recipe(**coefficients), make_inputs()
    info = step_info(inputs, is_training=False)
    expected = sum(
        (c / 4 * own_weights(name, recipe, inputs, info) for name, c in coefficients.items()),
        start=torch.zeros(info.valid_bsh.shape),
    )
    close(blended(recipe, inputs, info), expected)
    assert not torch.equal(expected[:, :-1, 1], expected[:, 1:, 0])


@pytest.mark.parametrize(
    "name",
    ["rho1-excess-v1", "entropy-v1", "grad-norm-v1", "grpo-v1", "critic-gae-v1", "learned-v1", PER_HEAD],
)
@pytest.mark.parametrize("is_training", [False, True])
def test_of_one_scorer_it_has_that_scorers_weights(name: str, is_training: bool) -> None:
    recipe, inputs = make_recipe(**{name: 0.4}), make_inputs()
    info = step_info(inputs, is_training=is_training)
    expected = own_weights(name, recipe, inputs, info)
    mixed = blended(recipe, inputs, info)
    close(mixed, expected)
    config = info.config.model_copy(update={"mode": "proportional"})
    close(normalise(mixed, info.valid_bsh, config), expected)


def test_lambda_and_mode_of_the_run_act_on_the_mixture_alone() -> None:
    recipe, inputs = make_recipe(**{"entropy-v1": 1.0}), make_inputs()
    plain = blended(recipe, inputs, step_info(inputs))
    info = step_info(inputs, config=WeightConfig(**{"lambda": 0.2, "mode": "skip"}))
    assert torch.equal(blended(recipe, inputs, info), plain)


def test_a_score_of_a_part_that_is_not_finite_is_not_hidden() -> None:
    """It gives weight 1, and counts as not finite; the rest keeps the part's weights."""
    recipe, inputs = make_recipe(**{"entropy-v1": 1.0, SOMETIMES_NAN: 1.0}), make_inputs()
    info = step_info(inputs)
    nan = info.valid_bsh & expand(inputs.batch.ids.float(), HEADS, 0.0).remainder(2).eq(0)
    mixed = blended(recipe, inputs, info)
    assert nan.any()
    assert mixed[nan].isnan().all()
    rest = info.valid_bsh & ~nan
    expected = sum(0.5 * own_weights(name, recipe, inputs, info) for name in recipe.scorer.settings["parts"])
    assert isinstance(expected, Tensor)
    close(mixed[rest], expected[rest])
    config = info.config.model_copy(update={"mode": "proportional"})
    assert (normalise(mixed, info.valid_bsh, config)[nan] == 1).all()


def test_a_part_with_coefficient_0_plays_no_part() -> None:
    inputs = make_inputs()
    info = step_info(inputs)
    alone = blended(make_recipe(**{"entropy-v1": 1.0}), inputs, info)
    close(blended(make_recipe(**{"entropy-v1": 1.0, SOMETIMES_NAN: 0.0}), inputs, info), alone)


def test_state_is_that_of_the_parts_by_name_and_restored_in_place() -> None:
    recipe = make_recipe(**{"learned-v1": 1.0, "critic-gae-v1": 1.0, "uniform": 1.0})
    going_on, resumed = make_blend(recipe), make_blend(recipe)
    assert going_on.state().keys() == {
        "critic-gae-v1.moments",
        *(f"learned-v1.{name}" for name in ("parameters", "first_moment", "second_moment", "updates")),
    }
    steps = [make_inputs(seed) for seed in range(4)]
    for inputs in steps[:3]:
        going_on.complete(going_on(inputs), step_info(inputs))
    for name, tensor in resumed.state().items():
        tensor.copy_(going_on.state()[name])
    last = steps[3]
    expected = going_on.complete(going_on(last), step_info(last))
    assert torch.equal(resumed.complete(resumed(last), step_info(last)), expected)
    for name, tensor in resumed.state().items():
        assert torch.equal(tensor, going_on.state()[name]), name


def test_micro_batches_are_completed_together() -> None:
    recipe = make_recipe(**{"rho1-excess-v1": 1.0, PER_HEAD: 1.0, "critic-gae-v1": 1.0})
    inputs = make_inputs()
    whole = blended(recipe, inputs, step_info(inputs))
    scorer, parts = make_blend(recipe), []
    for rows in (slice(0, 1), slice(1, 4)):
        fields = {k: v[rows] for k, v in vars(inputs).items() if k != "batch"}
        batch = type(inputs.batch)(**{k: v[rows] for k, v in vars(inputs.batch).items() if k != "columns"})
        parts.append(scorer(ScoreInputs(batch, **fields)))
    close(scorer.complete(torch.cat(parts), step_info(inputs)), whole)


@pytest.mark.parametrize(
    ("blend", "line"),
    [
        ({}, "recipe: scorer.parts: name scorers with their coefficients, at least one of them above 0"),
        (
            {"uniform": 0.0},
            "recipe: scorer.parts: name scorers with their coefficients, at least one of them above 0",
        ),
        ({"blend": 1.0}, "recipe: scorer.parts: cannot hold itself"),
        ({"uniform": {"start": 1.0, "end": -1.0}}, "recipe: scorer.parts: a coefficient goes below 0"),
    ],
)
def test_a_mixture_of_nothing_is_refused(blend: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match="^" + line.replace(".", r"\.") + "$"):
        make_blend(make_recipe(**blend))


def test_settings_of_parts_that_are_wrong_are_no_second_mistake() -> None:
    given = {"parts": {"blend": 1.0}, "settings": {"entropy-v1": {}}}
    recipe = override(Recipe(), {"scorer": {"name": "blend", **given}}, "test")
    assert refusal(lambda: with_settings(recipe, "r.yaml")) == "r.yaml: scorer.parts: cannot hold itself"


def test_it_holds_nothing_between_calls_but_what_its_parts_remember() -> None:
    """One that answers in another shape, or another blend, may score between the micro-batches of a step."""
    recipe = make_recipe(**{"entropy-v1": 1.0, PER_HEAD: 1.0})
    inputs = make_inputs()
    scorer = make_blend(recipe)
    before = dict(vars(scorer))
    scores = scorer(inputs)
    assert vars(scorer) == before
    close(make_blend(recipe).complete(scores, step_info(inputs)), blended(recipe, inputs, step_info(inputs)))


def test_parts_have_settings_of_their_own() -> None:
    given = {"parts": {"entropy-v1": 1.0, "grpo-v1": 1.0}, "settings": {"entropy-v1": {"prefer": "low"}}}
    recipe, inputs = override(Recipe(), {"scorer": {"name": "blend", **given}}, "test"), make_inputs()
    complete = with_settings(recipe, "test").scorer.settings
    assert complete["settings"] == {"entropy-v1": {"prefer": "low"}, "grpo-v1": {"clip": 2.0}}
    entropy = make_blend(recipe).parts["entropy-v1"]
    assert torch.equal(entropy(inputs)[inputs.valid_bs], -inputs.entropy_bs[inputs.valid_bs])
    for settings, line in (
        (
            {"entropy-v1": {"prefer": "lo"}},
            "scorer.settings: entropy-v1: prefer: input should be 'high' or 'low', not",
        ),
        ({"grpo-v1": {"clp": 1}}, "scorer.settings: grpo-v1: unknown key 'clp'; did you mean 'clip'?"),
        ({"uniform": {}}, "scorer.settings: 'uniform' is none of the parts"),
    ):
        wrong = override(recipe, {"scorer.settings": settings}, "test")
        assert refusal(lambda wrong=wrong: with_settings(wrong, "r.yaml")).startswith(f"r.yaml: {line}")
