"""No hostile program passes, hangs or leaves anything behind."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_programs import HOSTILE, NEEDS_OWN_USER

from wmtp.sandbox import Execution, Limits, Program, Verdict, describe, execute, execute_all

LEVELS = ["basic", *(pytest.param(level, marks=pytest.mark.slow) for level in ("kernel", "namespaces"))]
TESTS = ("assert f(2, [1]) == 3", "assert set([f(5, [2, 2])]) == set([9])")
LIMITS = Limits(cpu_seconds=1, wall_seconds=1.5, memory_mib=256)
LINUX = sys.platform == "linux"


def survivors(place: Path) -> list[int]:
    """Processes whose environment or command names a directory that the sandbox made in `place`."""
    marker = f"{place}/wmtp-sandbox-".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the sandbox makes its directories, and nobody else any."""
    tmp_path_factory.getbasetemp()
    before, path = tempfile.tempdir, Path(tempfile.mkdtemp(prefix="place-"))
    tempfile.tempdir = str(path)
    yield path
    tempfile.tempdir = before
    shutil.rmtree(path)


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    facts = describe(request.param)
    if not facts["works"]:
        pytest.skip(f"{request.param}: {facts['message']}")
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(place: Path, level: str) -> dict[str, Execution]:
    skipped = NEEDS_OWN_USER if level == "basic" and not describe(level)["separate_user"] else set()
    programs = [Program(name, code, TESTS) for name, code in HOSTILE.items() if name not in skipped]
    return {
        programs[position].task_id: execution
        for position, execution in execute_all(programs, LIMITS, workers=4, isolation=level)
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_does_not_pass_nor_hang(name: str, outcomes: dict[str, Execution]) -> None:
    if name not in outcomes:
        pytest.skip("would kill the evaluator where the sandbox cannot change the user")
    execution = outcomes[name]
    assert execution.verdict in (Verdict.FAILED, Verdict.TIMEOUT), execution
    assert execution.message
    assert all(c.isprintable() or c == "\n" for c in execution.message)
    attempts = 2 if "judge" in execution.message else 1
    assert execution.seconds < attempts * (LIMITS.wall_seconds + 1)


def test_a_right_program_passes_the_same_tests(place: Path, level: str) -> None:
    right = Program("x", "def f(a, b): return a + sum(b)", TESTS)
    assert execute(right, LIMITS, level).verdict is Verdict.PASSED


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_nothing_is_left(outcomes: dict[str, Execution], place: Path) -> None:
    assert outcomes
    assert survivors(place) == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["forks", "daemon that keeps the pipe", "starts a shell", "threads"])
@pytest.mark.slow
def test_descendants_die_even_where_they_are_allowed(name: str, place: Path, level: str) -> None:
    allowing = Limits(cpu_seconds=1, wall_seconds=2, memory_mib=256, processes=6)
    started = time.monotonic()
    execution = execute(Program(name, HOSTILE[name], TESTS), allowing, level)
    assert execution.verdict in (Verdict.FAILED, Verdict.TIMEOUT)
    assert time.monotonic() - started < allowing.wall_seconds + 20  # they would go on for 1000 s
    if LINUX:
        assert survivors(place) == []
    assert list(place.iterdir()) == []


def test_programs_do_not_reach_each_other(place: Path, level: str) -> None:
    if level == "basic" and not describe(level)["separate_user"]:
        pytest.skip("the sandbox cannot change the user")
    slow = Program("slow", "import time\ntime.sleep(0.7)\ndef f(a, b): return a + sum(b)", TESTS)
    killers = [Program("kills all", HOSTILE["kills all"], TESTS) for _ in range(6)]
    outcomes = dict(execute_all([slow, *killers], Limits(wall_seconds=5), 2, level))
    assert outcomes[0].verdict is Verdict.PASSED
    assert {outcomes[i].verdict for i in range(1, 7)} == {Verdict.FAILED}


def returned(expression: str, level: str) -> str:
    """What an expression is inside, taken from the message of a test that fails."""
    code = f"def f(): return {expression}"
    execution = execute(Program("x", code, ("assert f() is f",)), Limits(), level)
    assert execution.verdict is Verdict.FAILED
    return execution.message.partition("returned ")[2]


def test_environment_is_empty(place: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "sesame")
    names = returned("[k for k in sorted(__import__('os').environ) if k != 'LC_CTYPE']", level)
    assert names == "['HOME', 'TMPDIR']"
    assert returned("__import__('os').getcwd() == __import__('os').environ['HOME']", level) == "True"
    assert "site-packages" not in returned("__import__('sys').path", level)
    assert str(Path(__file__).parents[2] / "src") not in returned("__import__('sys').path", level)


def test_user_is_given_up(place: Path, level: str) -> None:
    ids = returned("[*__import__('os').getresuid(), *__import__('os').getresgid()]", level)
    if describe(level)["separate_user"]:
        assert len(set(ids.strip("[]").split(", "))) == 1
        assert int(ids.strip("[]").split(", ")[0]) >= 20_000
        assert returned("__import__('os').getgroups()", level) == "[]"
    else:
        assert ids == str([*os.getresuid(), *os.getresgid()])


@pytest.mark.skipif(not LINUX, reason="nothing else ends what an evaluator leaves when it is killed")
@pytest.mark.parametrize(
    "code",
    [
        "import time",
        "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
        "import os, time\ntry: os.fork() or os.setsid()\nexcept PermissionError: pass",
    ],
    ids=["sleeps", "takes back that it dies with its judge", "has a child in another session"],
)
def test_evaluator_killed(code: str, place: Path, level: str) -> None:
    script = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from wmtp.sandbox import *\n"
        "program = Program('x', sys.argv[3] + '\\nopen(\"ready\", \"w\")\\ntime.sleep(1000)', ('assert f() == 1',))\n"
        "execute(program, Limits(wall_seconds=60, processes=1), sys.argv[2])"
    )
    evaluator = subprocess.Popen([sys.executable, "-c", script, str(place), level, code])
    try:
        limit = time.monotonic() + 20
        while not list(place.glob("*/*/ready")) and time.monotonic() < limit:
            time.sleep(0.02)
        assert survivors(place)
    finally:
        evaluator.kill()
        evaluator.wait()
    limit = time.monotonic() + 5
    while survivors(place) and time.monotonic() < limit:
        time.sleep(0.02)
    assert survivors(place) == []
    for left in place.iterdir():
        shutil.rmtree(left)
