"""Two outputs are compared as the published graders of CodeContests and LiveCodeBench compare them."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox.isolated.outputs import agree, difference, lines_agree


@pytest.mark.parametrize(
    ("token", "right", "same"),
    [
        ("1", "1", True),
        ("1", "1.0", True),
        ("1.00000999", "1", True),
        ("1.0000101", "1", False),
        ("0.00000999", "0", True),
        ("-0.0000101", "0.0", False),
        ("100000.00001", "100000.0", False),  # never relative
        ("100000.000001", "100000", True),
        ("1e9", "1000000007", False),
        ("1e3", "1000", True),
        ("1E3", "1000", True),
        (".5", "0.5", True),
        ("5.", "5", True),
        ("1e-7", "0", True),
        ("1000001", "1000000", False),
        ("10000000000000001", "10000000000000000", False),  # floats do not tell them apart
        ("01", "1", True),
        ("+1", "1", True),
        ("-0", "0", True),
        ("-0.0", "0", True),
        ("-1", "1", False),
        ("+-1", "-1", False),
        ("1_0.0", "10", False),
        ("0x10", "16", False),
        ("1e", "1", False),
        ("١.0", "1", False),
        ("１", "1", False),
        ("NO", "No", True),
        ("YES", "NO", False),
        ("Ä", "ä", False),
        ("nan", "nan", True),
        ("NaN", "nan", True),
        ("nan", "1.0", False),
        ("1.0", "nan", False),
        ("inf", "Infinity", False),
        ("1.0", "inf", False),
        ("1", "1e999", False),
        ("1e-999", "0", True),
        ("inf", "-inf", False),
        ("true", "1", False),
        ("9" * 5000, "9" * 4999 + "8", False),  # beyond what int() reads
        ("0" + "9" * 5000, "9" * 5000, True),
        ("9" * 5000 + ".0", "9" * 5000, False),  # both infinite as floats
    ],
)
def test_tokens(token: str, right: str, same: bool) -> None:
    assert agree(token, right) is same
    assert agree(right, token) is same


DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def exactly(token: str, right: str) -> bool | None:
    """The rule in exact arithmetic; None where rounding may decide."""
    token, right = ("".join(c.lower() if c.isascii() else c for c in each) for each in (token, right))
    if token == right:
        return True
    if not DECIMAL.fullmatch(token) or not DECIMAL.fullmatch(right):
        return False
    apart = abs(Fraction(token) - Fraction(right))
    if INTEGER.fullmatch(token) and INTEGER.fullmatch(right):
        return apart == 0
    rounding = (abs(Fraction(token)) + abs(Fraction(right)) + 1) * Fraction(1, 2**50)
    if abs(apart - Fraction(1, 10**5)) <= rounding:
        return None
    return apart < Fraction(1, 10**5)


NUMBERS = st.from_regex(r"\A[+-]?[0-9]{1,4}(\.[0-9]{0,7})?([eE][+-]?[0-9])?\Z", alphabet="+-.0123456789eE")


@given(NUMBERS, st.one_of(NUMBERS, st.sampled_from(["0.000004", "-0.000009", "0.00001", "0.000011"])))
def test_numbers_against_exact_arithmetic(right: str, error: str) -> None:
    near = f"{float(right) + float(error):.17g}"
    for token, other in ((near, right), (right, error)):
        expected = exactly(token, other)
        assert expected is None or agree(token, other) is expected


@given(st.text("0159+-.eE_ nNaAiIfFyYxÄä١", max_size=6), st.text("0159+-.eE_nNaAiIfFyYxÄä", max_size=6))
def test_any_tokens_against_exact_arithmetic(token: str, right: str) -> None:
    token = token.strip()
    expected = exactly(token, right)
    if expected is not None and not {token.lower(), right.lower()} & {"inf", "infinity"}:
        assert agree(token, right) is expected


@given(st.lists(st.text("ab1.", min_size=1, max_size=3)), st.sampled_from([" ", "\n", " \r\n\t\v "]))
def test_white_space_does_not_count(tokens: list[str], between: str) -> None:
    assert difference(between.join(tokens), " ".join(tokens)) == ""
    assert difference(between.join([*tokens, "x"]), " ".join(tokens)) != ""
    assert difference(between.join(tokens), " ".join([*tokens, "x"])) != ""
    assert difference(between.join(["x", *tokens]), " ".join(["y", *tokens])) == "token 1 is 'x', not 'y'"


@pytest.mark.parametrize(
    ("written", "expected", "same"),
    [
        ("", "", True),
        (" \n", "", True),
        ("0", "", False),
        ("", "0", False),
        ("a\u00a0b", "a b", False),  # only the grader's white space separates
        ("a\x0cb", "a b", False),
        ("a\nb", "a b", True),
    ],
)
def test_whole_outputs_by_token(written: str, expected: str, same: bool) -> None:
    assert (difference(written, expected) == "") is same


@pytest.mark.parametrize(
    ("line", "right", "same"),
    [
        ("1 2", "1 2", True),
        ("1  2", "1 2", True),  # as numbers
        ("1.0", "1", True),
        ("1e3 +2", "1000 2", True),
        ("0.1", "0.10000001", False),
        ("a  b", "a b", False),
        ("a 1.0", "a 1", False),
        ("YES", "Yes", False),
        ("nan", "nan", True),
        ("nan 1", "nan 1.0", False),
        ("50000000000000001", "50000000000000000", False),
        ("1e999999999999999999999", "1", False),
        ("1", "", False),
    ],
)
def test_lines(line: str, right: str, same: bool) -> None:
    assert lines_agree(line, right) is same


@pytest.mark.parametrize(
    ("written", "expected", "message"),
    [
        ("\n 1 \n2\n\n", "1\n2", ""),
        ("1\n\n2", "1\n2", "line 2 is '', not '2'"),
        ("1 2", "1\n2", "line 1 is '1 2', not '1'"),
        ("1", "1\n2", "1 lines instead of 2"),
        ("", "", ""),
        ("x" * 100, "y", f"line 1 is {'x' * 60 + '…'!r}, not 'y'"),
    ],
)
def test_whole_outputs_by_line(written: str, expected: str, message: str) -> None:
    assert difference(written, expected, "lines") == message


@given(st.lists(st.sampled_from(["1", "1.0", "01", "1e0", "2", "x", "NaN"]), min_size=2, max_size=4))
def test_lines_against_decimals(parts: list[str]) -> None:
    half = len(parts) // 2
    ours, theirs = parts[:half], parts[half : 2 * half]
    try:
        same = [Decimal(part) for part in ours] == [Decimal(part) for part in theirs]
    except InvalidOperation:
        same = False
    assert lines_agree(" ".join(ours), " ".join(theirs)) is (ours == theirs or same)
