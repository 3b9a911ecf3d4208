"""Processes that die, stop, meet another run or live under a clock that goes backwards."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DDP, FSDP, ONE, Training, is_alive, records

from wmtp.checkpoint import store as checkpoint

pytestmark = pytest.mark.slow

Start = Callable[..., Training]
Whole = Callable[..., Path]

BACKWARDS = """
import time
now, calls = time.time(), 0
def backwards():
    global calls
    calls += 1
    return now - 60 * calls
time.time = backwards
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_others_end(rank: int, start: Start) -> None:
    training = start(f"killed-rank-{rank}", *DDP, "train.save_every=1", nproc=2)
    training.wait_for_step(5)
    workers = training.workers()
    os.kill(workers[rank], signal.SIGKILL)
    ended = training.end()
    assert ended.status == 1
    assert ended.messages == [
        f"wmtp: rank {rank} (pid {workers[rank]}) was killed by SIGKILL; go on with --resume auto"
    ]
    assert not any(map(is_alive, workers.values()))


@pytest.mark.parametrize(("rank", "layout"), [(0, FSDP), (1, DDP)], ids=["fsdp", "ddp"])
def test_all_start_again_after_a_crash_where_that_is_allowed(
    rank: int, layout: tuple[str, ...], start: Start, whole: Whole
) -> None:
    allowed = ["--max-restarts", "1"]
    training = start(f"restarted-{rank}", *layout, "train.save_every=1", nproc=2, options=allowed)
    training.wait_for_step(10)
    pid = training.workers()[rank]
    os.kill(pid, signal.SIGKILL)
    ended = training.end()
    assert (ended.status, ended.messages) == (
        0,
        [f"wmtp: rank {rank} (pid {pid}) was killed by SIGKILL; starting all ranks again (1 of 1 restarts)"],
    )
    assert records(training.run) == records(whole(2, *layout))


def test_torchrun_may_start_all_again(start: Start, whole: Whole) -> None:
    restarts = {"PET_MAX_RESTARTS": "1"}  # torchrun --max-restarts 1
    settings = (*DDP, "train.save_every=1")
    training = start("restarted", *settings, nproc=2, by_torchrun=True, environment=restarts)
    training.wait_for_step(10)
    os.kill(training.workers()[1], signal.SIGKILL)
    ended = training.end()
    assert ended.status == 0, ended.errors
    assert records(training.run) == records(whole(2, *DDP))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_is_named(rank: int, start: Start, whole: Whole) -> None:
    settings = (*DDP, "train.save_every=1", "devices.collective_timeout=5")
    training = start(f"still-{rank}", *settings, nproc=2)
    training.wait_for_step(5)
    os.kill(training.workers()[rank], signal.SIGSTOP)
    stopped = time.monotonic()
    ended = training.end()
    assert time.monotonic() - stopped < 60
    assert ended.status == 1
    (line,) = ended.messages
    assert line.startswith(f"wmtp: rank {rank} no longer answers, last seen in '")
    assert line.endswith(" (devices.collective_timeout 5 s); go on with --resume auto")
    ended = start(training.run.name, *settings, nproc=2, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(training.run) == records(whole(2, *DDP))


@pytest.mark.parametrize(("nproc", "layout"), [(None, ONE), (2, DDP)], ids=["1", "2"])
def test_a_second_run_in_the_same_directory_is_refused(
    nproc: int | None, layout: tuple[str, ...], start: Start, whole: Whole
) -> None:
    first = start(f"twice-{nproc}", *layout, "train.save_every=1", nproc=nproc)
    first.wait_for_step(5)
    owner = first.workers()[0]
    for pid in first.workers().values():
        os.kill(pid, signal.SIGSTOP)  # so that the second one finds it at work
    for resume in ("auto", "never"):
        second = start(first.run.name, *layout, nproc=nproc, resume=resume).end()
        assert second.status == 2
        (line,) = second.messages
        assert f"in use by process {owner} on host " in line
    for pid in first.workers().values():
        os.kill(pid, signal.SIGCONT)
    ended = first.end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(first.run) == records(whole(nproc, *([] if nproc is None else layout)))


@pytest.mark.parametrize("in_background", ["false", "true"])
def test_a_clock_that_goes_backwards_disturbs_nothing(
    in_background: str, start: Start, whole: Whole, tmp_path: Path
) -> None:
    """The wall clock is replaced by one that loses a minute whenever it is read."""
    (tmp_path / "sitecustomize.py").write_text(BACKWARDS)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    settings = (*DDP, "train.save_every=5", f"train.async_save={in_background}")
    training = start(f"clock-{in_background}", *settings, nproc=2, environment={"PYTHONPATH": path})
    ended = training.end()
    assert (ended.status, ended.messages) == (0, [])
    lines = (training.run / "metrics.jsonl").read_text().splitlines()
    times = [float(line.rpartition(":")[2].rstrip("}")) for line in lines]
    assert times == sorted(times, reverse=True)
    assert records(training.run) == records(whole(2, *DDP))
    assert [checkpoint.step_of(c) for c in checkpoint.checkpoints(training.run)] == [45, 50]
