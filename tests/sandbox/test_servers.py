"""A server judges many programs; one that is lost is replaced, and nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtp.sandbox import Limits, Program, Verdict, describe, execute, execute_all
from wmtp.sandbox.isolated.kernel import descendants
from wmtp.sandbox.servers import Servers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TESTS = ("assert f(1) == 1",)
RIGHT = Program("right", "def f(x): return x", TESTS)
SLOW = Program("slow", "import time\ntime.sleep(0.5)\ndef f(x): return x", TESTS)
STALLS = Program("stalls", "def f(x): return 10 ** 9", ("for _ in range(f(1)): pass",))
LIMITS = Limits(wall_seconds=20)


def parent(pid: int) -> int:
    """The parent of a process; 0 if it has just ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def is_bubblewrap(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "bwrap\n"


def is_server(pid: int) -> bool:
    """A child of this process, or of one of its bubblewraps."""
    try:
        above, command = parent(pid), Path(f"/proc/{pid}/cmdline").read_bytes()
        at_the_top = above == os.getpid() or is_bubblewrap(above)
        return at_the_top and b"isolated.server" in command and not is_bubblewrap(pid)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False


def servers() -> list[int]:
    """Processes of judge servers."""
    return [pid for pid in descendants(os.getpid()) if is_server(pid)]


def judges() -> list[int]:
    return [pid for server in servers() for pid in descendants(server) if parent(pid) == server]


def wait_for(find: Callable[[], list[int]]) -> int:
    limit = time.monotonic() + 20
    while not (found := find()) and time.monotonic() < limit:
        time.sleep(0.005)
    return found[0]


def test_one_server_a_worker() -> None:
    seen: set[int] = set()
    for _, execution in execute_all([RIGHT] * 8, LIMITS, workers=2, isolation="basic"):
        assert execution.verdict is Verdict.PASSED
        seen.update(servers())
    assert 1 <= len(seen) <= 2
    assert servers() == []


def test_nothing_is_left_of_one_program() -> None:
    assert execute(RIGHT, LIMITS).verdict is Verdict.PASSED
    assert servers() == []


@pytest.mark.parametrize("victim", [servers, judges], ids=["server", "judge"])
def test_what_is_killed_is_replaced_and_its_program_tried_again(victim: Callable[[], list[int]]) -> None:
    results = execute_all([SLOW] * 3, LIMITS, workers=1)
    assert next(results)[1].verdict is Verdict.PASSED
    os.kill(wait_for(victim), signal.SIGKILL)
    assert [execution.verdict for _, execution in results] == [Verdict.PASSED] * 2
    assert servers() == []


def test_killed_again_and_again_is_an_error_that_is_not_scored() -> None:
    if not describe().get("separate_user"):
        pytest.skip("the program itself may have done it, where it runs as the same user")
    results = execute_all([RIGHT, SLOW, RIGHT], LIMITS, workers=1)
    assert next(results)[1].verdict is Verdict.PASSED
    first = wait_for(servers)
    os.kill(wait_for(judges), signal.SIGKILL)
    second = wait_for(lambda: [pid for pid in servers() if pid != first])
    os.kill(wait_for(lambda: [pid for pid in judges() if parent(pid) == second]), signal.SIGKILL)
    execution = next(results)[1]
    assert execution.verdict is Verdict.ERROR
    assert "signal 9" in execution.message
    assert next(results)[1].verdict is Verdict.PASSED


def test_a_server_that_was_ended_in_time_trouble_is_replaced() -> None:
    outcomes = dict(execute_all([RIGHT, STALLS, RIGHT], Limits(wall_seconds=0.6), workers=1))
    assert [outcomes[i].verdict for i in range(3)] == [Verdict.PASSED, Verdict.TIMEOUT, Verdict.PASSED]
    assert servers() == []


def test_programs_do_not_share_a_judge() -> None:
    leave = Program("leaves", RIGHT.code, ("import math\nmath.left = 1\nimport builtins\nbuiltins.f = 2",))
    find = Program("finds", RIGHT.code, ("import math\nassert not hasattr(math, 'left')", *TESTS))
    outcomes = dict(execute_all([leave, find], LIMITS, workers=1))
    assert outcomes[1].verdict is Verdict.PASSED


def test_nothing_starts_after_closing() -> None:
    closed = Servers("basic")
    closed.close()
    with pytest.raises(OSError, match="stopped"):
        closed.judge({"plan": {"packages": {}}}, 1)
    assert servers() == []


@pytest.mark.slow
def test_a_killed_server_has_reaped_its_orphans() -> None:
    """They count against the limit on processes of their user's next program, where nobody else reaps them."""
    script = (
        "import os\n"
        "from test_servers import *\n"
        "from wmtp.sandbox.isolated import kernel\n"
        "kernel.adopt_orphans()\n"
        "for _, execution in execute_all([STALLS] * 3, Limits(wall_seconds=0.3), 1, 'basic'):\n"
        "    assert execution.verdict is Verdict.TIMEOUT\n"
        "assert not descendants(os.getpid(), zombies=True)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=True)
