"""pass@k against counting every subset."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.errors import WMTPError
from wmtp.evaluate.passk import pass_at_k


def by_enumeration(n: int, c: int, k: int) -> Fraction:
    outcomes = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(outcomes, k))
    return Fraction(sum(any(subset) for subset in subsets), len(subsets))


@given(
    st.lists(
        st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=2, max_size=6
    )
)
def test_equals_enumeration(problems: list[tuple[int, int]]) -> None:
    samples, passed = zip(*problems, strict=True)
    for k in range(1, min(samples) + 1):
        values = [by_enumeration(n, c, k) for n, c in problems]
        mean = sum(values, Fraction(0)) / len(values)
        variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / (len(values) - 1)
        estimate = pass_at_k(samples, passed, k)
        assert estimate.value == pytest.approx(float(mean), rel=1e-14, abs=1e-300)
        assert estimate.stderr == pytest.approx(math.sqrt(variance / len(values)), rel=1e-12, abs=1e-15)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_each_value_is_correctly_rounded(problem: tuple[int, int, int]) -> None:
    n, c, k = problem
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k([n], [c], k).value == float(exact)


def test_known_values() -> None:
    assert pass_at_k([10, 10], [10, 0], 1).value == 0.5
    assert pass_at_k([10, 10], [10, 0], 1).stderr == 0.5
    assert pass_at_k([200], [1], 100).value == 0.5
    assert math.isnan(pass_at_k([200], [1], 100).stderr)
    assert pass_at_k([5, 5, 5], [5, 5, 5], 5).stderr == 0.0


def test_too_few_samples() -> None:
    with pytest.raises(WMTPError, match=r"pass@10 .* set evaluate\.samples >= 10"):
        pass_at_k([20, 5], [1, 1], 10)
    with pytest.raises(WMTPError, match="no problems"):
        pass_at_k([], [], 1)
