"""A verdict says what running the tests against the program says, and why."""

import pytest

from wmtp.sandbox import Execution, Limits, Program, Verdict, execute

F = "def f(*args): return args[0] if len(args) == 1 else list(args)\n"


def judge(
    code: str, *tests: str, setup: str = "", limits: Limits | None = None, inside: bool = False
) -> Execution:
    return execute(Program("x", code, tests, setup, inside), limits or Limits())


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "True",
        "-(10 ** 30)",
        "1.5",
        "float('-inf')",
        "2 + 3j",
        "'ä\\0\\n'",
        "b'\\xff'",
        "[1, [2], (3, None)]",
        "{'a': {1, 2}, (1, 2): frozenset([3])}",
        "''",
        "[]",
    ],
)
def test_values_cross_unchanged(value: str) -> None:
    test = f"value = f({value}); assert value == {value} and type(value) is type({value})"
    execution = judge(F, test, f"assert f(f({value}), key={value}) == ({value}, {value})")
    assert execution.verdict is Verdict.FAILED
    assert execution.message.startswith("test 2 of 2")
    assert judge("def f(x): return x", test).verdict is Verdict.PASSED


def test_keywords_globals_helpers_and_state() -> None:
    code = """
N = [1, 2]
count = 0
def f(a, *, b): return a - b
def inverse(x): return -x
def bump():
    global count
    count += 1
    return count
"""
    tests = (
        "assert f(5, b=3) == 2",
        "assert inverse(f(1, b=3)) == len(N)",
        "assert [bump(), bump()] == [1, 2]",
        "def check(candidate):\n    for x in range(3):\n        assert candidate(x) == -x",
        "check(inverse)",
        "assert list(map(inverse, [1, 2])) == sorted([-2, -1], reverse=True)",
    )
    assert judge(code, *tests).verdict is Verdict.PASSED


def test_types_cross_both_ways() -> None:
    tests = ("assert f(int, [str, None]) == [int, [str, None]]", "assert f({float: set})[float] is set")
    assert judge(F, *tests).verdict is Verdict.PASSED
    drop = "def f(xs, kind): return [x for x in xs if not isinstance(x, kind)]"
    assert judge(drop, "assert f([4, 'a', 7.5], str) == [4, 7.5]").verdict is Verdict.PASSED
    assert judge(F, "assert f(1, int) == [1, float]").verdict is Verdict.FAILED
    assert "of type 'type'" in judge("def f(x): return object", "f(1)").message


def test_modules_of_the_standard_library_are_the_judges_own() -> None:
    code = "import sys, math as m, os\nm.floor = lambda x: 7\ndef f(x): return x"
    tests = ("assert f(sys.getsizeof((1, 2))) == sys.getsizeof((3, 4))", "assert f(m.floor(2.5)) == 2")
    assert judge(code, *tests).verdict is Verdict.PASSED
    assert "the candidate's 'os', a module" in judge(code, "assert os.sep == f('/')").message
    named = "import types\nmath = types.ModuleType('random')\nmath.sqrt = lambda x: 3\ndef f(x): return x"
    assert judge(named, "assert math.sqrt(4) == f(3)").verdict is Verdict.FAILED


def test_setup_runs_before_the_tests() -> None:
    setup = "import math\nlimit = math.floor(f(2.5))"
    assert judge(F, "assert limit == 2", setup=setup).verdict is Verdict.PASSED


def test_standard_mappings_compare_as_dicts() -> None:
    code = "from collections import Counter, defaultdict\ndef f(x): return Counter(x)\n"
    assert judge(code, "assert f('aab') == {'a': 2, 'b': 1}").verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "code",
    [
        "def f(x): return (2 * y for y in x)",
        "def f(x): return map((2).__mul__, x)",
        "def f(x): return range(2, 7, 2)",
        "def f(x): return dict.fromkeys(2 * y for y in x).keys()",
        "from collections import namedtuple\nP = namedtuple('P', 'a b c')\ndef f(x): return P(2, 4, 6)",
        "from enum import IntEnum\nclass E(IntEnum):\n    A = 2\n    B = 4\n    C = 6\ndef f(x): return list(E)",
    ],
)
def test_what_a_plain_process_would_accept(code: str) -> None:
    """Both what is read to its end and what compares as a plain value."""
    assert judge(code, "assert tuple(f([1, 2, 3])) == (2, 4, 6)").verdict is Verdict.PASSED
    exec(code + "\nassert tuple(f([1, 2, 3])) == (2, 4, 6)", {"__name__": "plain"})


