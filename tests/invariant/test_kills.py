"""Killed at random moments, and resumed, a run goes on as if nothing had happened."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DDP, FSDP, ONE, Training, largest_difference, records, write_rows

from wmtp.storage import read_json

pytestmark = pytest.mark.slow

Start = Callable[..., Training]
Whole = Callable[..., Path]

SAVING = ("train.save_every=1", "train.async_save=false")
SAVING_BESIDE = ("train.save_every=1", "train.async_save=true")
TWO_STAGES = (
    "scorer=critic-delta-v1",
    "data.source=answers.jsonl",
    "critic.refresh_every=7",
    "critic.patience=50",
    "critic.overrides={train.validate_every: 4}",
)


@pytest.mark.parametrize(
    ("nproc", "layout", "saving"),
    [
        (None, (), SAVING),
        (None, (), SAVING_BESIDE),
        (2, DDP, SAVING),
        (2, FSDP, SAVING_BESIDE),
    ],
    ids=lambda value: str(value).replace("train.", "").replace("devices.", ""),
)
def test_on_the_same_layout_nothing_differs(
    nproc: int | None, layout: tuple[str, ...], saving: tuple[str, ...], start: Start, whole: Whole
) -> None:
    name = f"killed-{nproc}-{'-'.join(layout).replace('=', '-')}-{saving[1][-5:].strip('=')}"
    training = start(name, *layout, *saving, nproc=nproc)
    training.wait_for_step(random.randrange(1, 15))
    time.sleep(random.uniform(0, 0.2))
    training.kill()
    training = start(name, *layout, *saving, nproc=nproc, resume="auto")
    training.wait_for_step(random.randrange(20, 35))
    training.wait_until(training.is_saving)
    time.sleep(random.uniform(0, 0.03))
    training.kill()
    ended = start(name, *layout, *saving, nproc=nproc, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(training.run) == records(whole(nproc, *layout))


def test_from_two_processes_to_one_to_four(start: Start, whole: Whole) -> None:
    lives = [(2, FSDP), (None, ONE), (4, DDP), (2, DDP), (4, FSDP)]
    for number, (nproc, layout) in enumerate(lives):
        training = start("moving", *layout, *SAVING, nproc=nproc, resume="auto")
        if number < len(lives) - 1:
            training.wait_for_step(10 * number + random.randrange(3, 8))
            training.kill()
    ended = training.end()
    assert (ended.status, ended.messages) == (0, [])
    assert largest_difference(records(training.run), records(whole())) < 1e-6


@pytest.mark.parametrize(("nproc", "layout"), [(None, ()), (2, FSDP)], ids=str)
def test_of_a_run_in_two_stages_nothing_differs(
    nproc: int | None, layout: tuple[str, ...], start: Start, whole: Whole, folder: Path
) -> None:
    chance = random.Random(1)
    write_rows(
        folder / "answers.jsonl",
        [
            {
                "prompt": f"add {i // 4} to {i // 4 % 7}: ",
                "completion": f"{i // 4 + i // 4 % 7 + i % 2}" + " done" * chance.randrange(8),
                "is_correct": i % 2 == 0,
            }
            for i in range(240)
        ],
    )
    settings, name = (*layout, *TWO_STAGES), f"two-stages-{nproc}"
    training = start(name, *settings, *random.choice((SAVING, SAVING_BESIDE)), nproc=nproc)
    critic = training.run / "critic"
    moment = random.randrange(1, 45)
    training.wait_until(lambda: training.process.poll() is not None or len(records(critic)) > moment)
    time.sleep(random.uniform(0, 0.1))
    training.kill()
    training = start(name, *settings, *random.choice((SAVING, SAVING_BESIDE)), nproc=nproc, resume="auto")
    training.wait_for_step(random.randrange(1, 35))
    time.sleep(random.uniform(0, 0.1))
    training.kill()
    ended = start(name, *settings, *SAVING, nproc=nproc, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    expected = whole(nproc, *settings)
    assert records(training.run) == records(expected)
    assert records(critic) == records(expected / "critic")
    results = [read_json(run / "critic" / "critic.json") | {"seconds": 0} for run in (training.run, expected)]
    assert results[0] == results[1]
    heads = [run / "critic" / "best" / "value_head.safetensors" for run in (training.run, expected)]
    assert heads[0].read_bytes() == heads[1].read_bytes()
