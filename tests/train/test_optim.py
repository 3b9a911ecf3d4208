"""Learning rates against transformers' schedules and by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from refusals import refusal
from wmtp.config import Config, Recipe, TrainConfig, override
from wmtp.errors import WMTPError
from wmtp.experiment.compare import choose_arms
from wmtp.train.optim import check_schedule, learning_rate
from wmtp.train.run import plan, train

STEPS = 20


def rates(**settings: Any) -> list[float]:
    train = TrainConfig(**{"lr": 1.0, "steps": STEPS, "warmup_steps": 4, "min_lr_ratio": 0.0} | settings)
    return [learning_rate(step, train) for step in range(train.steps)]


def transformers_rates(name: str, warmup: int, steps: int, **specific: Any) -> list[float]:
    """Their learning rates at steps 0, 1, …; theirs starts its warm-up at 0, ours at 1/w."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=specific)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"), [("cosine", "cosine"), ("linear", "linear"), ("constant", "constant_with_warmup")]
)
def test_schedules_are_those_of_transformers(ours: str, theirs: str) -> None:
    found, expected = rates(schedule=ours), transformers_rates(theirs, 4, STEPS - 1)
    assert found[:4] == pytest.approx(expected[1:5])
    assert found[4:] == pytest.approx(expected[4:STEPS])


def test_wsd_is_that_of_transformers() -> None:
    found = rates(schedule="wsd", decay_share=0.25, min_lr_ratio=0.1)
    specific = {"num_decay_steps": 5, "decay_type": "linear", "min_lr_ratio": 0.1}
    expected = transformers_rates("warmup_stable_decay", 4, STEPS, **specific)[1:]
    assert found[4:] == pytest.approx(expected[4:])  # theirs warms up from the floor, ours from 0
    assert found[4:15] == [1.0] * 11
    assert found[15:] == pytest.approx([0.82, 0.64, 0.46, 0.28, 0.1])


def test_cosine_by_hand() -> None:
    found = rates(steps=11, min_lr_ratio=0.1)
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[7] == pytest.approx(0.55)
    assert found[10] == pytest.approx(0.1)


@given(
    st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    st.integers(1, 60),
    st.integers(0, 60),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_rates_rise_to_the_peak_and_fall_to_the_floor(
    schedule: str, steps: int, warmup: int, decay: float, floor: float
) -> None:
    settings = TrainConfig(
        schedule=schedule, steps=steps, warmup_steps=warmup, decay_share=decay, min_lr_ratio=floor, lr=1.0
    )
    try:
        check_schedule(settings)
    except WMTPError:
        assert warmup > steps or (schedule == "wsd" and warmup + max(1, round(decay * steps)) > steps)
        return
    found = [learning_rate(step, settings) for step in range(steps)]
    assert found[:warmup] == sorted(found[:warmup])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert all(0 <= rate <= 1 for rate in found)
    if warmup or schedule == "constant":
        assert max(found) == 1
    if steps > warmup + 1 and schedule != "constant":
        assert found[-1] == pytest.approx(floor)


def test_warm_up_is_a_tenth_of_a_short_run_or_a_share() -> None:
    assert TrainConfig(steps=50).warmup == 5
    assert TrainConfig(steps=5000).warmup == 100
    assert TrainConfig(steps=5000, warmup_share=0.05).warmup == 250
    assert TrainConfig(steps=5000, warmup_steps=0).warmup == 0
    line = refusal(override, Recipe(), {"train.warmup_steps": 5, "train.warmup_share": 0.1}, "recipe")
    assert "warmup_steps and warmup_share both" in line


def test_a_warm_up_longer_than_the_run_is_refused(make_recipe: Any, config: Config, tmp_path: Path) -> None:
    recipe = make_recipe(**{"train.warmup_steps": 7})
    for action in (lambda: plan(recipe, config), lambda: train(recipe, config, tmp_path / "run")):
        assert refusal(action).startswith("train.warmup_steps 7: the run has 6 steps (train.steps)")
    arms = make_recipe(**{"compare.arms": {"uniform": {}, "slow": {"train.warmup_steps": 7}}})
    assert refusal(choose_arms, arms, None).startswith("train.warmup_steps 7")


def test_a_decay_that_begins_within_the_warm_up_is_refused() -> None:
    settings = TrainConfig(steps=10, warmup_steps=6, schedule="wsd", decay_share=0.5)
    assert "5 steps of decay and 6 of warm-up are more than train.steps 10" in refusal(
        check_schedule, settings
    )


def test_a_run_may_go_on_with_the_same_warm_up_named_otherwise(
    make_recipe: Any, config: Config, tmp_path: Path
) -> None:
    train(make_recipe(), config, tmp_path / "run")
    share = {"train.warmup_steps": None, "train.warmup_share": 1 / 3}
    train(make_recipe(**share), config, tmp_path / "run", resume="auto")
    line = refusal(train, make_recipe(**{"train.warmup_steps": 3}), config, tmp_path / "run", resume="auto")
    assert "train.warmup_steps differ" in line
