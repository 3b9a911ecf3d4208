import pytest

from wmtp.experiment.results import Difference, Interval
from wmtp.report.format import (
    listed,
    number,
    number_range,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    shortened,
    visible,
)


def test_shares_and_differences() -> None:
    assert percent(0.605) == "60.5%"
    assert percent_range(Interval(0.6, 0.535, 0.67)) == "53.5 to 67.0%"
    assert points(0.425) == "+42.5"
    assert points(-0.031) == "\u22123.1"
    assert points_range(Difference(0.1, -0.05, 0.25, 0.2)) == "\u22125.0 to +25.0"


def test_what_is_not_there_is_a_dash() -> None:
    assert number(None, 2) == "\u2014"
    assert percent_range(Interval(0.6, None, None)) == "\u2014"
    assert number_range(Interval(0.6, None, None), 3) == "\u2014"


def test_numbers() -> None:
    assert number(1234567.891, 1) == "1,234,567.9"
    assert number(-0.5, 2) == "\u22120.50"
    assert number_range(Interval(0.6, 0.5, 0.7), 3) == "0.500 to 0.700"


@pytest.mark.parametrize(("p", "written"), [(0.0123, "0.012"), (1.0, "1.000"), (0.00099, "< 0.001")])
def test_p_values(p: float, written: str) -> None:
    assert p_value(p) == written


def test_lists() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_controls_are_spelt_out() -> None:
    assert visible("a\tb\n") == "a\tb\n"
    assert visible("\x1b[2Jx\x00\r") == r"\x1b[2Jx\x00\r"
    assert visible("if \u202eevil\u2066") == r"if \u202eevil\u2066"
    assert visible("\ud800é") == r"\ud800é"


def test_long_text_says_how_much_is_missing() -> None:
    assert shortened("x" * 10, 10) == "x" * 10
    assert shortened("x" * 2010, 10) == "x" * 10 + "\n… 2,000 more characters"
