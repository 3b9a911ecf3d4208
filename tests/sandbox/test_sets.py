"""A set has the same order on both sides, whatever has happened to it."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox import Limits, Program, Verdict, execute_all
from wmtp.sandbox.isolated.wire import decode, encode

LIMIT = 1 << 22
pairs = st.tuples(st.integers(0, 3), st.text(max_size=1))
elements = st.integers(0, 40) | st.integers() | st.text(max_size=2) | pairs
operations = st.sampled_from(["add", "|", "-", "&", "^", "copy", "frozen"])
steps = st.lists(st.tuples(operations, st.lists(elements, max_size=30)))


def made_by(history: list[tuple[str, list[object]]]) -> set[object] | frozenset[object]:
    made: set[object] | frozenset[object] = set()
    for operation, given_ in history:
        if operation == "add":
            made = set(made) if isinstance(made, frozenset) else made
            for element in given_:
                made.add(element)
        elif operation in ("copy", "frozen"):
            made = set(made) if operation == "copy" else frozenset(made)
        elif operation == "|":
            made = made | set(given_)
        elif operation == "&":
            made = made & set(given_)
        elif operation == "-":
            made = made - set(given_)
        else:
            made = made ^ set(given_)
    return made


@given(steps)
def test_the_order_survives(history: list[tuple[str, list[object]]]) -> None:
    made = made_by(history)
    back = decode(encode(made, LIMIT))
    assert back == made
    assert type(back) is type(made)
    assert isinstance(back, set | frozenset)
    if isinstance(made, set):
        assert list(back) == list(made)


@given(st.sets(st.integers(0, 1000)), st.sets(st.integers(0, 1000)))
def test_the_order_survives_removal(kept: set[int], removed: set[int]) -> None:
    """A table stays as large as it was."""
    made = set(range(1001))
    made -= removed - kept
    for element in set(made) - kept:
        made.discard(element)
    back = decode(encode([made], LIMIT))
    assert isinstance(back, list)
    assert list(back[0]) == list(made)


ORDERS = {
    "literal": ("def f(s): return tuple(s)", "assert f({6, 7, 8, 9, 10, 11}) == tuple({6, 7, 8, 9, 10, 11})"),
    "returned": ("def f(x): return set(x)", "assert list(f([97, 2, 33, 5])) == list(set([97, 2, 33, 5]))"),
    "wrong order": ("def f(s): return tuple(s)", "assert f({6, 7, 8, 9, 10, 11}) == (6, 7, 8, 9, 10, 11)"),
    "right order": ("def f(s): return tuple(s)", "assert f({1, 2, 3, 4, 5}) == (1, 2, 3, 4, 5)"),
    "sieve": (
        "def f(n):\n    s = set(range(2, n))\n"
        "    for p in range(2, n): s -= set(range(2 * p, n, p))\n    return s",
        "assert list(f(100)) == [p for p in range(2, 100) if all(p % q for q in range(2, p))]",
    ),
    "texts": ("def f(x): return set(x)", "assert list(f(['b', 'a', 'cd'])) == list({'b', 'a', 'cd'})"),
    "text order": ("def f(x): return set(x)", "assert list(f(['b', 'a', 'cd'])) == ['b', 'a', 'cd']"),
    "nested": (
        "def f(x): return {1: [frozenset(x)]}",
        "assert list(f([9, 1])[1][0]) == list(frozenset([9, 1]))",
    ),
    "string of a set": ("def f(x): return set(x)", "assert str(f([9, 1, 33])) == '{33, 9, 1}'"),
    "popped": ("def f(x): return set(x)", "assert f([9, 1, 33]).pop() == {9, 1, 33}.pop()"),
    "passed on": (
        "def f(x): return set(x)\ndef g(s): return list(s)",
        "assert g(f([8, 0])) == list(f([8, 0]))",
    ),
}


def test_verdicts_are_those_of_a_plain_process() -> None:
    """One with the same hash seed."""
    programs = [Program(name, code, (test,)) for name, (code, test) in ORDERS.items()]
    here = {programs[i].task_id: e.verdict is Verdict.PASSED for i, e in execute_all(programs, Limits())}
    plainly = {}
    for name, parts in ORDERS.items():
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(parts)],
            env=os.environ | {"PYTHONHASHSEED": "0"},
            stderr=subprocess.DEVNULL,
        )
        plainly[name] = done.returncode == 0
    assert here == plainly
    assert {True, False} == set(plainly.values())


@pytest.mark.parametrize("inside", [False, True])
def test_the_seed_is_not_shown(inside: bool) -> None:
    code = "import os\ndef f(): return os.environ.get('PYTHONHASHSEED')"
    program = Program("x", code, ("assert f() is None",), tests_inside=inside)
    assert [e.verdict for _, e in execute_all([program], Limits())] == [Verdict.PASSED]
