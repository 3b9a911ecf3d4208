"""pass@k against counting every subset."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.errors import WMTPError
from wmtp.evaluate.passk import n_at_k, pass_at_k


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


def submissions_by_enumeration(n_samples: int, public: int, passed: int, n: int, k: int) -> Fraction:
    """Every draw of k samples and every choice of submissions among those of them that pass the public tests."""
    kinds = [2] * passed + [1] * (public - passed) + [0] * (n_samples - public)
    draws = list(itertools.combinations(kinds, k))
    total = Fraction(0)
    for draw in draws:
        left = [kind for kind in draw if kind]
        choices = list(itertools.combinations(left, min(n, len(left))))
        total += Fraction(sum(2 in choice for choice in choices), len(choices))
    return total / len(draws)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.data())
def test_n_at_k_equals_enumeration(problem: tuple[int, int], data: st.DataObject) -> None:
    samples, public = problem
    passed = data.draw(st.integers(0, public))
    k = data.draw(st.integers(1, samples))
    n = data.draw(st.integers(1, k))
    expected = submissions_by_enumeration(samples, public, passed, n, k)
    assert n_at_k([samples], [public], [passed], n, k).value == float(expected)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_submitting_all_is_pass_at_k_and_filtering_helps(problem: tuple[int, int, int]) -> None:
    samples, passed, k = problem
    every = pass_at_k([samples], [passed], k).value
    assert n_at_k([samples], [samples], [passed], k, k).value == pytest.approx(every, abs=1e-15)
    one = n_at_k([samples], [samples], [passed], 1, k).value
    assert one == pytest.approx(passed / samples)
    assert n_at_k([samples], [passed], [passed], 1, k).value == pytest.approx(every, abs=1e-15)


def test_n_at_k_of_several_problems() -> None:
    estimate = n_at_k([10, 10], [5, 0], [5, 0], 1, 10)
    assert (estimate.value, estimate.stderr) == (0.5, 0.5)
    with pytest.raises(WMTPError, match="pass@10 needs 10 samples"):
        n_at_k([10, 9], [5, 0], [5, 0], 1, 10)
