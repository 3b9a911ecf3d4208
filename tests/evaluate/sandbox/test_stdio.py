"""Scripts are judged by what they write, token by token."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.evaluate.sandbox import Case, Execution, Limits, StdinProgram, Verdict, describe, execute
from wmtp.evaluate.sandbox.isolated.stdio import agree, difference

DOUBLE = "for line in open(0):\n    print(2 * int(line))"


def judge(
    code: str,
    *cases: tuple[str, str],
    private: tuple[tuple[str, str], ...] = (),
    limits: Limits | None = None,
) -> Execution:
    program = StdinProgram(
        "x", code, tuple(Case(*case) for case in cases), tuple(Case(*case) for case in private)
    )
    return execute(program, limits or Limits())


@pytest.mark.parametrize(
    ("token", "right", "same"),
    [
        ("1", "1", True),
        ("1", "1.0", True),
        ("1.00000999", "1", True),
        ("1.0000101", "1", False),
        ("0.00000999", "0", True),
        ("-0.0000101", "0.0", False),
        ("100000.9", "100000.0", True),
        ("100001.1", "100000.0", False),
        ("100000.000001", "100000", True),
        ("100000.9", "100000", False),  # an integer's neighbour is another answer
        ("1e9", "1000000007", False),
        ("1e3", "1000", True),
        (".5", "0.5", True),
        ("1000001", "1000000", False),  # integers are exact
        ("01", "1", False),
        ("+1", "1", False),
        ("1_0.0", "10", False),
        ("١.0", "1", False),
        ("NO", "No", False),
        ("nan", "nan", True),
        ("nan", "1.0", False),
        ("1.0", "nan", False),
        ("1.0", "inf", False),
        ("1", "1e999", False),
        ("inf", "-inf", False),
        ("9" * 5000, "9" * 4999 + "8", False),  # beyond what int() reads
        ("9" * 5000, "9" * 5000, True),
    ],
)
def test_tokens(token: str, right: str, same: bool) -> None:
    assert agree(token, right) is same


@given(st.floats(-1e12, 1e12), st.floats(-3e-5, 3e-5))
def test_numbers_against_exact_arithmetic(right: float, error: float) -> None:
    token = right + error * max(1.0, abs(right))
    exact = abs(Decimal(token) - Decimal(right)) / max(Decimal(1), abs(Decimal(right)))
    if not math.isclose(exact, 1e-5, rel_tol=1e-6):
        assert agree(repr(token), repr(right)) is (exact < Decimal("1e-5"))


@given(st.lists(st.text("ab1.", min_size=1, max_size=3)), st.sampled_from([" ", "\n", " \r\n\t "]))
def test_white_space_does_not_count(tokens: list[str], between: str) -> None:
    assert difference(between.join(tokens), " ".join(tokens)) == ""
    assert difference(between.join([*tokens, "x"]), " ".join(tokens)) != ""
    assert difference(between.join(tokens), " ".join([*tokens, "x"])) != ""
    assert difference(between.join(["x", *tokens]), " ".join(["y", *tokens])) == "token 1 is 'x', not 'y'"


def test_public_and_private_cases() -> None:
    right = judge(DOUBLE, ("1\n2\n", "2\n4\n"), ("7", "14"), private=(("-3", "-6"),))
    assert (right.verdict, right.message, right.public) == (Verdict.PASSED, "", True)
    half = judge(DOUBLE, ("1", "2"), private=(("2", "4"), ("2", "5"), ("3", "7")))
    assert (half.verdict, half.public) == (Verdict.FAILED, True)
    assert half.message == "private case 2 of 3: token 1 is '4', not '5'"
    wrong = judge(DOUBLE, ("1", "2"), ("1", "3 1"), private=(("2", "4"),))
    assert (wrong.verdict, wrong.public) == (Verdict.FAILED, False)
    assert wrong.message == "public case 2 of 2: token 1 is '2', not '3'"
    assert judge(DOUBLE, private=(("1", "2"),)).public is True
    assert "1 tokens instead of 2" in judge(DOUBLE, ("1", "2 2")).message


def test_private_cases_are_skipped_after_a_failure() -> None:
    slow = "import time\nx = int(input())\ntime.sleep(x)\nprint(x)"
    execution = judge(slow, ("0", "1"), private=(("9", "9"),) * 5)
    assert execution.verdict is Verdict.FAILED
    assert execution.seconds < 5


def test_a_script_is_a_script() -> None:
    """Run as `__main__` on a regular file, with exit(), its own arguments and nothing in its names."""
    code = """
