"""Two runs never write one directory."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.lock import run_lock, sole_holder

HOLDING = """
import subprocess, sys, time
from pathlib import Path
from wmtp.lock import run_lock
with run_lock(Path("run")):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process_in(run: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds the lock, and the number of a program that it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True, cwd=run.parent
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        process.kill()
        process.communicate()
        os.kill(child, signal.SIGKILL)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_second_run_is_told_who_was_first(run: Path) -> None:
    with another_process_in(run) as (process, _):
        expected = (
            rf"in use by process {process.pid} on host {re.escape(socket.gethostname())} since 2\d\d\d-"
        )
        for _ in range(2):
            with (
                pytest.raises(WMTPError, match=expected + r".*choose another name \(name=…\)"),
                run_lock(run),
            ):
                pass


def test_the_lock_is_free_as_soon_as_its_process_is_dead(run: Path) -> None:
    with another_process_in(run) as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # a program that it started lives on, and does not hold it
        with run_lock(run):
            pass


def test_the_lock_is_free_after_the_context_even_if_a_fork_lives_on(run: Path) -> None:
    with run_lock(run):
        child = os.fork()
        if child == 0:
            time.sleep(60)
    try:
        with run_lock(run):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_lock_is_exclusive_within_a_process_too(run: Path) -> None:
    with run_lock(run), pytest.raises(WMTPError, match=f"in use by process {os.getpid()}"), run_lock(run):
        pass


@pytest.mark.parametrize(
    ("run", "why"), [("missing", "No such file or directory"), ("/proc/self", "No such file|denied")]
)
def test_a_directory_that_cannot_be_written_is_one_line(run: str, why: str) -> None:
    with (
        pytest.raises(WMTPError, match=rf"{run}: cannot be written \(({why}).*paths\.runs"),
        run_lock(Path(run)),
    ):
        pass


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        expected = rf"run: this file system cannot lock \({os.strerror(code)}\); choose another paths\.runs"
        with pytest.raises(WMTPError, match=expected), run_lock(run):
            pass
    with run_lock(run):
        pass


def test_waiting_for_a_lock_ends_when_its_holder_is_dead(run: Path) -> None:
    with another_process_in(run) as (process, _):
        with sole_holder(run / ".lock") as alone:
            assert not alone
        threading.Timer(0.2, process.kill).start()
        with sole_holder(run / ".lock", wait=True) as alone:
            assert alone
            assert process.poll() is not None
