import pytest
import torch
from torch import Tensor

from wmtp.loss import chunked, linear_cross_entropy_per_token, reference, weighted_linear_cross_entropy

N, D, V = 300, 32, 400
HALF = [torch.bfloat16, torch.float16]


def make_inputs(dtype: torch.dtype, unembedding_dtype: torch.dtype, device: str) -> list[Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(N, D).to(device, dtype).requires_grad_()
    unembedding = (torch.randn(V, D) / D**0.5).to(dtype).to(device, unembedding_dtype).requires_grad_()
    weights = torch.rand(N) * (torch.rand(N) < 0.8)
    return [hidden, unembedding, torch.randint(0, V, (N,)).to(device), weights.to(device)]


def in_float64(inputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden, unembedding = (x.detach().double().requires_grad_() for x in inputs[:2])
    loss, ce = reference.weighted_linear_cross_entropy(hidden, unembedding, *inputs[2:])
    return loss.detach(), ce, *torch.autograd.grad(loss, [hidden, unembedding])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("dtype", "unembedding_dtype", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-6),
        (torch.float32, torch.bfloat16, 4e-3),
        (torch.bfloat16, torch.bfloat16, 1e-2),
        (torch.bfloat16, torch.float32, 1e-2),
        (torch.float16, torch.float16, 2e-3),
        (torch.float16, torch.float32, 2e-3),
    ],
)
def test_dtypes_and_accuracy(device, dtype, unembedding_dtype, tolerance, monkeypatch):
    monkeypatch.setattr(chunked, "_CPU_BUFFER_BYTES", 10 * V * 4)
    monkeypatch.setattr(chunked, "_GRADIENT_BLOCK_ROWS", 150)
    inputs = make_inputs(dtype, unembedding_dtype, device)
    loss, ce = weighted_linear_cross_entropy(*inputs, chunk_size=64)
    loss.backward()
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == ce.dtype == exact
    assert inputs[0].grad.dtype == dtype
    assert inputs[1].grad.dtype == unembedding_dtype

    computed = (loss.detach(), ce.nan_to_num(), inputs[0].grad, inputs[1].grad)
    expected_loss, expected_ce, *expected_grads = in_float64(inputs)
    for actual, expected in zip(
        computed, (expected_loss, expected_ce.nan_to_num(), *expected_grads), strict=True
    ):
        assert relative_error(actual, expected) < tolerance
    where = inputs[3] != 0
    scored = linear_cross_entropy_per_token(*inputs[:3], where=where, chunk_size=64)
    torch.testing.assert_close(scored, ce, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_cross_entropy_of_half_precision_logits_is_float32(dtype):
    """Only the logits are rounded: CE of a nearly certain token keeps its digits."""
    hidden, unembedding = torch.tensor([[8.0]], dtype=dtype), torch.tensor([[1.0], [0.0], [0.0]]).to(dtype)
    expected = torch.log1p(2 * torch.exp(torch.tensor([-8.0])))
    ce = linear_cross_entropy_per_token(hidden, unembedding, torch.tensor([0]))
    torch.testing.assert_close(ce, expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("unembedding_dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_the_unembedding_is_summed_over_chunks_in_float32(unembedding_dtype):
    inputs = make_inputs(torch.bfloat16, unembedding_dtype, "cpu")
    # The same row again and again: summed in bf16, it would stop growing after 256 of them.
    repeats = 2000
    rows = [inputs[0].detach()[:1].expand(repeats, D), inputs[1], inputs[2][:1].expand(repeats)]
    weights = torch.ones(repeats)
    weighted_linear_cross_entropy(*rows, weights, chunk_size=1)[0].backward()
    (once,) = torch.autograd.grad(
        weighted_linear_cross_entropy(*(x[:1] if x is not inputs[1] else x for x in rows), weights[:1])[0],
        inputs[1],
    )
    assert relative_error(inputs[1].grad, repeats * once.double()) < 4e-3


@pytest.mark.parametrize("dtype", HALF)
def test_tiny_weights_and_a_large_upstream_gradient_keep_their_digits(dtype, device):
    """As with the denominator of a large batch in the weights and the loss scaled for float16."""
    inputs = make_inputs(dtype, torch.float32, device)
    loss, _ = weighted_linear_cross_entropy(*inputs, chunk_size=64)
    grads = torch.autograd.grad(loss, inputs[:2])
    small, _ = weighted_linear_cross_entropy(*inputs[:3], inputs[3] * 2.0**-27, chunk_size=64)
    small_grads = torch.autograd.grad(small * 2.0**27, inputs[:2])
    for grad, small_grad in zip(grads, small_grads, strict=True):
        torch.testing.assert_close(small_grad, grad, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_has_no_effect(dtype):
    inputs = make_inputs(dtype, torch.float32, "cpu")
    outside = weighted_linear_cross_entropy(*inputs, chunk_size=64)
    grads_outside = torch.autograd.grad(outside[0], inputs[:2])
    with torch.autocast("cpu", torch.bfloat16):
        inside = weighted_linear_cross_entropy(*inputs, chunk_size=64)
        grads_inside = torch.autograd.grad(inside[0], inputs[:2])
        scored = linear_cross_entropy_per_token(*inputs[:3], where=inputs[3] != 0, chunk_size=64)
        plain = reference.weighted_linear_cross_entropy(*inputs)
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close((inside, grads_inside), (outside, grads_outside), **exactly)
    torch.testing.assert_close(scored, outside[1], **exactly)
    torch.testing.assert_close(plain, reference.weighted_linear_cross_entropy(*inputs), **exactly)


@pytest.mark.gpu
def test_waits_for_the_device_once(gpu_device):
    """Finding the rows of nonzero weight is the only place where the processor waits."""
    if gpu_device == "cpu":
        pytest.skip("only a GPU is waited for")
    inputs = make_inputs(torch.bfloat16, torch.float32, gpu_device)
    weighted_linear_cross_entropy(*inputs)[0].backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as waits:
            weighted_linear_cross_entropy(*inputs, chunk_size=32)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1
