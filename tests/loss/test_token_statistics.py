import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chunked_cost import PRODUCTS, Watch
from torch import Tensor

from wmtp.loss import (
    TokenStatistics,
    chunked,
    linear_cross_entropy_per_token,
    linear_token_statistics,
    reference,
    weighted_linear_cross_entropy,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
BITWISE = {"rtol": 0, "atol": 0, "equal_nan": True}
NAMES = [field.name for field in fields(TokenStatistics)]
NOWHERE = (-100, -1, 10**9)


def make_rows(
    n: int,
    d: int,
    v: int,
    *,
    seed: int = 0,
    missing: float = 0.3,
    dtype: torch.dtype = torch.float64,
    spread: float = 1.0,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """(hidden, unembedding, targets) that need gradients, where, clean_gradient; nonsense outside `where`."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64) * spread
    unembedding = torch.randn(v, d, generator=generator, dtype=torch.float64) / d**0.5
    clean_gradient = torch.randn(v, d, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, v, (n,), generator=generator)
    where = torch.rand(n, generator=generator) >= missing
    nowhere = torch.tensor(NOWHERE)[torch.randint(0, len(NOWHERE), (n,), generator=generator)]
    hidden = torch.where(where[:, None], hidden, torch.nan).to(dtype).requires_grad_()
    rows = [hidden, unembedding.to(dtype).requires_grad_(), torch.where(where, targets, nowhere)]
    return rows, where, clean_gradient.to(dtype)


def everything(rows: list[Tensor], clean_gradient: Tensor, **options: object) -> TokenStatistics:
    return linear_token_statistics(
        *rows, entropy=True, gradient_norm=True, clean_gradient=clean_gradient, **options
    )


def plainly(rows: list[Tensor], clean_gradient: Tensor, **options: object) -> TokenStatistics:
    return reference.linear_token_statistics(
        *rows, entropy=True, gradient_norm=True, clean_gradient=clean_gradient, **options
    )


def assert_same(actual: TokenStatistics, expected: TokenStatistics, **tolerance: object) -> None:
    for name in NAMES:
        torch.testing.assert_close(
            getattr(actual, name),
            getattr(expected, name),
            msg=lambda text, name=name: f"{name}: {text}",
            **tolerance,
        )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@settings(max_examples=100)
@given(
    n=st.integers(0, 20),
    d=st.integers(1, 7),
    v=st.integers(1, 12),
    chunk_size=st.integers(1, 25),
    missing=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    buffer_bytes=st.sampled_from([1, 300, 2**20]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_reference(n, d, v, chunk_size, missing, buffer_bytes, seed):
    rows, where, clean_gradient = make_rows(n, d, v, seed=seed, missing=missing)
    expected = plainly(rows, clean_gradient, where=where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "_CPU_BUFFER_BYTES", buffer_bytes)
        for mask in (None, where) if where.all() else (where,):
            actual = everything(rows, clean_gradient, where=mask, chunk_size=chunk_size)
            assert_same(actual, expected, **EXACT)
    for name in NAMES:
        values = getattr(actual, name)
        assert not values.requires_grad
        assert torch.equal(values.isnan(), ~where)


def test_the_reference_against_the_formulas():
    (hidden, unembedding, targets), _, clean_gradient = make_rows(6, 3, 5, missing=0)
    p = (hidden @ unembedding.t()).softmax(1).detach()
    errors = p - torch.nn.functional.one_hot(targets, 5)
    expected = TokenStatistics(
        -p.log()[range(6), targets],
        -(p * p.log()).sum(1),
        (errors @ unembedding).norm(dim=1).detach(),
        torch.stack([(e.outer(h) * clean_gradient).sum() for e, h in zip(errors, hidden, strict=True)]),
    )
    assert_same(plainly([hidden, unembedding, targets], clean_gradient), expected, **EXACT)


@pytest.mark.parametrize(
    ("dtype", "other_dtype", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 2e-6),
        (torch.float32, torch.bfloat16, 2e-6),
        (torch.bfloat16, torch.bfloat16, 1e-2),
        (torch.bfloat16, torch.float32, 1e-2),
        (torch.float16, torch.float16, 2e-3),
        (torch.float16, torch.float32, 2e-3),
    ],
)
def test_dtypes_and_accuracy(device, dtype, other_dtype, tolerance, monkeypatch):
    """The unembedding and the clean gradient in another dtype than the hidden states."""
    monkeypatch.setattr(chunked, "_CPU_BUFFER_BYTES", 10 * 400 * 4)
    monkeypatch.setattr(chunked, "_GPU_BUFFER_BYTES", 10 * 400 * 4)
    rows, where, clean_gradient = make_rows(200, 32, 400, dtype=torch.bfloat16, spread=3)
    hidden, unembedding, targets = (x.detach().to(device) for x in rows)
    given_rows = [hidden.to(dtype), unembedding.to(other_dtype), targets]
    where, clean_gradient = where.to(device), clean_gradient.to(device, other_dtype)
    actual = everything(given_rows, clean_gradient, where=where, chunk_size=64)
    exact = [hidden.double(), unembedding.double(), targets]
    expected = plainly(exact, clean_gradient.double(), where=where)
    for name in NAMES:
        values = getattr(actual, name)
        assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert relative_error(values[where], getattr(expected, name)[where]) < tolerance, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk_size", [7, 25, 512])
def test_ce_is_that_of_linear_cross_entropy_per_token(dtype, chunk_size, monkeypatch):
    monkeypatch.setattr(chunked, "_CPU_BUFFER_BYTES", 3 * 300 * 4)
    rows, where, clean_gradient = make_rows(100, 16, 300, dtype=dtype)
    expected = linear_cross_entropy_per_token(*rows, where=where, chunk_size=chunk_size)
    for actual in (
        linear_token_statistics(*rows, where=where, chunk_size=chunk_size),
        everything(rows, clean_gradient, where=where, chunk_size=chunk_size),
    ):
        torch.testing.assert_close(actual.ce, expected, **BITWISE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_logits_far_apart_stay_finite(dtype):
    hidden = torch.tensor([[1.0], [-1.0], [1e-6]], dtype=dtype)
    unembedding = torch.tensor([[-1e4], [1e4], [0.0]], dtype=dtype)
    far = 2 * unembedding[1, 0].item()
    actual = everything([hidden, unembedding, torch.tensor([0, 0, 2])], unembedding / 2**12)
    assert actual.ce[:2].tolist() == [far, 0]
    assert actual.entropy[:2].tolist() == pytest.approx([0, 0], abs=1e-30)
    assert actual.gradient_norm[:2].tolist() == [far, 0]
    assert actual.alignment[:2].tolist() == [far / 2**12, 0]
    assert actual.entropy[2] == pytest.approx(math.log(3), rel=1e-3)
    assert all(getattr(actual, name).isfinite().all() for name in NAMES)


@given(
    v=st.integers(1, 300),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 10.0, 1e3]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
def test_entropy_lies_between_0_and_that_of_equal_probabilities(v, spread, dtype, seed):
    rows, _, _ = make_rows(9, 4, v, seed=seed, missing=0, dtype=dtype, spread=spread)
    entropy = linear_token_statistics(*rows, entropy=True, chunk_size=4).entropy
    assert (entropy >= 0).all()
    assert (entropy <= math.log(v) * (1 + 4 * torch.finfo(entropy.dtype).eps)).all()
    if spread == 0:
        torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(v)))


@given(
    target=st.integers(0, 5),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
def test_a_certain_token_moves_nothing(target, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    unembedding = torch.randn(6, 3, generator=generator).to(dtype)
    unembedding[target] = 1e4
    hidden = torch.ones(2, 3, dtype=dtype)
    rows = [hidden, unembedding, torch.tensor([target, (target + 1) % 6])]
    actual = everything(rows, torch.randn(6, 3, generator=generator).to(dtype))
    assert actual.entropy[0].item() == pytest.approx(0, abs=1e-30)
    assert actual.ce[0] == actual.gradient_norm[0] == actual.alignment[0] == 0
    assert actual.gradient_norm[1] > 1e4


@given(a=st.floats(-3, 3), b=st.floats(-3, 3), seed=st.integers(0, 2**16))
def test_alignment_is_linear_in_the_clean_gradient(a, b, seed):
    rows, where, first = make_rows(12, 4, 9, seed=seed)
    _, _, second = make_rows(12, 4, 9, seed=seed + 1)
    of_first, of_second, of_both = (
        linear_token_statistics(*rows, where=where, clean_gradient=g, chunk_size=5).alignment
        for g in (first, second, a * first + b * second)
    )
    torch.testing.assert_close(of_both, a * of_first + b * of_second, **EXACT)


def test_alignment_with_the_sum_of_all_gradients_adds_up_to_its_square():
    rows, _, _ = make_rows(30, 5, 11, missing=0)
    loss, _ = weighted_linear_cross_entropy(*rows, torch.ones(30))
    (total,) = torch.autograd.grad(loss, rows[1])
    alignment = linear_token_statistics(*rows, clean_gradient=total, chunk_size=8).alignment
    torch.testing.assert_close(alignment.sum(), total.square().sum(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_a_tiny_or_huge_clean_gradient_keeps_its_digits(dtype, scale):
    rows, where, clean_gradient = make_rows(12, 4, 9, dtype=dtype)
    expected, actual, none = (
        linear_token_statistics(*rows, where=where, clean_gradient=clean_gradient.float() * s).alignment
        for s in (1, scale, 0)
    )
    torch.testing.assert_close(actual, expected * scale, **BITWISE)
    torch.testing.assert_close(none, torch.where(where, 0.0, torch.nan), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_has_no_effect(dtype):
    rows, where, clean_gradient = make_rows(50, 8, 40, dtype=dtype)
    rows[1] = rows[1].detach().float()
    outside = everything(rows, clean_gradient.float(), where=where, chunk_size=16)
    plainly_outside = plainly(rows, clean_gradient.float(), where=where)
    with torch.autocast("cpu", torch.bfloat16):
        inside = everything(rows, clean_gradient.float(), where=where, chunk_size=16)
        plainly_inside = plainly(rows, clean_gradient.float(), where=where)
    assert_same(inside, outside, **BITWISE)
    assert_same(plainly_inside, plainly_outside, **BITWISE)


@pytest.mark.parametrize("compute", [linear_token_statistics, reference.linear_token_statistics])
@pytest.mark.parametrize("asked", [[], ["entropy"], ["gradient_norm"], ["alignment"], NAMES[1:]])
def test_gives_what_is_asked_for(compute, asked):
    rows, where, clean_gradient = make_rows(10, 3, 5)
    actual = compute(
        *rows,
        where=where,
        entropy="entropy" in asked,
        gradient_norm="gradient_norm" in asked,
        clean_gradient=clean_gradient if "alignment" in asked else None,
    )
    expected = plainly(rows, clean_gradient, where=where)
    for name in NAMES:
        if name in ["ce", *asked]:
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name), **EXACT)
        else:
            assert getattr(actual, name) is None


@pytest.mark.parametrize(
    ("options", "products"),
    [([], 1), (["entropy"], 1), (["norm"], 2), (["clean"], 2), (["norm", "clean"], 3)],
)
def test_costs_a_product_for_each_gradient_and_none_for_missing_rows(options, products):
    rows, _, clean_gradient = make_rows(100, 4, 9, missing=0)
    where = torch.arange(100) % 10 < 3
    with Watch(rows) as seen:
        linear_token_statistics(
            *rows,
            where=where,
            entropy="entropy" in options,
            gradient_norm="norm" in options,
            clean_gradient=clean_gradient if "clean" in options else None,
            chunk_size=10,
        )
    assert sum(seen.operations[name] for name in PRODUCTS) == 3 * products
    assert seen.operations["log"] == 3 * (1 + ("entropy" in options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_never_more_than_a_chunk_of_logits(dtype, missing, monkeypatch):
    n, d, v, chunk_size = 1000, 16, 1000, 128
    buffer = 16 * v * 8
    monkeypatch.setattr(chunked, "_CPU_BUFFER_BYTES", buffer)
    rows, where, clean_gradient = make_rows(n, d, v, missing=missing, dtype=dtype)
    chunk = chunk_size * v * dtype.itemsize
    numbers = 64 * n + 4 * chunk_size * d * 8
    with Watch([*rows, where, clean_gradient]) as seen:
        everything(rows, clean_gradient, where=where, chunk_size=chunk_size)
    assert seen.largest_bytes == chunk
    buffers = 2 if dtype == torch.bfloat16 else 1
    assert seen.peak_bytes < chunk + buffers * buffer + numbers


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_waits_for_the_device_once(dtype, gpu_device):
    """Finding the rows inside `where` is the only place where the processor waits."""
    if gpu_device == "cpu":
        pytest.skip("only a GPU is waited for")
    rows, where, clean_gradient = make_rows(300, 32, 400, dtype=dtype)
    rows, where = [x.detach().to(gpu_device) for x in rows], where.to(gpu_device)
    clean_gradient = clean_gradient.float().to(gpu_device)
    everything(rows, clean_gradient, where=where)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as waits:
            everything(rows, clean_gradient, where=where, chunk_size=32)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1