@pytest.mark.parametrize("value", ["(y for y in [1])", "range(1, 2)", "{1: 1}.values()", "map(int, [1])"])
def test_an_iterable_is_not_the_list_of_its_values(value: str) -> None:
    assert judge(f"def f(x): return {value}", "assert f(1) == [1]").verdict is Verdict.FAILED
    assert judge(f"def f(x): return {value}", "assert list(f(1)) == [1]").verdict is Verdict.PASSED


def test_message_names_the_first_failing_test_and_the_result() -> None:
    execution = judge("def f(x): return x + 1", "assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 9")
    assert execution.verdict is Verdict.FAILED
    assert execution.message == "test 2 of 3: assert f(2) == 4\nAssertionError; f(2) returned 3"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("def f(x):\n    return x[0]", "f(1) raised TypeError: 'int' object is not subscriptable (line 2)"),
        ("x = 1\nimport nothing_of_the_kind", "running the program raised ModuleNotFoundError"),
        ("def f(x)\n", "SyntaxError"),
        ("def g(x): return x", "the tests use 'f', which the program does not define"),
        ("f = 3", "TypeError: 'int' object is not callable"),
        ("class f:\n    pass", "the candidate's 'f', a class"),
        ("def f(x): return lambda: x", "a value of type 'function'"),
        ("def f(x): return (y for y in [x])", "f(1) returned an iterator"),
        (
            "def f(x):\n    yield x\n    yield 1 // 0",
            "f(1) raised ZeroDivisionError: integer division or modulo by zero (line 3)",
        ),
        ("def f(x):\n    yield x\n    exit()", "f(1) raised SystemExit: None (line 3)"),
        ("def f(x):\n    while True: yield x", "f(1) gave a value larger than"),
        ("def f(x): return (object() for _ in range(3))", "a value of type 'object'"),
        ("import numpy", "ModuleNotFoundError"),
    ],
)
def test_message_says_what_was_wrong(code: str, part: str) -> None:
    execution = judge(code, "assert f(1) == 1")
    assert execution.verdict is Verdict.FAILED
    assert part in execution.message


def test_messages_are_bounded() -> None:
    execution = judge("def f(x): return 'y' * 100_000", "assert f('x' * 100_000) == 'z' * 100_000")
    assert len(execution.message) < 1000


def test_lines_end_as_they_like() -> None:
    assert judge("def f(x):\r\n\treturn x\r\n", "assert f(1) == 1\r\n").verdict is Verdict.PASSED


def test_main_part_of_a_script_does_not_run() -> None:
    assert judge("if __name__ == '__main__':\n    exit()\n" + F, "assert f(1) == 1").verdict is Verdict.PASSED


@pytest.mark.parametrize("inside", [False, True])
def test_the_program_decides_on_its_own_future(inside: bool) -> None:
    code = "def f(x: 1 + 1): pass\ndef annotation(): return f.__annotations__['x']"
    assert judge(code, "assert annotation() == 2", inside=inside).verdict is Verdict.PASSED
    code = f"from __future__ import annotations\n{code}"
    assert judge(code, "assert annotation() == '1 + 1'", inside=inside).verdict is Verdict.PASSED


def test_dataclasses_and_pickles_find_their_module() -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport copy, pickle\n"
        "@dataclass\nclass P:\n    x: int\n"
        "def f(x): return pickle.loads(pickle.dumps(copy.deepcopy(P(x)))).x"
    )
    assert judge(code, "assert f(1) == 1").verdict is Verdict.PASSED


