"""The cost of the wire is not the candidate's."""

import sys

import pytest

from wmtp.sandbox import Execution, Limits, Program, Verdict, describe, execute


def judge(code: str, test: str, **limits: float) -> Execution:
    return execute(Program("x", code, (test,)), Limits(**limits))  # type: ignore[arg-type]


def test_long_lists() -> None:
    numbers = "a = list(range(10**6))\nassert f(a) == f(a) == a[::-1]"
    execution = judge("def f(x): return x[::-1]", numbers, cpu_seconds=1)
    assert execution.verdict is Verdict.PASSED, execution.message


@pytest.mark.slow
def test_many_calls() -> None:
    """They take longer than the limit on processor time."""
    calls = "for i in range(10**5): assert f(i) == i"
    execution = judge("def f(x): return x", calls, cpu_seconds=1)
    assert execution.verdict is Verdict.PASSED, execution.message
    execution = judge("def f(x): return x", calls, cpu_seconds=1, wall_seconds=3)
    assert execution.verdict in (Verdict.PASSED, Verdict.TIMEOUT)


def test_nested_values() -> None:
    rows = "a = [[i, {str(i): (i, None)}] for i in range(5000)]\nfor _ in range(3): assert f(a) == a"
    execution = judge("def f(x): return x", rows, cpu_seconds=1)
    assert execution.verdict is Verdict.PASSED, execution.message


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import threading\n    threading.Thread(target=burn).start(); burn()",
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN); burn()",
        "return iter(burn, 0)",
    ],
)
@pytest.mark.slow
def test_the_candidates_own_time_is_counted(body: str) -> None:
    code = f"def burn():\n    while True: pass\ndef f(x):\n    {body}"
    execution = judge(code, "f(1)", cpu_seconds=1, wall_seconds=20)
    if "thread" not in (execution.message or ""):
        assert execution.verdict is Verdict.TIMEOUT
        assert "used up 1 s of CPU time" in execution.message
    assert execution.seconds < 15


@pytest.mark.slow
def test_time_is_counted_over_all_calls() -> None:
    code = "import time\ndef f(x):\n    end = time.process_time() + 0.05\n    while time.process_time() < end: pass"
    execution = judge(code, "for i in range(400): f(i)", cpu_seconds=1, wall_seconds=60)
    assert execution.verdict is Verdict.TIMEOUT
    assert execution.seconds < 15


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has kernel isolation")
def test_becoming_another_program_is_refused_where_the_documentation_says_so() -> None:
    code = "import os\ndef f():\n    os.execv('/bin/sh', ['sh', '-c', 'exit 7'])"
    program = Program("x", code, ("f()",))
    assert "exited with status 7" in execute(program, Limits(), "basic").message
    if describe("kernel")["works"]:
        assert "raised PermissionError" in execute(program, Limits(), "kernel").message
