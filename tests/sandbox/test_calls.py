"""Functions are judged call by call, by what they return."""

from typing import Any

import pytest

from wmtp.sandbox import Call, CallProgram, Execution, Limits, Verdict, execute


def judge(code: str, *calls: tuple[tuple[Any, ...], Any], private: Any = (), **options: Any) -> Execution:
    limits = Limits(**options.pop("limits", {}))
    public, hidden = (tuple(Call(*call) for call in kind) for kind in (calls, private))
    return execute(CallProgram("x", code, "f", public, hidden, **options), limits)


def test_public_and_private_calls() -> None:
    add = "def f(x, y): return x + y"
    right = judge(add, ((1, 2), 3), private=[(([1], [2]), [1, 2])])
    assert (right.verdict, right.message, right.public) == (Verdict.PASSED, "", True)
    half = judge(add, ((1, 2), 3), private=[((1, 1), 3)])
    assert (half.verdict, half.public) == (Verdict.FAILED, True)
    assert half.message == "private case 1 of 1: f(1, 1) returned 2, not 3"
    wrong = judge("def f(x, y): return x", ((1, 2), 3), private=[((1, 1), 3)])
    assert (wrong.verdict, wrong.public) == (Verdict.FAILED, False)


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        ("(1, 2)", [1, 2], True),
        ("[(1, 2)]", [[1, 2]], False),  # of the outermost only
        ("1.0", 1, True),
        ("True", 1, True),
        ("0.1 + 0.2", 0.3, False),
        ("'1'", 1, False),
        ("{1: 2}", {"1": 2}, False),
        ("None", None, True),
        ("float('nan')", float("nan"), False),
    ],
)
def test_results(returned: str, expected: Any, same: bool) -> None:
    execution = judge(f"def f(): return {returned}", ((), expected))
    assert execution.verdict is (Verdict.PASSED if same else Verdict.FAILED)


def test_results_that_cannot_be_printed() -> None:
    """Python writes 4,300 digits."""
    assert judge("def f(): return 2**20000", ((), 2**20000)).verdict is Verdict.PASSED
    wrong = judge("def f(): return 2**20000", ((), 3**20000))
    assert wrong.message == "public case 1 of 1: f() returned <int>, not <int>"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def g(x): return x", "the program does not define 'f'"),
        ("f = 3", "TypeError"),
        ("def f(x): raise ValueError('no')", "ValueError: no"),
        ("def f(x): exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "exited with status 0"),
        ("def f(x): return object()", "'object'"),
        ("def f(x) return x", "SyntaxError"),
    ],
)
def test_what_is_no_answer(code: str, message: str) -> None:
    execution = judge(code, ((1,), 1))
    assert execution.verdict is Verdict.FAILED
    assert message in execution.message


@pytest.mark.slow
def test_calls_leave_each_other_nothing_and_have_the_time_for_themselves() -> None:
    code = """
import time
seen = []
def f(x):
    seen.append(x)
    while time.process_time() < x: pass
    return seen
"""
    execution = judge(code, ((0.6,), [0.6]), ((0.5,), [0.5]), ((9,), [9]), limits={"cpu_seconds": 1})
    assert execution.verdict is Verdict.TIMEOUT
    assert execution.message.startswith("public case 3 of 3: used up 1 s of CPU time")


def test_packages() -> None:
    code = "import numpy\ndef f(x): return numpy.array(x).sum().item()"
    assert judge(code, (([1, 2],), 3), packages=("numpy",)).verdict is Verdict.PASSED
    assert judge(code, (([1, 2],), 3)).verdict is Verdict.FAILED
