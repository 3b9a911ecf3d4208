"""Killed at random moments, and resumed, a run goes on as if nothing had happened."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DDP, FSDP, ONE, Training, largest_difference, records

pytestmark = pytest.mark.slow

Start = Callable[..., Training]
Whole = Callable[..., Path]

SAVING = ("train.save_every=1", "train.async_save=false")
SAVING_BESIDE = ("train.save_every=1", "train.async_save=true")


@pytest.mark.parametrize(
    ("nproc", "layout", "saving"),
    [
        (None, (), SAVING),
        (None, (), SAVING_BESIDE),
        (2, DDP, SAVING),
        (2, DDP, SAVING_BESIDE),
        (2, FSDP, SAVING),
        (2, FSDP, SAVING_BESIDE),
        (4, DDP, SAVING_BESIDE),
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
