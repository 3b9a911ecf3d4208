"""What changes over a run, and the controller of the effective share."""

import math
import re
from typing import Any

import pytest
import torch
from small_step import Small, copied, make_small, run_step

from wmtp.config import Recipe, Schedule, override
from wmtp.errors import WMTPError
from wmtp.weighting.schedule import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, WeightSchedule, value_at
from wmtp.weighting.weights import normalise, weight_statistics


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("cache"))


def make_schedule(steps: int = 20, **changes: Any) -> WeightSchedule:
    recipe = override(Recipe(), {f"loss.{key}": value for key, value in changes.items()}, "test")
    return WeightSchedule(recipe.loss, recipe.loss, steps)


def test_a_number_stays_what_it_is() -> None:
    assert [value_at(0.3, step, 7) for step in (0, 3, 6, 100)] == [0.3] * 4


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (3.0, 0.5), (0.7, 0.7)])
@pytest.mark.parametrize("steps", [2, 3, 11])
def test_linear(start: float, end: float, steps: int) -> None:
    schedule = Schedule(start=start, end=end)
    for step in range(steps):
        assert value_at(schedule, step, steps) == pytest.approx(start + (end - start) * step / (steps - 1))
    assert value_at(schedule, 0, steps) == start
    assert value_at(schedule, steps - 1, steps) == pytest.approx(end, abs=1e-15)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (3.0, 0.5)])
@pytest.mark.parametrize("steps", [2, 3, 11])
def test_cosine(start: float, end: float, steps: int) -> None:
    """end + (start - end) (1 + cos π t) / 2, as in cosine annealing."""
    schedule = Schedule(start=start, end=end, kind="cosine")
    for step in range(steps):
        expected = end + (start - end) * (1 + math.cos(math.pi * step / (steps - 1))) / 2
        assert value_at(schedule, step, steps) == pytest.approx(expected, abs=1e-12)
    middle = value_at(schedule, 5, 11)
    assert middle == pytest.approx((start + end) / 2)
    assert value_at(schedule, 0, steps) == start
    assert abs(value_at(schedule, 1, 11) - start) < 0.03 * abs(end - start), "it leaves slowly"


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_steps_of_its_own_are_counted_from_the_start_and_then_it_stays(kind: str) -> None:
    schedule = Schedule(start=1.0, end=0.0, kind=kind, steps=5)
    alone = Schedule(start=1.0, end=0.0, kind=kind)
    assert [value_at(schedule, s, 100) for s in range(5)] == [value_at(alone, s, 5) for s in range(5)]
    assert [value_at(schedule, s, 100) for s in (4, 5, 50, 99)] == pytest.approx([0.0] * 4, abs=1e-15)
    longer = Schedule(start=1.0, end=0.0, kind=kind, steps=200)
    assert value_at(longer, 99, 100) > 0.4, "a run may end before its schedule"


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_run_of_one_step_has_the_value_of_the_end(kind: str) -> None:
    assert value_at(Schedule(start=0.2, end=0.9, kind=kind), 0, 1) == pytest.approx(0.9)
    assert value_at(Schedule(start=0.2, end=0.9, kind=kind, steps=1), 0, 50) == pytest.approx(0.9)


def test_lambda_stays_between_0_and_1_whatever_is_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    for start, end in torch.rand(200, 2, generator=generator, dtype=torch.float64).round(decimals=3).tolist():
        for low, high in ((start, 1.0), (1.0, end), (0.0, end), (start, 0.0)):
            values = [value_at(Schedule(start=low, end=high, kind="cosine"), s, 7) for s in range(7)]
            assert min(values) >= 0
            assert max(values) <= 1


def test_without_a_schedule_the_configuration_is_the_recipes() -> None:
    schedule = make_schedule(temperature=0.4, **{"lambda": 0.3})
    for step in (0, 5, 19):
        assert (schedule.at(step).lambda_, schedule.at(step).temperature) == (0.3, 0.4)
    assert not schedule.is_controlled
    assert schedule.state() == {}


