"""Several processes started by one command: how they are told things, and how they end."""

import fcntl
import multiprocessing
import os
import pty
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from wmtp.errors import WMTPError
from wmtp.train import launch as launching
from wmtp.train.launch import launch

PROLOGUE = """
import os, signal, sys, time
from pathlib import Path
from wmtp import rank as worker
from wmtp.train.signals import Stopped, StopRequest
worker.OWN_TURN_SECONDS = 1.0
rank, start = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
worker.end_with_launcher()
def told(signum, frame=None):
    with Path(f"rank{rank}").open("a") as file:
        file.write(signal.Signals(signum).name + " ")
def train(save=lambda: None):
    try:
        with StopRequest(60, lambda: "") as stop:
            Path(f"training{rank}").touch()
            while stop.signum is None:
                time.sleep(0.01)
            told(stop.signum)
            save()
            raise Stopped(stop.signum, "")
    except Stopped as stopped:
        worker.leave(stopped.exit_status)
def fail(line):
    worker.report(line)
    worker.leave(2)
"""


def _launch(
    folder: str, tty: str | None, environment: dict[str, str], nproc: int, options: dict[str, Any]
) -> None:
    """A process that does nothing but launch, as `wmtp train --nproc` is; what is printed goes to a file."""
    os.chdir(folder)
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.update(environment)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if tty is not None:
        os.setsid()
        fcntl.ioctl(os.open(tty, os.O_RDWR), termios.TIOCSCTTY, 0)
    launching.MARGIN_SECONDS = 0.2
    sys.exit(launch(nproc, ["some", "arguments"], module="work", **options))


class Launched:
    """A launcher at work in the test's folder."""

    def __init__(
        self,
        code: str,
        *,
        nproc: int = 2,
        tty: str | None = None,
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        Path("work.py").write_text(PROLOGUE + code)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "wmtp.train.trainer", "wmtp.train.launch"])
        self.process = context.Process(
            target=_launch, args=(os.getcwd(), tty, environment or {}, nproc, {"stop_timeout": 60, **options})
        )
        self.process.start()

    def status(self) -> int | None:
        self.process.join(120)
        return self.process.exitcode

    def output(self) -> str:
        return Path("output").read_text()


def wait_for(*files: str) -> None:
    deadline = time.monotonic() + 60
    while not all(Path(file).exists() for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.02)


def test_every_process_gets_its_place_and_its_share_of_the_cores() -> None:
    code = """
print(rank, sys.argv[1:], os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"], worker.started_by_torchrun())
"""
    launched = Launched(code)
    assert launched.status() == 0
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    expected = [f"{rank} ['some', 'arguments'] 2 {share} True" for rank in range(2)]
    assert sorted(launched.output().splitlines()) == expected


@pytest.mark.slow
def test_the_users_number_of_threads_is_kept() -> None:
    launched = Launched('print(os.environ["OMP_NUM_THREADS"])', nproc=1, environment={"OMP_NUM_THREADS": "7"})
    assert (launched.status(), launched.output()) == (0, "7\n")


@pytest.mark.slow
def test_the_processes_talk_to_each_other() -> None:
    code = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(rank + 1)
dist.all_reduce(total)
if rank == 0:
    print(int(total), flush=True)
dist.barrier()
worker.leave(0)
"""
    launched = Launched(code)
    assert (launched.status(), launched.output()) == (0, "3\n")


def test_a_mistake_that_all_make_is_told_once() -> None:
    code = """
Path(f"here{rank}").touch()
while len(list(Path().glob("here*"))) < 2:
    time.sleep(0.01)
time.sleep(0.2 * (rank == 0))
fail("wmtp: no such recipe")
"""
    launched = Launched(code)
    assert (launched.status(), launched.output()) == (2, "wmtp: no such recipe\n")


def test_a_mistake_of_one_is_told_with_its_rank_and_ends_the_others() -> None:
    code = """
if rank == 1:
    fail("wmtp: no space")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
time.sleep(600)
"""
    launched = Launched(code)
    assert (launched.status(), launched.output()) == (2, "rank 1: wmtp: no space\n")


def test_a_killed_rank_ends_the_others_at_once() -> None:
    code = """