import os, stat, sys
assert __name__ == "__main__" and sys.argv[1:] == [] and "main" not in globals()
assert stat.S_ISREG(os.fstat(0).st_mode) and os.fstat(0).st_size == 5
assert sys.stdin.readline() == "ä 1\\n"
sys.stdin.seek(0)
print(sys.stdin.read().split())
assert sys.modules["__main__"].__dict__ is globals()
sys.stderr.write("not counted")
import atexit
atexit.register(print, "atexit")
exit()
"""
    assert judge(code, ("ä 1\n", "['ä', '1'] atexit")).message == ""


def test_the_last_line_of_the_input_ends() -> None:
    count = "import sys\nprint(sys.stdin.read().count(chr(10)))"
    assert judge(count, ("a", "1"), ("a\n", "1"), ("a\nb", "2"), ("", "1")).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(2)\nraise ValueError('no')", "exited with status 1; it last wrote 'ValueError: no (line 2)'"),
        ("print(2)\nexit(3)", "exited with status 3; it last wrote '2'"),
        ("print(2, flush=True)\nimport os\nos._exit(1)", "exited with status 1; it last wrote '2'"),
        ("import ctypes\nctypes.string_at(0)", "was killed by signal 11"),
        ("print(2)\nsys", "NameError: name 'sys' is not defined (line 2)"),
        ("print(", "SyntaxError: '(' was never closed (<string>, line 1) (line 1)"),
        ("print(2)\nx = = 1", "(line 2)"),
        ("def f():\n    exec('1 / 0')\nf()", "ZeroDivisionError: division by zero (line"),
        ("print(2)\nimport os\nos.close(1)", "exited with status"),
        ("", "0 tokens instead of 1"),
        ("print(2)\nimport os\nos._exit(0)", "0 tokens instead of 1"),
    ],
)
def test_only_status_0_passes(code: str, message: str) -> None:
    execution = judge(code, ("1", "2"))
    assert execution.verdict is Verdict.FAILED
    assert message in execution.message


def test_output_is_bounded() -> None:
    execution = judge("while True: print('2' * 10_000)", ("1", "2"))
    assert execution.verdict is Verdict.FAILED
    assert "more than 1048576 bytes" in execution.message
    small = Limits(reply_bytes=1000)
    assert judge("print('x' * 999)", ("1", "x" * 999), limits=small).verdict is Verdict.PASSED
    assert judge("print('x' * 1000)", ("1", "x" * 1000), limits=small).verdict is Verdict.FAILED


def test_input_may_be_larger_than_a_file_may_be() -> None:
    text = "1 " * 1_000_000
    execution = judge("print(sum(map(int, input().split())))", (text, "1000000"), limits=Limits(file_mib=1))
    assert execution.verdict is Verdict.PASSED


def test_bytes_that_are_not_text() -> None:
    assert judge("import os\nos.write(1, b'\\xff')", ("1", "\ufffd")).verdict is Verdict.FAILED
    assert judge("print(input())", ("\udcff", "\udcff")).verdict is Verdict.PASSED


def test_each_case_has_the_processor_time_for_itself() -> None:
    burn = "import time\nwhile time.process_time() < 0.6: pass\nprint(1)"
    limits = Limits(cpu_seconds=1, wall_seconds=30)
    assert judge(burn, *[("", "1")] * 2, limits=limits).verdict is Verdict.PASSED


def test_processor_time_ends_in_timeout() -> None:
    endless = judge("while True: pass", ("", "1"), limits=Limits(cpu_seconds=1, wall_seconds=30))
    assert endless.verdict is Verdict.TIMEOUT
    assert "CPU time" in endless.message


def test_each_case_has_the_wall_clock_time_for_itself() -> None:
    sleepy = "import time\ntime.sleep(float(input()))\nprint(1)"
    execution = judge(
        sleepy, ("1.4", "1"), ("1.4", "1"), private=(("9", "1"),), limits=Limits(wall_seconds=2)
    )
    assert execution.verdict is Verdict.TIMEOUT
    assert execution.public is True
    assert execution.message == "private case 1 of 1: not done before the wall-clock limit"
    assert 4 < execution.seconds < 7


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.stdout.reconfigure(encoding='utf-8')\nprint(1)",
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint(1)",
        "import io, sys\nout = io.BufferedWriter(sys.stdout.buffer.raw)\nout.write(b'1')\nout.flush()",
        "import sys\nprint(int(not sys.stdout.seekable()), file=sys.__stdout__)",
        "import os\nos.write(1, b'1')",
        "print(int(__file__ == 'solution.py'))",
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(int(f(998) == 998))",
    ],
)
def test_standard_output_and_start_are_those_of_a_script(code: str) -> None:
    execution = judge(code, ("", "1"))
    assert execution.verdict is Verdict.PASSED, execution.message


@pytest.mark.parametrize(
    "code",
    [
        "import os, time\nprint(1)\nos.closerange(0, 9)\ntime.sleep(9)",
        "import threading, time\nprint(1, flush=True)\ntime.sleep(9)",
        "import os, signal, time\nprint(1, flush=True)\n"
        "try: os.kill(os.getpid(), signal.SIGSTOP)\nexcept PermissionError: time.sleep(9)",
    ],
)
def test_a_right_answer_is_not_enough_without_an_end(code: str) -> None:
    execution = judge(code, ("", "1"), limits=Limits(wall_seconds=0.7))
    assert execution.verdict is Verdict.TIMEOUT
    assert execution.seconds < 3


def test_cases_leave_each_other_nothing() -> None:
    leave = """
import os
print(sorted(os.listdir(".")))
open("note", "w").close()
try: print(os.listdir(".."))
except OSError: print("closed")
"""
    case = ("", "[] closed")
    if not describe().get("separate_user"):
        pytest.skip("the sandbox cannot change the user")
    assert judge(leave, case, case).verdict is Verdict.PASSED