def test_what_is_scheduled_changes_and_the_rest_stays() -> None:
    schedule = make_schedule(
        11,
        schedule={"lambda": {"start": 0.0, "end": 0.5}, "temperature": {"start": 3.0, "end": 1.0}},
        epsilon=0.2,
    )
    for step in range(11):
        config = schedule.at(step)
        assert config.lambda_ == pytest.approx(0.05 * step)
        assert config.temperature == pytest.approx(3 - 0.2 * step)
        assert (config.epsilon, config.max_weight) == (0.2, 3.0)
    assert schedule.state() == {}


def controlled(schedule: WeightSchedule, steps: range) -> list[float]:
    """Effective shares on fresh normal scores at every step."""
    shares = []
    for step in steps:
        scores = torch.randn(2000, generator=torch.Generator().manual_seed(step))
        valid = torch.ones(2000, dtype=torch.bool)
        weights = normalise(scores, valid, schedule.at(step))
        shares.append(float(weight_statistics(weights, valid)["effective"]))
        schedule.observe(shares[-1])
    return shares


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0, 20.0, 50.0])
@pytest.mark.parametrize("target", [0.4, 0.5, 0.7, 0.9, 0.97])
def test_the_controller_brings_the_share_to_its_target(target: float, temperature: float) -> None:
    schedule = make_schedule(temperature=temperature, schedule={"effective_share": target})
    assert schedule.is_controlled
    assert schedule.at(0).temperature == temperature
    shares = controlled(schedule, range(60))
    if temperature != 1.0:
        assert (shares[0] < target) == (temperature < 1), "it should come from both sides"
    assert shares[50:] == pytest.approx([target] * 10, rel=0.05)
    assert sum(shares[50:]) / 10 == pytest.approx(target, rel=0.03)


def test_what_cannot_be_reached_ends_at_the_limits() -> None:
    """ε = 0.05 and W_max = 3 leave no less than a third; equal scores give everything."""
    schedule = make_schedule(schedule={"effective_share": 0.1})
    shares = controlled(schedule, range(100))
    assert shares[-1] > 0.3
    assert schedule.at(0).temperature == LOWEST_TEMPERATURE
    for _ in range(400):
        schedule.observe(0.05)
    assert schedule.at(0).temperature == HIGHEST_TEMPERATURE


def test_an_odd_step_moves_it_a_little() -> None:
    schedule = make_schedule(schedule={"effective_share": 0.6})
    schedule.observe(0.0)
    assert schedule.at(1).temperature == 1.0, "a step without a weight"
    for share in (1.0, 1.0000001, 1e-6):
        before = schedule.at(1).temperature
        schedule.observe(share)
        assert 0.7 < schedule.at(1).temperature / before < 1.4


def test_a_controller_goes_on_from_its_restored_state() -> None:
    options = {"temperature": 5.0, "schedule": {"effective_share": 0.6}}
    going_on, resumed = make_schedule(**options), make_schedule(**options)
    controlled(going_on, range(8))
    for name, tensor in resumed.state().items():
        tensor.copy_(going_on.state()[name])
    assert resumed.at(8).temperature == going_on.at(8).temperature != 5.0
    assert controlled(resumed, range(8, 20)) == controlled(going_on, range(8, 20))


def test_lambda_from_0_starts_with_exactly_equal_weights(small: Small) -> None:
    changes = {"loss.schedule": {"lambda": {"start": 0.0, "end": 1.0}}}
    module, constant = small.module("entropy-v1", **changes), small.module("entropy-v1")
    batch = small.batch([[0, 1], [2, 3]])
    for step, is_uniform in enumerate((True, False, False)):
        (output,) = run_step(module, [batch], step)
        assert torch.equal(output.weights_bsh, output.valid_bsh.float()) == is_uniform
    (full,) = run_step(constant, [batch], 2)
    assert torch.equal(output.weights_bsh, full.weights_bsh)