SWALLOWING = [
    "try:\n    f(1)\nexcept Exception:\n    pass",
    "try:\n    f(1)\nexcept BaseException:\n    pass",
    "try:\n    assert f(1) == 1\nfinally:\n    pass",
    "import contextlib\nwith contextlib.suppress(BaseException):\n    f(1)",
    "for _ in range(2):\n    try:\n        assert f(1) == 1\n    except:\n        continue",
]


@pytest.mark.parametrize("test", SWALLOWING)
@pytest.mark.parametrize(
    "code",
    [
        "def f(x): raise ValueError",
        "def f(x): raise SystemExit(0)",
        "import os\ndef f(x): os._exit(0)",
        "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()",
    ],
    ids=["raises", "raises exit", "exits", "always equal"],
)
def test_no_except_in_a_test_saves_a_failing_program(code: str, test: str) -> None:
    execution = judge(code, test)
    assert execution.verdict is Verdict.FAILED
    assert "f(1)" in execution.message or "exited" in execution.message


def test_the_first_failure_is_final_and_named() -> None:
    code = "calls = []\ndef f(x):\n    calls.append(x)\n    raise ValueError(calls)"
    execution = judge(
        code, "for x in (1, 2):\n    try:\n        f(x)\n    except BaseException:\n        pass"
    )
    assert execution.verdict is Verdict.FAILED
    assert execution.message.endswith("f(1) raised ValueError: [1] (line 4)")


def test_builtins_are_the_tests_own() -> None:
    cheat = "def f(x): return [-1]\ndef sorted(x): return 0\ndef len(x): return 0\n"
    assert judge(cheat, "assert sorted(f(1)) == sorted([1])").verdict is Verdict.FAILED
    assert judge(cheat, "assert len(f(1)) == len([1, 2])").verdict is Verdict.FAILED
    assert judge("def sorted(x): return 0", "assert sorted(f(1)) == sorted([1])").verdict is Verdict.FAILED


@pytest.mark.parametrize(
    "code", ["def range(*a): return []", "def zip(*a): return []", "def range(*a): return []\nf = list"]
)
def test_no_builtin_is_the_programs_that_has_nothing_else(code: str) -> None:
    loops = (
        "for i in range(5):\n    assert f(i) == i * i",
        "for a, b in zip([1], [2]):\n    assert f(a) == b",
    )
    for test in loops:
        assert judge(code, test).verdict is Verdict.FAILED


def test_an_exercise_may_be_named_like_a_builtin() -> None:
    def judge_sum(code: str, *tests: str) -> Verdict:
        return execute(Program("x", code, tests, defines=("sum",)), Limits()).verdict

    code = "def sum(a, b): return a * b"
    assert judge_sum(code, "assert sum(2, 5) == 10") is Verdict.PASSED
    assert judge_sum(code, "x = max([sum(2, 5)])\nassert x == 10") is Verdict.PASSED
    assert (
        judge_sum("def sum(a, b): return 0\ndef abs(x): return 0", "assert sum(2, 5) == abs(-10)")
        is Verdict.FAILED
    )
    assert judge_sum("def add(a, b): return a * b", "assert sum([2, 5]) == 7") is Verdict.FAILED
    assert judge(code, "assert sum(2, 5) == 10").verdict is Verdict.ERROR  # Python's own cannot add 2 and 5


@pytest.mark.parametrize("code", ["", "class f: pass", "import socket as f", "f = object()"])
def test_no_except_in_a_test_saves_a_program_without_the_function(code: str) -> None:
    for test in (
        "try:\n    f(1)\n    assert False\nexcept Exception:\n    pass",
        "try:\n    f(1)\nexcept:\n    pass",
    ):
        assert judge(code, test).verdict is Verdict.FAILED


