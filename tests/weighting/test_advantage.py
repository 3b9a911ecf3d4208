"""Advantages, targets and averages of packed rows against plain loops over single documents in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from wmtp.weighting.advantage import (
    discounted_scan,
    document_means,
    exponential_average,
    gae,
    monte_carlo_targets,
    value_targets,
)

FACTORS = [0.0, 0.5, 0.95, 1.0]
LAYOUTS = {
    "several to a row, ragged": [[3, 1, 5], [9], [2, 2], [1, 1, 1]],
    "one document fills the row": [[12]],
    "single tokens": [[1], [1, 1]],
    "a row of padding": [[4], []],
    "one long document": [[257], [100, 57, 1, 99]],
}

layouts = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4)
factors = st.sampled_from(FACTORS)
seeds = st.integers(0, 2**31)


class Rows:
    """Documents in float64 packed as laid out; what padding holds is NaN."""

    def __init__(self, layout: list[list[int]], seed: int = 0, padding: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.layout = layout
        self.shape = (len(layout), max(1, max(sum(row) for row in layout)) + padding)
        self.places = [
            (b, slice(sum(row[:i]), sum(row[: i + 1])))
            for b, row in enumerate(layout)
            for i in range(len(row))
        ]
        self.values = [
            torch.randn(length, dtype=torch.float64, generator=generator).tolist()
            for row in layout
            for length in row
        ]
        self.rewards = torch.randn(len(self.values), dtype=torch.float64, generator=generator).tolist()

    @property
    def document_ids(self) -> Tensor:
        numbers = [number for row in self.layout for number in range(1, len(row) + 1)]
        return self.packed([[number] * len(v) for number, v in zip(numbers, self.values, strict=True)]).long()

    @property
    def rewards_bs(self) -> Tensor:
        return self.packed([[r] * len(v) for r, v in zip(self.rewards, self.values, strict=True)], math.nan)

    @property
    def values_bs(self) -> Tensor:
        return self.packed(self.values, math.nan)

    def packed(self, documents: list[list[float]], padding: float = 0.0) -> Tensor:
        out = torch.full(self.shape, padding, dtype=torch.float64)
        for (b, place), document in zip(self.places, documents, strict=True):
            out[b, place] = torch.tensor(document, dtype=torch.float64)
        return out

    def expected(self, loop: Callable[[float, list[float]], list[float]]) -> Tensor:
        return self.packed([loop(r, v) for r, v in zip(self.rewards, self.values, strict=True)])


def loop_gae(reward: float, values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    advantages = [0.0] * len(values)
    for s in reversed(range(len(values) - 1)):
        appends_last = s + 1 == len(values) - 1
        delta = reward * appends_last + gamma * values[s + 1] * (not appends_last) - values[s]
        advantages[s] = delta + gamma * gae_lambda * advantages[s + 1]
    return advantages


def loop_targets(reward: float, values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    advantages = loop_gae(reward, values, gamma, gae_lambda)
    return [a + v for a, v in zip(advantages[:-1], values[:-1], strict=True)] + [reward]


def loop_average(x: list[float], beta: float) -> list[float]:
    averages: list[float] = []
    y: float | None = None
    for entry in x:
        if math.isfinite(entry):
            y = entry if y is None else beta * y + (1 - beta) * entry
        averages.append(entry if y is None else y)
    return averages


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scan_agrees_with_the_recurrence(length, dtype):
    generator = torch.Generator().manual_seed(length)
    x_bs = torch.randn(3, length, generator=generator, dtype=torch.float64).to(dtype)
    decay_bs = (1.5 * torch.rand(3, length, generator=generator, dtype=torch.float64) - 0.5).to(dtype)
    before = x_bs.clone(), decay_bs.clone()
    expected = torch.zeros(3, length + 1, dtype=torch.float64)
    for s in reversed(range(length)):
        expected[:, s] = x_bs[:, s].double() + decay_bs[:, s].double() * expected[:, s + 1]
    actual = discounted_scan(x_bs, decay_bs)
    assert actual.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(actual.double(), expected[:, :-1], rtol=tolerance, atol=tolerance)
    assert torch.equal(x_bs, before[0])
    assert torch.equal(decay_bs, before[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_passes_a_decay_of_zero(bad):
    x_bs = torch.tensor([[1.0, 2.0, 3.0, bad, 4.0, bad, 5.0]])
    decay_bs = torch.tensor([[0.5, 0.5, 0.0, 0.5, 0.0, 0.0, 1.0]])
    expected = torch.tensor([[2.75, 3.5, 3.0, bad, 4.0, bad, 5.0]])
    torch.testing.assert_close(discounted_scan(x_bs, decay_bs), expected, equal_nan=True)


def test_decays_that_underflow_give_no_nan():
    """0.01 to the 4095th is far below the least float32."""
    x_bs, decay_bs = torch.full((1, 4096), 3e38), torch.full((1, 4096), 1e-2)
    assert discounted_scan(x_bs, decay_bs).isfinite().all()
    targets = monte_carlo_targets(torch.ones(1, 4096), torch.ones(1, 4096, dtype=torch.int64), gamma=1e-2)
    assert targets.isfinite().all()
    torch.testing.assert_close(targets[0, -3:], torch.tensor([1e-4, 1e-2, 1.0]))


class CountOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(length: int) -> int:
    ids, x = torch.ones(2, length, dtype=torch.int64), torch.randn(2, length)
    with CountOperations() as counted:
        gae(x, x, ids, gamma=0.9, gae_lambda=0.9)
        exponential_average(x, ids, 0.9)
        monte_carlo_targets(x, ids, gamma=0.9)
        document_means(x, ids, ids > 0)
    return counted.count


def test_cost_in_operations_is_logarithmic_in_the_length():
    per_doubling = operations(16) - operations(8)
    assert 0 < per_doubling <= 4 * 12, "four scans, none of more than a dozen operations a step"
    assert operations(4096) - operations(8) == 9 * per_doubling
    assert operations(2049) == operations(4096)


def test_no_value_is_read_back_from_the_device():
    with FakeTensorMode():
        ids, x = torch.ones(2, 9, dtype=torch.int64), torch.randn(2, 9)
        assert gae(x, x, ids, gamma=0.9, gae_lambda=0.9).shape == (2, 9)
        assert exponential_average(x, ids, 0.9).shape == (2, 9)
        assert monte_carlo_targets(x, ids, gamma=0.9).shape == (2, 9)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("gamma", FACTORS)
@pytest.mark.parametrize("gae_lambda", FACTORS)
def test_agrees_with_the_loops(layout, padding, gamma, gae_lambda):
    rows = Rows(layout, padding=padding)
    arguments = rows.rewards_bs, rows.values_bs, rows.document_ids
    options = {"gamma": gamma, "gae_lambda": gae_lambda}
    assert_close(gae(*arguments, **options), rows.expected(lambda r, v: loop_gae(r, v, **options)))
    assert_close(
        value_targets(*arguments, **options), rows.expected(lambda r, v: loop_targets(r, v, **options))
    )
    assert_close(
        monte_carlo_targets(rows.rewards_bs, rows.document_ids, gamma=gamma),
        rows.expected(lambda r, v: [r * gamma ** (len(v) - 1 - s) for s in range(len(v))]),
    )
    assert_close(
        exponential_average(rows.values_bs, rows.document_ids, gamma),
        rows.packed([loop_average(document, gamma) for document in rows.values]),
    )


def test_by_hand():
    """Documents of three, one and two tokens, and one of padding; γ = 0.5, λ = 0.5."""
    ids = torch.tensor([[1, 1, 1, 2, 3, 3, 0]])
    rewards = torch.tensor([[1.0, 1.0, 1.0, 5.0, -1.0, -1.0, math.nan]])
    values = torch.tensor([[0.2, 0.4, 9.0, 9.0, 0.5, 9.0, math.nan]])
    advantages = torch.tensor([[0.5 * 0.4 - 0.2 + 0.25 * 0.6, 1.0 - 0.4, 0.0, 0.0, -1.5, 0.0, 0.0]])
    targets = torch.tensor([[0.2 + 0.15, 1.0, 1.0, 5.0, -1.0, -1.0, 0.0]])
    options = {"gamma": 0.5, "gae_lambda": 0.5}
    torch.testing.assert_close(gae(rewards, values, ids, **options), advantages)
    torch.testing.assert_close(value_targets(rewards, values, ids, **options), targets)
    torch.testing.assert_close(
        monte_carlo_targets(rewards, ids, gamma=0.5), torch.tensor([[0.25, 0.5, 1.0, 5.0, -0.5, -1.0, 0.0]])
    )


@given(layouts, seeds, st.integers(0, 3), factors, factors)
def test_packing_does_not_matter(layout, seed, padding, gamma, gae_lambda):
    rows = Rows(layout, seed, padding)
    options = {"gamma": gamma, "gae_lambda": gae_lambda}

    def everything(rewards: Tensor, values: Tensor, ids: Tensor) -> Tensor:
        return torch.stack(
            [
                gae(rewards, values, ids, **options),
                value_targets(rewards, values, ids, **options),
                monte_carlo_targets(rewards, ids, gamma=gamma),
                exponential_average(values, ids, gamma),
            ]
        )

    packed = everything(rows.rewards_bs, rows.values_bs, rows.document_ids)
    for (b, place), reward, values in zip(rows.places, rows.rewards, rows.values, strict=True):
        alone = torch.tensor([values], dtype=torch.float64)
        single = everything(torch.full_like(alone, reward), alone, torch.ones_like(alone, dtype=torch.int64))
        assert_close(packed[:, b, place], single[:, 0])


@given(layouts, seeds, st.integers(0, 3), factors)
def test_without_discount_targets_are_the_reward_and_advantages_telescope(layout, seed, padding, beta):
    rows = Rows(layout, seed, padding)
    arguments = rows.rewards_bs, rows.values_bs, rows.document_ids
    everywhere = rows.expected(lambda r, v: [r] * len(v))
    assert torch.equal(value_targets(*arguments, gamma=1.0, gae_lambda=1.0), everywhere)
    assert torch.equal(monte_carlo_targets(rows.rewards_bs, rows.document_ids, gamma=1.0), everywhere)
    telescoped = rows.expected(lambda r, v: [*[r - x for x in v[:-1]], 0.0])
    assert_close(gae(*arguments, gamma=1.0, gae_lambda=1.0), telescoped)


@given(layouts, seeds, st.integers(0, 3), factors)
def test_lambda_zero_is_one_step_temporal_difference(layout, seed, padding, gamma):
    rows = Rows(layout, seed, padding)

    def differences(reward: float, values: list[float]) -> list[float]:
        after = [gamma * value for value in values[1:-1]] + [reward]
        return [n - v for n, v in zip(after, values[:-1], strict=True)] + [0.0] if values[1:] else [0.0]

    td = rows.expected(differences)
    assert_close(gae(rows.rewards_bs, rows.values_bs, rows.document_ids, gamma=gamma, gae_lambda=0.0), td)


@given(layouts, seeds, factors, factors)
def test_targets_are_advantages_plus_values(layout, seed, gamma, gae_lambda):
    rows = Rows(layout, seed)
    arguments = rows.rewards_bs, rows.values_bs, rows.document_ids
    options = {"gamma": gamma, "gae_lambda": gae_lambda}
    has_next = rows.packed([[1.0] * (len(document) - 1) + [0.0] for document in rows.values]).bool()
    difference = value_targets(*arguments, **options) - gae(*arguments, **options)
    assert_close(difference[has_next], rows.values_bs[has_next])


def test_a_value_that_is_not_finite_stays_in_its_document():
    rows = Rows([[4, 4, 4]])
    spoiled = rows.values_bs
    spoiled[0, 6] = math.nan
    options = {"gamma": 0.9, "gae_lambda": 0.9}
    for estimate in (gae, value_targets):
        clean = estimate(rows.rewards_bs, rows.values_bs, rows.document_ids, **options)
        actual = estimate(rows.rewards_bs, spoiled, rows.document_ids, **options)
        assert torch.equal(actual[:, :4], clean[:, :4])
        assert torch.equal(actual[:, 8:], clean[:, 8:])
        assert actual[0, 4:6].isnan().all()


def test_dtype_is_kept_and_nothing_has_a_gradient():
    ids = torch.ones(1, 5, dtype=torch.int64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.randn(1, 5, dtype=dtype, requires_grad=True)
        for result in (
            gae(x, x, ids, gamma=0.9, gae_lambda=0.9),
            value_targets(x, x, ids, gamma=0.9, gae_lambda=0.9),
            monte_carlo_targets(x, ids, gamma=0.9),
            exponential_average(x, ids, 0.9),
        ):
            assert result.dtype == dtype
            assert not result.requires_grad


nonfinite = st.sampled_from([math.nan, math.inf, -math.inf])
entries = st.one_of(st.integers(-64, 64).map(lambda i: i / 8), nonfinite)


@given(st.lists(st.lists(entries, min_size=1, max_size=9), min_size=1, max_size=4), factors)
def test_average_passes_over_what_is_not_finite(documents, beta):
    rows = Rows([[len(document) for document in documents]], padding=2)
    actual = exponential_average(rows.packed(documents, math.nan), rows.document_ids, beta)
    assert_close(actual, rows.packed([loop_average(document, beta) for document in documents]))


def test_average_by_hand():
    x = torch.tensor([[math.nan, 8.0, math.inf, 4.0, 2.0, 7.0, 9.0]])
    ids = torch.tensor([[1, 1, 1, 1, 2, 2, 0]])
    expected = torch.tensor([[math.nan, 8.0, 8.0, 7.0, 2.0, 3.25, 0.0]])
    torch.testing.assert_close(exponential_average(x, ids, 0.75), expected, equal_nan=True)


@given(layouts, seeds, st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0]))
def test_means_agree_with_the_loop_and_so_does_their_gradient(layout, seed, padding, share):
    rows = Rows(layout, seed, padding)
    where = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)) < share
    x = rows.values_bs.requires_grad_()
    means, counts = document_means(x, rows.document_ids, where)
    selections = [x[b, place][where[b, place]] for b, place in rows.places]
    selections = [selection for selection in selections if len(selection)]
    assert counts.tolist() == [len(selection) for selection in selections]
    assert counts.dtype == torch.int64
    assert means.dtype == torch.float64
    expected = torch.stack([s.mean() for s in selections]) if selections else torch.zeros(0).double()
    assert_close(means.detach(), expected.detach())
    if selections:
        cotangent = torch.arange(1.0, len(selections) + 1, dtype=torch.float64)
        actual, wanted = (torch.autograd.grad(m, x, cotangent)[0] for m in (means, expected))
        assert_close(actual, wanted)
        assert actual.isfinite().all()


def test_means_come_row_by_row_and_leave_out_where_nothing_is_selected():
    ids = torch.tensor([[1, 1, 2, 3, 0], [1, 2, 2, 2, 2], [0, 0, 0, 0, 0]])
    x = torch.tensor([[1.0, 3.0, 50.0, 7.0, math.nan], [5.0, 1.0, 2.0, 3.0, math.nan], [math.nan] * 5])
    where = torch.ones(3, 5, dtype=torch.bool)
    where[0, 2] = where[1, 4] = False
    means, counts = document_means(x, ids, where)
    assert means.tolist() == [2.0, 7.0, 5.0, 2.0]
    assert counts.tolist() == [2, 1, 1, 3]
    for empty in (torch.zeros(3, 5, dtype=torch.bool), ids == 0):
        means, counts = document_means(x, ids, empty)
        assert (len(means), len(counts)) == (0, 0)