def test_a_module_controls_its_share_while_it_trains_only(small: Small) -> None:
    changes = {"loss.schedule": {"effective_share": 0.6}, "loss.temperature": 9.0}
    module = small.module("rho1-excess-v1", **changes)
    batch = small.batch([[0, 1, 2], [3, 4], [5, 6], [7, 8]])
    module.eval()
    (output,) = run_step(module, [batch])
    assert module.statistics([output])["weight_effective"] > 0.8
    before = copied(module.state())
    assert [float(tensor) for tensor in before.values()] == [9.0]
    module.train()
    for step in range(20):
        (output,) = run_step(module, [batch], step)
    assert module.statistics([output])["weight_effective"] == pytest.approx(0.6, rel=0.01)
    micro_batches = [small.batch([row]) for row in ([0, 1, 2], [3, 4], [5, 6], [7, 8])]
    split = small.module("rho1-excess-v1", **changes)
    for step in range(20):
        outputs = run_step(split, micro_batches, step)
    assert split.statistics(outputs)["weight_effective"] == pytest.approx(0.6, rel=0.01)
    torch.testing.assert_close(list(split.state().values()), list(module.state().values()), rtol=1e-4, atol=0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lambda above 1": (
        {"loss.schedule": {"lambda": {"start": 0.0, "end": 1.5}}},
        "loss.schedule: lambda goes to 1.5; it should stay in [0, 1]",
    ),
    "lambda below 0": (
        {"loss.schedule": {"lambda": {"start": -0.1, "end": 1.0}}},
        "loss.schedule: lambda goes to -0.1; it should stay in [0, 1]",
    ),
    "temperature 0": (
        {"loss.schedule": {"temperature": {"start": 1.0, "end": 0.0}}},
        "loss.schedule: temperature goes to 0.0; it should stay above 0",
    ),
    "both": (
        {"loss.schedule": {"temperature": {"start": 1.0, "end": 0.5}, "effective_share": 0.5}},
        "loss.schedule: temperature and effective_share both set the temperature; name one of them",
    ),
    "share of 1": (
        {"loss.schedule": {"effective_share": 1.0}},
        "loss.schedule.effective_share: input should be less than 1, not 1.0",
    ),
    "no temperature": (
        {"loss.mode": "skip", "loss.schedule": {"effective_share": 0.5}},
        "loss: schedule: mode skip has no temperature; it goes with soft",
    ),
    "no temperature to schedule": (
        {"loss.mode": "proportional", "loss.schedule": {"temperature": {"start": 2.0, "end": 1.0}}},
        "loss: schedule: mode proportional has no temperature; it goes with soft",
    ),
    "no steps": (
        {"loss.schedule": {"lambda": {"start": 0.0, "end": 1.0, "steps": 0}}},
        "loss.schedule.lambda.steps: input should be greater than or equal to 1, not 0",
    ),
    "no end": ({"loss.schedule": {"lambda": {"start": 0.0}}}, "loss.schedule.lambda.end: field required"),
    "not finite": (
        {"loss.schedule": {"lambda": {"start": 0.0, "end": math.nan}}},
        "loss.schedule.lambda.end: input should be a finite number",
    ),
    "unknown kind": (
        {"loss.schedule": {"lambda": {"start": 0.0, "end": 1.0, "kind": "cubic"}}},
        "loss.schedule.lambda.kind: input should be 'linear' or 'cosine', not 'cubic'",
    ),
    "misspelt": (
        {"loss.schedule": {"lamda": {"start": 0.0, "end": 1.0}}},
        "unknown key 'loss.schedule.lamda'; did you mean 'lambda'?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_one_line(name: str) -> None:
    changes, line = BAD[name]
    with pytest.raises(WMTPError, match="^recipe.yaml: " + re.escape(line)) as caught:
        override(Recipe(), changes, "recipe.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", [{"effective_share": 0.5}, {"temperature": {"start": 2.0, "end": 1.0}}])
@pytest.mark.parametrize("scorer", ["grpo-v1", "critic-gae-v1", "learned-v1"])
def test_a_scorer_without_temperature_cannot_have_it_scheduled(
    scorer: str, schedule: dict[str, Any], small: Small
) -> None:
    line = f"loss.schedule: scorer '{scorer}' has mode proportional, which has no temperature; set loss.mode"
    with pytest.raises(WMTPError, match=re.escape(line)):
        small.module(scorer, **{"loss.schedule": schedule})
    small.module(scorer, **{"loss.schedule": schedule, "loss.mode": "soft"})
    small.module("blend", **{"loss.schedule": schedule})
