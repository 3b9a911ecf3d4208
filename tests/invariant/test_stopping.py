"""Signals: the run is saved, the exit status says whether to queue it again, and it goes on exactly."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DDP, FSDP, Training, records

from wmtp.checkpoint import store as checkpoint

pytestmark = pytest.mark.slow

Start = Callable[..., Training]
Whole = Callable[..., Path]

STATUSES = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGUSR1: 75}
NOT_OTHERWISE = "train.save_every=1000"
"""Whatever is saved before the end is saved because of the signal."""


@pytest.mark.parametrize(
    ("nproc", "layout"), [(None, ()), (2, DDP), (2, FSDP)], ids=["1", "2 by ddp", "2 by fsdp"]
)
def test_a_stopped_run_is_saved_and_goes_on(
    nproc: int | None, layout: tuple[str, ...], start: Start, whole: Whole
) -> None:
    name = f"stopped-{nproc}-{layout}".translate(str.maketrans("", "", "(),'= "))
    resume, step = "never", 0
    for signum, status in STATUSES.items():
        training = start(name, *layout, NOT_OTHERWISE, nproc=nproc, resume=resume)
        training.wait_for_step(step + 3)
        training.process.send_signal(signum)
        ended = training.end()
        saved = checkpoint.checkpoints(training.run)[-1]
        step, resume = checkpoint.step_of(saved), "auto"
        assert (ended.status, ended.messages) == (
            status,
            [
                f"stopped; saved {saved.relative_to(training.run.parents[1])}; "
                "repeat the command to go on (train: --resume auto)"
            ],
        )
        assert records(training.run)[-1]["step"] == step
    ended = start(name, *layout, NOT_OTHERWISE, nproc=nproc, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(training.run) == records(whole(nproc, *layout))


def test_torchrun_passes_the_scheduler_s_signal_on(start: Start, whole: Whole) -> None:
    """It has a status of its own, 1, and ends by SIGUSR1 itself, which its workers take for a stop."""
    step, resume = 0, "never"
    for signum, status in {signal.SIGTERM: 1, signal.SIGINT: 1, signal.SIGUSR1: -signal.SIGUSR1}.items():
        training = start("torchrun", *DDP, NOT_OTHERWISE, nproc=2, resume=resume, by_torchrun=True)
        training.wait_for_step(step + 3)
        training.process.send_signal(signum)
        ended = training.end()
        assert ended.status == status, ended.errors
        assert "stopped; saved " in ended.errors
        step, resume = checkpoint.step_of(checkpoint.checkpoints(training.run)[-1]), "auto"
        assert records(training.run)[-1]["step"] == step
    ended = start("torchrun", *DDP, NOT_OTHERWISE, nproc=2, resume="auto", by_torchrun=True).end()
    assert ended.status == 0, ended.errors
    assert records(training.run) == records(whole(2, *DDP))


def test_a_signal_to_every_process_at_once_is_one_request(start: Start) -> None:
    """Slurm signals all processes of a step, and the launcher passes its own on."""
    training = start("slurm", *DDP, NOT_OTHERWISE, nproc=2)
    training.wait_for_step(5)
    for pid in (training.process.pid, *training.workers().values()):
        os.kill(pid, signal.SIGTERM)
    ended = training.end()
    assert ended.status == 75
    assert len(ended.messages) == 1
    checkpoint.verify(checkpoint.checkpoints(training.run)[-1])
