"""Many programs at once, interruptions, machines that refuse, and cleaning up."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.sandbox import Limits, Program, StdinProgram, Verdict, describe, execute, execute_all
from wmtp.sandbox.directories import remove_tree

TESTS = ("assert f(1) == 1",)
RIGHT = Program("right", "def f(x): return x", TESTS)
SLEEPS = Program("sleeps", "import time\ntime.sleep(1000)", TESTS)


def test_every_program_gets_its_own_verdict() -> None:
    programs = [Program(str(i), f"def f(x): return {i % 2}", TESTS) for i in range(10)]
    outcomes = dict(execute_all(programs, Limits(), workers=3))
    assert sorted(outcomes) == list(range(10))
    for i, execution in outcomes.items():
        assert execution.verdict is (Verdict.PASSED if i % 2 else Verdict.FAILED)


def test_results_come_as_they_complete() -> None:
    slow = Program("slow", "import time\ntime.sleep(1)\ndef f(x): return x", TESTS)
    assert [i for i, _ in execute_all([slow, RIGHT, RIGHT], Limits(), workers=2)] == [1, 2, 0]


def test_programs_are_taken_as_they_are_needed() -> None:
    taken: list[None] = []

    def endless() -> Iterator[Program]:
        while True:
            taken.append(None)
            yield RIGHT

    results = execute_all(endless(), Limits(), workers=2)
    for _ in range(3):
        assert next(results)[1].verdict is Verdict.PASSED
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 8


def test_no_programs() -> None:
    assert list(execute_all([], Limits())) == []


def test_closing_ends_what_runs() -> None:
    results = execute_all([RIGHT, *[SLEEPS] * 5], Limits(wall_seconds=60), workers=2)
    next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("call", ["list(execute_all([p] * 4, limits, 2))", "execute(p, limits)"])
def test_interrupt_ends_what_runs(call: str) -> None:
    waits = Program("waits", "import time\nopen('ready', 'w').close()\ntime.sleep(1000)", TESTS)
    with tempfile.TemporaryDirectory(prefix="place-") as place:
        script = (
            "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
            "from wmtp.sandbox import *\n"
            f"p, limits = {waits!r}, Limits(wall_seconds=60)\n"
            f"try:\n    {call}\nexcept KeyboardInterrupt:\n    print('stopped')"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        evaluator = subprocess.Popen(
            [sys.executable, "-c", script, place], stdout=subprocess.PIPE, text=True, env=environment
        )
        limit = time.monotonic() + 60
        while not list(Path(place).glob("*/*/ready")) and time.monotonic() < limit:
            time.sleep(0.02)
        evaluator.send_signal(signal.SIGINT)
        output, _ = evaluator.communicate(timeout=60)
        assert output == "stopped\n"
        assert list(Path(place).iterdir()) == []


def test_from_a_thread() -> None:
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(execute(RIGHT, Limits()).verdict))
    thread.start()
    thread.join()
    assert verdicts == [Verdict.PASSED]


def test_an_interpreter_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    execution = execute(RIGHT, Limits())
    assert execution.verdict is Verdict.ERROR
    assert "/nonexistent/python" in execution.message


def test_a_judge_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    execution = execute(RIGHT, Limits())
    assert execution.verdict is Verdict.ERROR
    assert "without a verdict" in execution.message


def test_no_room_for_a_directory_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert execute(RIGHT, Limits()).verdict is Verdict.ERROR


def test_memory_that_no_interpreter_fits_in_is_an_error() -> None:
    execution = execute(RIGHT, Limits(memory_mib=8))
    assert execution.verdict is Verdict.ERROR


def test_directories_that_nobody_else_may_enter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    code = (
        "def f(x):\n    with open('note', 'w') as file: file.write('x')\n    with open('note') as file:"
        " return len(file.read())"
    )
    assert execute(Program("writes", code, TESTS), Limits()).verdict is Verdict.PASSED
    assert list(closed.iterdir()) == []


def test_remove_tree(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "a" / "file").write_text("x")
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (top / "link").symlink_to(outside)
    (top / "a" / "link").symlink_to(outside)
    os.mkfifo(top / "a" / "pipe")
    (top / "a" / "b").chmod(0)
    top.chmod(0)
    remove_tree(str(top))
    assert not top.exists()
    assert (outside / "kept").is_dir()
    remove_tree(str(top))


def test_limits_and_programs_are_checked() -> None:
    with pytest.raises(WMTPError, match="memory_mib is 0"):
        Limits(memory_mib=0)
    with pytest.raises(WMTPError, match="cpu_seconds is -1"):
        Limits(cpu_seconds=-1)
    with pytest.raises(WMTPError, match="'x' has no tests"):
        Program("x", "", ())
    with pytest.raises(WMTPError, match="'x' has no cases"):
        StdinProgram("x", "", (), ())


def test_description_is_what_was_measured() -> None:
    facts = describe("basic")
    assert facts["works"] is True
    assert facts["level"] == "basic"
    if sys.platform == "linux":
        assert facts["judge_memory_closed"] is True
        assert facts["no_subprocesses"] is True
        assert facts["no_new_privileges"] is True
        status = Path("/proc/self/status").read_text().splitlines()
        effective = int(next(line for line in status if line.startswith("CapEff")).split()[1], 16)
        assert facts["separate_user"] is (os.geteuid() == 0 and effective & 0xE3 == 0xE3)
