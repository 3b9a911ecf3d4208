"""Tests that need the candidate's own classes run in its process, and still do not pass by accident."""

import pytest

from wmtp.sandbox import Execution, Limits, Program, Verdict, execute

NODE = "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
TESTS = ("assert f(a) == 1", "assert f(Node(2)) == 2")
SETUP = "a = Node(1)"


def judge(code: str, limits: Limits | None = None, tests: tuple[str, ...] = TESTS) -> Execution:
    return execute(Program("x", code, tests, SETUP, tests_inside=True), limits or Limits())


def test_the_candidates_classes_are_there() -> None:
    execution = judge(NODE + "def f(node): return node.v")
    assert execution.verdict is Verdict.PASSED
    assert execution.message == ""
    assert execution.inside is True
    assert execute(Program("x", "def f(): return 1", ("assert f() == 1",)), Limits()).inside is False


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(node): return 1", "test 2 of 2: assert f(Node(2)) == 2\nAssertionError"),
        ("def f(node): raise ValueError('no')", "test 1 of 2: assert f(a) == 1\nValueError: no"),
        ("def f(node): raise SystemExit(0)", "test 1 of 2: assert f(a) == 1\nSystemExit: 0"),
        ("x = Node(1", "running the program raised SyntaxError"),
        ("del Node", "NameError: name 'Node' is not defined"),
    ],
)
def test_messages(code: str, message: str) -> None:
    execution = judge(NODE + code)
    assert execution.verdict is Verdict.FAILED
    assert message in execution.message
    assert execution.inside is True


HOSTILE = {
    "exit": "import sys\ndef f(node): sys.exit(0)",
    "os._exit": "import os\ndef f(node): os._exit(0)",
    "exit at once": "raise SystemExit",
    "os._exit at once": "import os; os._exit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(node): raise SystemExit",
    "raises": "def f(node): raise BaseException",
    "prints": "print('passed', flush=True)\ndef f(node): return print(('tested', 'passed'), flush=True)",
    "patched AssertionError": "import builtins\nbuiltins.AssertionError = None\ndef f(node): return -1",
    "says so without the token": """
import sys
wire = sys.modules["isolated.wire"]
genuine = wire.encode
wire.encode = lambda value, *rest: genuine(("tested", "0" * 32), 1 << 20)
def f(node): return -1
""",
    "writes it early": """
import os, sys
wire, channel = sys.modules["isolated.wire"], sys.modules["isolated.channel"]
said = channel.frame(wire.encode(("defined",), 99)) + channel.frame(wire.encode(("tested", ""), 99))
for fd in range(3, 20):
    try: os.write(fd, said)
    except OSError: pass
os._exit(0)
""",
    "malformed": """
import sys
wire = sys.modules["isolated.wire"]
genuine = wire.encode
def f(node): wire.encode = lambda value, *rest: genuine(("raised", -1, "", "", 0), 1 << 20)
""",
    "a position beyond the tests": """
import sys
wire = sys.modules["isolated.wire"]
genuine = wire.encode
def f(node): wire.encode = lambda value, *rest: genuine(("raised", 99, "", "", 0), 1 << 20)
""",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_ending_early_is_not_passing(name: str) -> None:
    execution = judge(NODE + HOSTILE[name])
    assert execution.verdict is Verdict.FAILED
    assert execution.message


def test_an_empty_error_is_an_error() -> None:
    nameless = "E = type('', (Exception,), {'__str__': lambda self: ''})\ndef f(node): raise E\n"
    assert judge(NODE + nameless).verdict is Verdict.FAILED


def test_time_is_limited() -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=0.7)
    assert judge(NODE + "import time\ndef f(node): time.sleep(9)", limits).verdict is Verdict.TIMEOUT


def test_tests_that_are_not_python_are_nobodys_failure() -> None:
    execution = judge(NODE, tests=("assert (",))
    assert execution.verdict is Verdict.ERROR
    assert "the tests do not compile" in execution.message


def test_a_program_that_means_to_can_forge_it() -> None:
    """What the documentation says of this way of judging is so."""
    forged = """
import sys
def f(node):
    frame = sys._getframe()
    while "token" not in frame.f_locals: frame = frame.f_back
    wire = sys.modules["isolated.wire"]
    genuine, token = wire.encode, frame.f_locals["token"]
    wire.encode = lambda value, *rest: genuine(("tested", token), 1 << 20)
"""
    assert judge(NODE + forged).verdict is Verdict.PASSED
