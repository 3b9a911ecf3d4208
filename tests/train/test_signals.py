"""Signals to a process that trains: it saves, or gives up in time."""

import signal
import subprocess
import sys
import time

import pytest

from wmtp.train.signals import REQUEUE_STATUS, STOPPING, Stopped, StopRequest, exit_status

TRAINING = """
import ctypes, signal, sys, time
from wmtp.train import signals
from wmtp.train.signals import Stopped, StopRequest

timeout, saving, then, signals.ECHO_SECONDS = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3], float(sys.argv[4])
signals.UNWINDING_SECONDS = 0.5
try:
    with StopRequest(timeout, lambda: "the last checkpoint is runs/x") as stop:
        print("training", flush=True)
        if then == "requested elsewhere":
            stop.request(signal.SIGTERM)
        if then == "block":  # as in a collective: no handler of Python's runs
            mutex = ctypes.create_string_buffer(64)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
        while stop.signum is None:
            time.sleep(0.01)
        print("saving", flush=True)
        time.sleep(saving)
        raise Stopped(stop.signum, "step 3")
except Stopped as stopped:
    print("saved", stopped.where, signal.Signals(stopped.signum).name)
    sys.exit(stopped.exit_status)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""


def start(timeout: float, saving: float, then: str = "", echo: float = 0.5) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(timeout), str(saving), then, str(echo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    return process


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_a_signal_is_answered_by_saving_and_by_its_status(signum: signal.Signals, status: int) -> None:
    process = start(60, saving=0.2)
    process.send_signal(signum)
    output, errors = process.communicate(timeout=30)
    assert output == f"saving\nsaved step 3 {signum.name}\n"
    assert (process.returncode, errors) == (status, "")
    assert Stopped(signum, "").exit_status == exit_status(signum) == status


def test_the_echo_of_a_signal_is_no_second_one() -> None:
    process = start(60, saving=1, echo=30)
    for signum in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process.send_signal(signum)
        time.sleep(0.05)
    assert "saved step 3" in process.communicate(timeout=30)[0]
    assert process.returncode in (75, 130)  # whichever the kernel delivered first


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_acts_as_usual(signum: signal.Signals, status: int) -> None:
    process = start(60, saving=60)
    process.send_signal(signum)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    time.sleep(0.6)  # no echo of the first one
    process.send_signal(signum)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert output == ("interrupted\n" if signum == signal.SIGINT else "")


@pytest.mark.slow
def test_warnings_before_the_end_may_be_repeated() -> None:
    process = start(60, saving=1.5)
    for _ in range(3):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.6)
    assert "saved step 3 SIGUSR1" in process.communicate(timeout=30)[0]
    assert process.returncode == REQUEUE_STATUS


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_saving_has_a_deadline(signum: signal.Signals, status: int) -> None:
    process = start(0.5, saving=60)
    process.send_signal(signum)
    output, errors = process.communicate(timeout=30)
    assert "saved" not in output
    late = "wmtp: could not save within 0.5 s (devices.stop_timeout); the last checkpoint is runs/x\n"
    assert (process.returncode, errors) == (status, late)


def test_a_request_of_another_rank_has_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    process = start(0.5, 60, "requested elsewhere")
    assert process.communicate(timeout=30)[1] == ""  # rank 0 speaks
    assert process.returncode == REQUEUE_STATUS


def test_the_deadline_holds_while_the_main_thread_is_blocked() -> None:
    process = start(0.5, 60, "block")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert (output, process.returncode) == ("", REQUEUE_STATUS)
    assert "could not save within 0.5 s" in errors


def test_a_second_signal_ends_a_blocked_process_and_more_of_them_do_not_put_it_off() -> None:
    process = start(60, 60, "block")
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    status = process.poll()
    process.kill()
    assert status == 130
    assert process.communicate(timeout=30) == ("", "")


def test_handlers_come_back() -> None:
    before = [signal.getsignal(s) for s in STOPPING]
    with StopRequest(60, lambda: ""):
        assert [signal.getsignal(s) for s in STOPPING] != before
    assert [signal.getsignal(s) for s in STOPPING] == before
    assert signal.set_wakeup_fd(-1) == -1
