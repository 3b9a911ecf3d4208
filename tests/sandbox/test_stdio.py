"""Scripts are judged by what they write."""

from decimal import Decimal, localcontext
from typing import Any

import pytest

from wmtp.errors import WMTPError
from wmtp.sandbox import Case, Execution, Limits, StdinProgram, Verdict, describe, execute

DOUBLE = "for line in open(0):\n    print(2 * int(line))"


def judge(
    code: str,
    *cases: tuple[str, str],
    private: tuple[tuple[str, str], ...] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Execution:
    program = StdinProgram(
        "x", code, tuple(Case(*case) for case in cases), tuple(Case(*case) for case in private), **options
    )
    return execute(program, limits or Limits())


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


def test_output_is_bounded_beyond_what_is_expected() -> None:
    execution = judge("while True: print('2' * 10_000)", ("1", "2"))
    assert execution.verdict is Verdict.FAILED
    assert f"more than {(1 << 24) + 16} bytes" in execution.message
    small = Limits(reply_bytes=1000)
    assert judge("print(1, ' ' * 900)", ("1", "1"), limits=small).verdict is Verdict.PASSED
    assert judge("print(1, ' ' * 1100)", ("1", "1"), limits=small).verdict is Verdict.FAILED


def test_right_output_of_any_size_passes() -> None:
    wordy = "for _ in range(10**5): print('0.000000000000')"  # 1.4 MiB, for 0.2 MiB
    execution = judge(wordy, ("", "0\n" * 10**5), limits=Limits(reply_bytes=1000))
    assert (execution.verdict, execution.message) == (Verdict.PASSED, "")


def test_integers_of_any_length() -> None:
    """Python itself reads and writes 4,300 digits."""
    program = "n = int(input())\nprint(n, 2**20000)"
    with localcontext(prec=7000):
        digits = format(Decimal(2) ** 20000, "f")
    case = ("7" * 5000, f"{'7' * 5000} {digits}")
    assert judge(program, case).verdict is Verdict.PASSED
    wrong = judge(program, (case[0], case[1][:-1] + "0"))
    assert (wrong.verdict, "token 2" in wrong.message) == (Verdict.FAILED, True)


def test_lines_are_compared_where_the_program_says_so() -> None:
    assert judge("print(1.0)", ("", "1"), comparison="lines").verdict is Verdict.PASSED
    assert judge("print(1.000001)", ("", "1")).verdict is Verdict.PASSED
    assert judge("print(1.000001)", ("", "1"), comparison="lines").verdict is Verdict.FAILED


def test_named_files() -> None:
    files = {"input_file": "a.in", "output_file": "a.out"}
    double = "print(2 * int(open('a.in').readline()), file=open('a.out', 'w'))"
    assert judge(double, ("4", "8"), private=(("5", "10"),), **files).verdict is Verdict.PASSED
    assert judge("print(2 * int(input()))", ("4", "8"), **files).verdict is Verdict.PASSED
    both = "open('a.out', 'w').write('8')\nprint(7)"
    assert judge(both, ("4", "8"), **files).verdict is Verdict.PASSED
    assert judge(both, ("4", "7"), **files).message == "public case 1 of 1: token 1 is '8', not '7'"
    assert judge("import os\nprint(os.listdir())", ("", "[]")).verdict is Verdict.PASSED


def test_a_large_file_is_written() -> None:
    many = "open('out', 'w').write('1 ' * 10**6)"  # 2 MiB, where a file has one
    assert judge(many, ("", "1 " * 10**6), output_file="out").verdict is Verdict.PASSED
    assert judge(many, ("", "1 " * 10), output_file="out").verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("os.symlink('/etc/hostname', 'out')", "its output file cannot be read"),
        ("os.mkdir('out')", "its output file is not a regular file"),
        ("os.mkfifo('out')", "its output file is not a regular file"),
    ],
)
def test_what_is_no_output_file(make: str, message: str) -> None:
    execution = judge(f"import os\n{make}", ("", "1"), output_file="out", limits=Limits(wall_seconds=5))
    assert execution.verdict is Verdict.FAILED
    if "Error" not in execution.message:  # some levels have no such call
        assert message in execution.message


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "..", "a/b"])
def test_only_files_of_the_working_directory_have_names(name: str) -> None:
    with pytest.raises(WMTPError, match="should be the name of a file"):
        judge("", ("", ""), input_file=name)


@pytest.mark.parametrize("case", [("\ud800", "1"), ("1", "\ud800")])
def test_a_broken_case_is_nobodys_failure(case: tuple[str, str]) -> None:
    execution = judge("print(1)", case)
    assert execution.verdict is Verdict.ERROR
    assert "public case 1 of 1: its" in execution.message
    assert judge("print(1)", ("1", "2"), private=(case,)).verdict is Verdict.FAILED


@pytest.mark.slow
def test_limits_of_its_own() -> None:
    burn = "import time\nwhile time.process_time() < 1.1: pass\nprint(1)"
    assert judge(burn, ("", "1"), limits=Limits(cpu_seconds=5), cpu_seconds=0.5).verdict is Verdict.TIMEOUT
    memory = "x = bytearray(300 << 20)\nprint(1)"
    assert judge(memory, ("", "1"), memory_mib=200).verdict is Verdict.FAILED
    assert judge(memory, ("", "1"), memory_mib=600).verdict is Verdict.PASSED
    sleep = "import time\ntime.sleep(9)\nprint(1)"
    execution = judge(sleep, ("", "1"), wall_seconds=0.5)
    assert (execution.verdict, execution.seconds < 5) == (Verdict.TIMEOUT, True)


def test_input_may_be_larger_than_a_file_may_be() -> None:
    text = "1 " * 1_000_000
    execution = judge("print(sum(map(int, input().split())))", (text, "1000000"), limits=Limits(file_mib=1))
    assert execution.verdict is Verdict.PASSED


def test_bytes_that_are_not_text() -> None:
    assert judge("import os\nos.write(1, b'\\xff')", ("1", "\ufffd")).verdict is Verdict.FAILED
    assert judge("print(input())", ("\udcff", "\udcff")).verdict is Verdict.PASSED


@pytest.mark.slow
def test_each_case_has_the_processor_time_for_itself() -> None:
    burn = "import time\nwhile time.process_time() < 0.6: pass\nprint(1)"
    limits = Limits(cpu_seconds=1, wall_seconds=30)
    assert judge(burn, *[("", "1")] * 2, limits=limits).verdict is Verdict.PASSED


def test_processor_time_ends_in_timeout() -> None:
    endless = judge("while True: pass", ("", "1"), limits=Limits(cpu_seconds=1, wall_seconds=30))
    assert endless.verdict is Verdict.TIMEOUT
    assert "CPU time" in endless.message


@pytest.mark.slow
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