Path(f"pid{rank}").write_text(str(os.getpid()))
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
train(lambda: Path("saved").touch())
"""
    launched = Launched(code)
    assert launched.status() == 1
    pid = Path("pid1").read_text()
    assert launched.output() == f"wmtp: rank 1 (pid {pid}) was killed by SIGKILL; go on with --resume auto\n"
    assert not Path("saved").exists()


@pytest.mark.parametrize("crash", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)"])
def test_a_crash_starts_all_ranks_again(crash: str) -> None:
    code = f"""
Path(f"rank{{rank}}start{{start}}").touch()
if start == 0 and rank == 1:
    {crash}
if start == 0:
    time.sleep(600)
"""
    launched = Launched(code, max_restarts=1)
    assert launched.status() == 0
    assert launched.output().endswith("; starting all ranks again (1 of 1 restarts)\n")
    assert launched.output().count("\n") == 1
    assert len(list(Path.cwd().glob("rank*start1"))) == 2


@pytest.mark.parametrize(("ending", "status"), [("fail('wmtp: a mistake')", 2), ("worker.leave(75)", 75)])
def test_a_mistake_or_a_stop_starts_nothing_again(ending: str, status: int) -> None:
    launched = Launched(f"Path(f'rank{{rank}}start{{start}}').touch(); {ending}", max_restarts=3)
    assert launched.status() == status
    assert not list(Path.cwd().glob("rank*start1"))


@pytest.mark.parametrize(
    ("signum", "passed_on", "status"),
    [
        (signal.SIGINT, "SIGINT", 130),
        (signal.SIGUSR1, "SIGUSR1", 75),
        (signal.SIGHUP, "SIGTERM", 75),
    ],
)
def test_a_signal_is_passed_on_and_answered(signum: signal.Signals, passed_on: str, status: int) -> None:
    launched = Launched("train()", max_restarts=1)
    wait_for("training0", "training1")
    os.kill(launched.process.pid or 0, signum)
    assert (launched.status(), launched.output()) == (status, "")
    assert [Path(f"rank{rank}").read_text() for rank in range(2)] == [f"{passed_on} "] * 2


def test_a_signal_before_training_ends_the_start() -> None:
    launched = Launched("Path(f'training{rank}').touch(); time.sleep(600)")
    wait_for("training0", "training1")
    os.kill(launched.process.pid or 0, signal.SIGTERM)
    assert (launched.status(), launched.output()) == (75, "")


def test_a_slower_rank_is_left_to_finish_its_stop() -> None:
    code = """
if rank == 1:
    worker.leave(75)
time.sleep(0.5)
Path("saved").touch()
worker.leave(75)
"""
    launched = Launched(code)
    assert (launched.status(), launched.output()) == (75, "")
    assert Path("saved").exists()


def test_a_rank_that_does_not_stop_is_killed_after_the_deadline() -> None:
    launched = Launched("train(lambda: time.sleep(600 * rank))", stop_timeout=2)
    wait_for("training0", "training1")
    os.kill(launched.process.pid or 0, signal.SIGTERM)
    assert launched.status() == 75
    assert launched.output() == (
        "wmtp: rank 1: not ended 2 s after a signal (devices.stop_timeout), so killed; go on with --resume auto\n"
    )


def test_ctrl_c_reaches_every_rank_once() -> None:
    waiting = """
signal.signal(signal.SIGINT, told)
Path(f"training{rank}").touch()
while not Path(f"rank{rank}").exists():
    time.sleep(0.01)
time.sleep(0.5)
worker.leave(130)
"""
    keyboard, terminal = pty.openpty()
    try:
        launched = Launched(waiting, tty=os.ttyname(terminal))
        wait_for("training0", "training1")
        os.write(keyboard, b"\x03")
        assert (launched.status(), launched.output()) == (130, "")
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert [Path(f"rank{rank}").read_text() for rank in range(2)] == ["SIGINT "] * 2


def test_workers_outlive_a_killed_launcher_only_to_save() -> None:
    launched = Launched("train(lambda: Path(f'saved{rank}').touch())")
    wait_for("training0", "training1")
    launched.process.kill()
    launched.status()
    wait_for("saved0", "saved1")


def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WMTPError, match="--nproc 0: should be 1 or more"):
        launch(0, [], stop_timeout=1)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(WMTPError, match="--nproc: torchrun has started the processes already"):
        launch(2, [], stop_timeout=1)