def test_names_that_the_tests_define_are_theirs() -> None:
    code = "def f(x): return x\ndef xrange(x): return []\ndef g(x): return 0"
    old = "try:\n    xrange\nexcept NameError:\n    xrange = range\nassert list(xrange(2)) == [0, 1] and f(1) == 1"
    assert judge(code, old).verdict is Verdict.PASSED
    assert judge(code, "from math import gcd as g\nassert g(4, 6) == 2 == f(2)").verdict is Verdict.PASSED
    assert judge(code, "def check(g):\n    assert g(4) == 4", "check(f)").verdict is Verdict.PASSED
    assert (
        judge(code, "x: int = f(1)\nassert __name__ == 'tests' and [y for y in [x]] == [1]").verdict
        is Verdict.PASSED
    )
    assert judge(code, "assert eval('f(3)') == 3 and globals()['f'](4) == 4").verdict is Verdict.PASSED


def test_globals_are_read_when_they_are_used() -> None:
    code = "x = 5\nitems = []\ndef f(a):\n    global x\n    x = a\n    items.append(a)"
    assert judge(code, "assert x == 5\nf(9)\nassert x == 9 and items == [9]").verdict is Verdict.PASSED
    assert judge(code, "f(9)\nassert x == 5").verdict is Verdict.FAILED


def test_a_program_starts_as_python_would_start_it() -> None:
    assert (
        judge("import sys\ndef f(): return sys.argv", "assert f() == ['solution.py']").verdict
        is Verdict.PASSED
    )
    assert judge("\ufeffdef f(): return 1", "assert f() == 1").verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1\ny = 2\ndef f(x):\n    return eval('1/0')", 4),
        (
            "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass P:\n    x: int\n\n"
            "\ndef f(x):\n    p = P(x)\n    p.x = 1",
            10,
        ),
        ("def g(n):\n    return n and g(n - 1) or 1 / 0\ndef f(x):\n    return g(50)", 2),
    ],
)
def test_the_line_is_one_of_the_program(code: str, line: int) -> None:
    assert judge(code, "f(1)").message.endswith(f"(line {line})")


def test_arguments_are_copies() -> None:
    code = "def f(x):\n    x.append(1)\n    return x"
    assert judge(code, "a = []; assert f(a) == [1] and a == []").verdict is Verdict.PASSED


def test_what_cannot_be_sent_is_a_failure() -> None:
    execution = judge(F + "def g(): return 1", "assert f(g) is not None")
    assert execution.verdict is Verdict.FAILED
    assert "the tests pass a value of type 'function'" in execution.message
    small = Limits(reply_bytes=1000)
    assert "larger than 1000 bytes" in judge("def f(x): return 'x' * 1000", "f(1)", limits=small).message


@pytest.mark.parametrize("ignore", ["", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"])
def test_processor_time_ends_in_timeout(ignore: str) -> None:
    execution = judge(ignore + "while True: pass", "f(1)", limits=Limits(cpu_seconds=0.3, wall_seconds=20))
    assert execution.verdict is Verdict.TIMEOUT
    assert "CPU time" in execution.message
    assert execution.seconds < 15


def test_wall_time_ends_in_timeout() -> None:
    execution = judge("import time\ndef f(x): time.sleep(60)", "f(1)", limits=Limits(wall_seconds=0.5))
    assert execution.verdict is Verdict.TIMEOUT
    assert execution.seconds < 20


def test_a_result_that_stalls_the_tests_ends_in_timeout() -> None:
    execution = judge(
        "def f(x): return 10 ** 9", "for _ in range(f(1)): pass", limits=Limits(wall_seconds=0.5)
    )
    assert execution.verdict is Verdict.TIMEOUT
    assert execution.seconds < 20


def test_a_result_that_bursts_the_tests_is_a_failure() -> None:
    execution = judge("def f(x): return 10 ** 12", "bytearray(f(1))")
    assert execution.verdict is Verdict.FAILED
    assert "MemoryError" in execution.message


def test_tests_that_are_not_python_are_nobodys_failure() -> None:
    execution = judge(F, "assert f(1) ==")
    assert execution.verdict is Verdict.ERROR
    assert "the tests do not compile" in execution.message
