from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wmtp.loss import linear_cross_entropy_per_token, reference, weighted_linear_cross_entropy

EXACT = {"rtol": 1e-10, "atol": 1e-10, "equal_nan": True}
NOWHERE = (-100, -1, 10**9)


class Rows(NamedTuple):
    hidden: Tensor
    unembedding: Tensor
    targets: Tensor
    weights: Tensor


class Result(NamedTuple):
    loss: Tensor
    ce: Tensor
    grad_hidden: Tensor | None
    grad_unembedding: Tensor | None


def make_rows(n: int, d: int, v: int, *, seed: int = 0, zeros: float = 0.3, dtype=torch.float64) -> Rows:
    """Random rows; a share of the weights is zero, and there the targets are no tokens."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    unembedding = torch.randn(v, d, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, v, (n,), generator=generator)
    weights = torch.rand(n, generator=generator, dtype=torch.float64) * 3 - 0.5
    skipped = torch.rand(n, generator=generator) < zeros
    nowhere = torch.tensor(NOWHERE)[torch.randint(0, len(NOWHERE), (n,), generator=generator)]
    return Rows(
        hidden.requires_grad_(),
        unembedding.requires_grad_(),
        torch.where(skipped, nowhere, targets),
        torch.where(skipped, 0, weights),
    )


def differentiate(
    function: Callable[..., tuple[Tensor, Tensor]], rows: Rows, upstream: float = 1.0
) -> Result:
    hidden, unembedding = (
        x.detach().clone().requires_grad_(x.requires_grad) for x in (rows.hidden, rows.unembedding)
    )
    loss, ce = function(hidden, unembedding, rows.targets, rows.weights)
    assert not ce.requires_grad
    (loss * upstream).backward()
    return Result(loss.detach(), ce, hidden.grad, unembedding.grad)


def assert_same(actual: Result, expected: Result) -> None:
    for name, a, e in zip(Result._fields, actual, expected, strict=True):
        torch.testing.assert_close(a, e, msg=lambda text, name=name: f"{name}: {text}", **EXACT)


def with_chunks(chunk_size: int) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *rows: weighted_linear_cross_entropy(*rows, chunk_size=chunk_size)


@settings(deadline=None, max_examples=150)
@given(
    tokens=st.integers(0, 9),
    heads=st.integers(1, 4),
    d=st.integers(1, 7),
    v=st.integers(1, 12),
    chunk_size=st.integers(1, 40),
    zeros=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    upstream=st.floats(-3, 3),
    seed=st.integers(0, 2**16),
)
def test_equals_the_reference(tokens, heads, d, v, chunk_size, zeros, upstream, seed):
    rows = make_rows(tokens * heads, d, v, seed=seed, zeros=zeros)
    expected = differentiate(reference.weighted_linear_cross_entropy, rows, upstream)
    assert_same(differentiate(with_chunks(chunk_size), rows, upstream), expected)

    kept = rows.weights != 0
    for where in (None, kept) if kept.all() else (kept,):
        ce = linear_cross_entropy_per_token(*rows[:3], where=where, chunk_size=chunk_size)
        torch.testing.assert_close(ce, expected.ce, **EXACT)


class Recomputed(torch.autograd.Function):
    """The loss as a function that can be differentiated again and again, as gradcheck does."""

    @staticmethod
    def forward(ctx, *rows):
        ctx.save_for_backward(*rows)
        return weighted_linear_cross_entropy(*rows, chunk_size=3)[0]

    @staticmethod
    def backward(ctx, upstream):
        rows = Rows(*(x.detach() for x in ctx.saved_tensors))
        inputs = rows.hidden.requires_grad_(), rows.unembedding.requires_grad_()
        with torch.enable_grad():
            loss, _ = weighted_linear_cross_entropy(*rows, chunk_size=3)
        return *torch.autograd.grad(loss, inputs, upstream), None, None


def test_gradcheck():
    assert torch.autograd.gradcheck(Recomputed.apply, tuple(make_rows(7, 3, 5)))


def test_gradients_are_linear_in_the_weights_and_depend_on_them():
    rows = make_rows(10, 4, 6, zeros=0)
    other = torch.rand(10, dtype=torch.float64)
    a, b, both = (
        differentiate(with_chunks(4), rows._replace(weights=w))
        for w in (rows.weights, other, 2 * rows.weights - 5 * other)
    )
    torch.testing.assert_close(both.loss, 2 * a.loss - 5 * b.loss, **EXACT)
    torch.testing.assert_close(both.grad_hidden, 2 * a.grad_hidden - 5 * b.grad_hidden, **EXACT)
    torch.testing.assert_close(
        both.grad_unembedding, 2 * a.grad_unembedding - 5 * b.grad_unembedding, **EXACT
    )

    uniform = differentiate(with_chunks(4), rows._replace(weights=rows.weights.mean().expand(10)))
    for grad, uniform_grad in zip(a[2:], uniform[2:], strict=True):
        assert (grad - uniform_grad).norm() > 0.1 * grad.norm()


def test_rows_of_weight_zero_are_not_read():
    rows = make_rows(20, 4, 6, zeros=0.5)
    skipped = rows.weights == 0
    assert 0 < skipped.sum() < 20
    corrupted = rows._replace(
        hidden=torch.where(skipped[:, None], torch.nan, rows.hidden.detach()).requires_grad_()
    )
    for chunk_size in (3, 64):
        result = differentiate(with_chunks(chunk_size), corrupted)
        assert_same(result, differentiate(with_chunks(chunk_size), rows))
        assert (result.grad_hidden[skipped] == 0).all()
        assert torch.equal(result.ce.isnan(), skipped)


def test_logits_far_apart_do_not_overflow():
    hidden = torch.tensor([[1.0], [-1.0]]).requires_grad_()
    unembedding = torch.tensor([[-1e4], [1e4], [0.0]]).requires_grad_()
    loss, ce = weighted_linear_cross_entropy(
        hidden, unembedding, torch.tensor([0, 0]), torch.tensor([1.0, 1.0])
    )
    loss.backward()
    assert ce.tolist() == [2e4, 0]
    assert hidden.grad.tolist() == [[2e4], [0]]


def test_a_row_that_is_not_finite_shows_in_the_loss():
    rows = make_rows(6, 3, 5, zeros=0)
    corrupted = rows._replace(hidden=rows.hidden.detach().index_fill(0, torch.tensor([2]), torch.nan))
    for given_rows in (corrupted, corrupted._replace(unembedding=rows.unembedding.detach())):
        loss, ce = weighted_linear_cross_entropy(*given_rows)
        assert loss.isnan()
        assert ce.isnan().tolist() == [row == 2 for row in range(6)]


@pytest.mark.parametrize("target", [*NOWHERE, 200])
def test_a_target_outside_the_vocabulary_is_refused_where_the_weight_is_not_zero(target):
    rows = make_rows(4, 3, 200, zeros=0)._replace(targets=torch.tensor([0, target, 1, 2]))
    with pytest.raises(RuntimeError, match="out of bounds"):
        weighted_linear_cross_entropy(*rows)
    with pytest.raises(RuntimeError, match="out of bounds"):
        linear_cross_entropy_per_token(*rows[:3])


@pytest.mark.parametrize(("n", "zeros"), [(0, 0.0), (5, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_rows_give_no_loss_and_zero_gradients(n, zeros, dtype):
    rows = make_rows(n, 3, 7, zeros=zeros, dtype=dtype)
    result = differentiate(weighted_linear_cross_entropy, rows)
    assert result.loss == 0
    assert result.ce.shape == (n,)
    assert result.ce.isnan().all()
    assert torch.equal(result.grad_hidden, torch.zeros(n, 3, dtype=dtype))
    assert torch.equal(result.grad_unembedding, torch.zeros(7, 3, dtype=dtype))


def test_is_differentiated_once():
    rows = make_rows(6, 3, 5)
    loss, _ = weighted_linear_cross_entropy(*rows)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()

    loss, _ = weighted_linear_cross_entropy(*rows)
    (grad,) = torch.autograd.grad(loss * loss, rows.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_computes_only_the_gradients_that_are_needed():
    rows = make_rows(12, 3, 5)
    full = differentiate(weighted_linear_cross_entropy, rows)
    frozen = rows._replace(unembedding=rows.unembedding.detach())
    assert_same(differentiate(weighted_linear_cross_entropy, frozen), full._replace(grad_unembedding=None))
    alone = rows._replace(hidden=rows.hidden.detach())
    assert_same(differentiate(weighted_linear_cross_entropy, alone), full._replace(grad_hidden=None))

    with torch.no_grad():
        loss, ce = weighted_linear_cross_entropy(*rows)
    assert not loss.requires_grad
    torch.testing.assert_close((loss, ce), full[:2], **EXACT)


def test_backward_needs_the_inputs_no_more():
    rows = make_rows(6, 3, 5)
    expected = differentiate(weighted_linear_cross_entropy, rows)
    loss, _ = weighted_linear_cross_entropy(*rows)
    with torch.no_grad():
        rows.unembedding.zero_()
    loss.backward()
    torch.testing.assert_close(rows.hidden.grad, expected.grad_hidden, **EXACT)


def test_strided_inputs():
    rows = make_rows(11, 4, 6, zeros=0.4)
    expected = differentiate(reference.weighted_linear_cross_entropy, rows)
    hidden = rows.hidden.detach().t().contiguous().t().requires_grad_()
    unembedding = rows.unembedding.detach().t().contiguous().t().requires_grad_()
    targets = torch.stack([rows.targets, rows.targets + 1], 1)[:, 0]
    weights = torch.stack([rows.weights, -rows.weights], 1)[:, 0]
    for chunk_size in (3, 64):
        hidden.grad = unembedding.grad = None
        loss, ce = weighted_linear_cross_entropy(hidden, unembedding, targets, weights, chunk_size=chunk_size)
        loss.backward()
        assert_same(Result(loss.detach(), ce, hidden.grad, unembedding.grad), expected)


@pytest.mark.parametrize("compute", [weighted_linear_cross_entropy, reference.weighted_linear_cross_entropy])
def test_heads_and_a_tied_embedding_share_one_gradient(compute):
    """Against the logits written out, so that both implementations are held to it."""
    torch.manual_seed(0)
    b, s, heads, d, v = 2, 5, 3, 4, 7
    ids, targets = torch.randint(0, v, (b, s)), torch.randint(0, v, (b, s, heads))
    weights = torch.rand(b, s, heads, dtype=torch.float64)
    mixers = torch.randn(heads, d, d, dtype=torch.float64)
    tied = torch.randn(v, d, dtype=torch.float64, requires_grad=True)

    def hidden() -> Tensor:
        return torch.einsum("bsd,hde->bshe", torch.nn.functional.embedding(ids, tied), mixers)

    log_probabilities = (hidden() @ tied.t()).log_softmax(-1)
    expected = -(weights * log_probabilities.gather(-1, targets[..., None])[..., 0]).sum()
    (expected_grad,) = torch.autograd.grad(expected, tied)

    loss, _ = compute(hidden().flatten(0, 2), tied, targets.flatten(), weights.flatten())
    (grad,) = torch.autograd.grad(loss, tied)
    torch.testing.assert_close((loss, grad), (expected, expected_grad), **EXACT)
