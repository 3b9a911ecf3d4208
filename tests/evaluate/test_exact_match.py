"""Which differences between two programs count."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.evaluate.exact_match import MAX_LENGTH, exact_match

REFERENCE = 'def f(x, n):\n    return [i * 2 for i in x if i > n] + ["a"]\n'


@pytest.mark.parametrize(
    "same",
    [
        REFERENCE.replace("\n", "\r\n"),
        "# twice\n\n" + REFERENCE.replace("i * 2", "(i*2)").replace("]\n", "]  # here\n"),
        REFERENCE.replace('"a"', "'a'"),
        'def f(x,n):\n\t"""Twice."""\n\treturn [i*2 for i in x if i>n]+["a"]',
        '"""A module."""\n' + REFERENCE,
        REFERENCE.replace('"a"', 'u"a"'),
    ],
)
def test_these_are_the_same(same: str) -> None:
    assert exact_match(same, REFERENCE)


@pytest.mark.parametrize(
    "other",
    [
        REFERENCE.replace("i * 2", "2 * i"),
        REFERENCE.replace("i", "j"),
        REFERENCE.replace("2", "2.0"),
        REFERENCE + "print(f([1], 0))\n",
        REFERENCE.replace("def f", "def g"),
        "",
        "def f(:",
        "\0",
        "(" * 5000,
        "-" * 20000 + "1",
        "x" + ".x" * 20000,
        "#" * (MAX_LENGTH + 1) + "\n" + REFERENCE,
    ],
)
def test_these_are_not(other: str) -> None:
    assert not exact_match(other, REFERENCE)


def test_a_string_that_is_no_docstring_counts() -> None:
    assert not exact_match("def f():\n    x = 1\n    'a'\n    return x", "def f():\n    x = 1\n    return x")
    assert exact_match("def f():\n    'a'", "def f():\n    'b'")


def test_a_reference_that_is_no_python_matches_nothing() -> None:
    assert not exact_match("print 1", "print 1")


@given(st.sampled_from([REFERENCE, "import os\nclass A:\n  def b(self): pass\n", "x = 1 if y else {2: [3]}"]))
def test_formatting_again_changes_nothing(code: str) -> None:
    assert exact_match(ast.unparse(ast.parse(code)), code)
    assert exact_match(code, code)
