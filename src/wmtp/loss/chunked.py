"""The loss with one chunk of logits alive, its gradients computed together with its value.

With p = softmax(logits) and dlogits[n] = w[n] · (p[n] - onehot(targets[n])),

    d loss / d hidden      = dlogits · unembedding
    d loss / d unembedding = dlogitsᵀ · hidden

so a chunk of logits is needed once: the forward pass turns it in place into dlogits and multiplies it into
both gradients, and the backward pass only scales them by the gradient that arrives.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Half-precision logits pass through float32 in a buffer; on a CPU, of a size that stays in the cache.
_CPU_BUFFER_BYTES = 8 * 2**20
# Entropies need a buffer beside the probabilities; on a GPU, of a size that outweighs starting the kernels.
_GPU_BUFFER_BYTES = 64 * 2**20
# Rows of half-precision gradients that pass through float32 at a time.
_GRADIENT_BLOCK_ROWS = 4096


def weighted_linear_cross_entropy(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor, *, chunk_size: int = 512
) -> tuple[Tensor, Tensor]:
    """Σ_n w[n] · CE(unembedding · hidden[n], targets[n]), never with more than a chunk of logits.

    Rows of weight zero cost nothing: their hidden states and targets are not read and get a gradient of zero.

    The dtype of `hidden` is that of the matrix products, also inside `torch.autocast`, which has no effect
    here: the unembedding is cast to it once per call, and its gradient, summed over chunks in float32 (in
    float64 if `hidden` is), comes back in the unembedding's own dtype. For bf16 training with float32 master
    weights, pass bf16 `hidden`. Softmax and log-sum-exp are float32 or float64 whatever the inputs are.

    The gradients are computed now, unless gradients are disabled or no input needs one, and handed over by
    the first backward pass. A second one through the same graph raises RuntimeError, even with
    `retain_graph=True`, and so does differentiating twice.

    Args:
        hidden: [N, D] floating point. Several heads are just more rows.
        unembedding: [V, D] floating point.
        targets: [N] int64, in [0, V) wherever the weight is not zero.
        weights: [N] float32 or float64, without gradient.
        chunk_size: rows whose logits are in memory at a time.
    Returns:
        The scalar loss, float32 (float64 if `hidden` is), differentiable in `hidden` and `unembedding`, and
        CE [N] of the same dtype without gradient, NaN where the weight is zero.
    """
    assert targets.shape == weights.shape == hidden.shape[:1]
    assert not weights.requires_grad
    if torch.is_grad_enabled() and (hidden.requires_grad or unembedding.requires_grad):
        with torch.autocast(hidden.device.type, enabled=False):
            loss, ce = _WeightedLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
                hidden, unembedding, targets, weights, chunk_size
            )
        return loss, ce
    kept = weights != 0
    ce = linear_cross_entropy_per_token(hidden, unembedding, targets, where=kept, chunk_size=chunk_size)
    return _weighted_sum(weights, ce), ce


@torch.no_grad()
def linear_cross_entropy_per_token(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    *,
    where: Tensor | None = None,
    chunk_size: int = 512,
) -> Tensor:
    """CE(unembedding · hidden[n], targets[n]) of every row, without gradient, one chunk of logits at a time.

    Args:
        hidden: [N, D] floating point; its dtype is that of the matrix product.
        unembedding: [V, D] floating point.
        targets: [N] int64, in [0, V) inside `where`.
        where: [N] bool, the rows to compute; all of them if None.
        chunk_size: rows whose logits are in memory at a time.
    Returns:
        [N] float32 (float64 if `hidden` is), NaN outside `where`.
    """
    assert targets.shape == hidden.shape[:1]
    ce = not_computed(hidden)
    for rows, _, logits in chunks(hidden, unembedding.to(hidden.dtype), where, chunk_size):
        ce[rows] = cross_entropy_(logits, targets[rows])
    return ce


class _WeightedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        ce = not_computed(hidden)
        matrix = unembedding.to(hidden.dtype)
        # Gradients are computed for weights of at most 1 and scaled back by the backward pass: weights that
        # contain the denominator of a large batch would underflow in float16.
        weights = weights.to(ce.dtype)
        scale = weights.abs().amax() if len(weights) else weights.new_zeros(())
        needs_hidden, needs_unembedding = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_unembedding = torch.zeros_like(unembedding, dtype=ce.dtype) if needs_unembedding else None
        for rows, hidden_rows, logits in chunks(hidden, matrix, weights != 0, chunk_size):
            ce[rows] = cross_entropy_(logits, targets[rows], weights[rows] / scale)
            if grad_hidden is not None:
                grad_hidden[rows] = logits @ matrix
            if grad_unembedding is not None:
                _add_product_(grad_unembedding, logits, hidden_rows)
        ctx.mark_non_differentiable(ce)
        ctx.gradients = grad_hidden, grad_unembedding
        ctx.scale, ctx.unembedding_dtype = scale, unembedding.dtype
        return _weighted_sum(weights, ce), ce

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradients of weighted_linear_cross_entropy were used up by the first backward pass; "
                "compute the loss again"
            )
        grad_hidden, grad_unembedding = ctx.gradients
        ctx.gradients = None
        scale = ctx.scale * grad_loss
        if grad_hidden is not None:
            for rows in grad_hidden.split(_GRADIENT_BLOCK_ROWS):
                rows.copy_(rows.to(scale.dtype).mul_(scale))
        if grad_unembedding is not None:
            grad_unembedding = grad_unembedding.mul_(scale).to(ctx.unembedding_dtype)
        return grad_hidden, grad_unembedding, None, None, None


def chunks(
    hidden: Tensor, matrix: Tensor, where: Tensor | None, chunk_size: int
) -> Iterator[tuple[slice | Tensor, Tensor, Tensor]]:
    """Goes through the rows inside `where`: what selects a chunk of them, hidden[selected], their logits.

    The logits may be overwritten; they lie in a buffer that the next chunk uses again.
    """
    assert chunk_size > 0
    kept = None if where is None else where.nonzero().squeeze(1)
    count = len(hidden) if kept is None else len(kept)
    buffer = hidden.new_empty(min(chunk_size, count), len(matrix))
    for start in range(0, count, chunk_size):
        stop = min(start + chunk_size, count)
        # A slice is a view; only where rows are missing in between is a chunk of them copied together.
        selected = slice(start, stop) if kept is None or count == len(hidden) else kept[start:stop]
        rows = hidden[selected]
        yield selected, rows, torch.mm(rows, matrix.t(), out=buffer[: stop - start])


def cross_entropy_(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, entropy: Tensor | None = None
) -> Tensor:
    """CE [n] of logits [n, V], which become w · (softmax - onehot) if there are weights [n], else scratch.

    If there is an `entropy` [n], of the dtype of CE, it becomes the softmax's.
    """
    ce = not_computed(logits)
    is_half = ce.dtype != logits.dtype
    block_rows = len(logits)
    if is_half and logits.device.type == "cpu":
        block_rows = min(block_rows, _rows_in(_CPU_BUFFER_BYTES, logits.shape[1] * ce.itemsize))
    buffer = logits.new_empty(block_rows if is_half else 0, logits.shape[1], dtype=ce.dtype)
    for start in range(0, len(logits), block_rows):
        rows = slice(start, start + block_rows)
        block = logits[rows]
        exact = buffer[: len(block)].copy_(block) if is_half else block
        target = torch.arange(len(block), device=logits.device), targets[rows]
        target_logits = exact.gather(1, targets[rows, None]).squeeze(1)  # which refuses negative indices
        largest = exact.amax(1)
        totals = exact.sub_(largest[:, None]).exp_().sum(1)
        log_totals = totals.log()
        ce[rows] = largest - target_logits + log_totals
        if entropy is not None:
            entropy[rows] = log_totals - _x_log_x(exact) / totals
        if weights is not None:
            exact.mul_((weights[rows] / totals)[:, None])
            exact[target] -= weights[rows]
            if is_half:
                block.copy_(exact)
    return ce


def _x_log_x(x: Tensor) -> Tensor:
    """Σ x log x of every row of x [n, V] in [0, 1]: never above 0, and 0 log 0 = 0 to within 1e-35."""
    limit = _CPU_BUFFER_BYTES if x.device.type == "cpu" else _GPU_BUFFER_BYTES
    rows = min(len(x), _rows_in(limit, 2 * x.shape[1] * x.itemsize))
    factors, logs = x.new_empty(2, rows, x.shape[1])
    smallest = torch.finfo(x.dtype).tiny  # with subnormal numbers a product takes several times longer
    sums = []
    for block in x.split(rows):
        factor = torch.clamp(block, min=smallest, out=factors[: len(block)])
        sums.append(torch.log(factor, out=logs[: len(block)]).mul_(factor).sum(1))
    return torch.cat(sums)


def _rows_in(limit_bytes: int, row_bytes: int) -> int:
    return max(1, limit_bytes // row_bytes)


def _add_product_(total: Tensor, dlogits: Tensor, rows: Tensor) -> None:
    """total [V, D] += dlogits [n, V]ᵀ · rows [n, D], where `total` may be more exact than the factors."""
    if total.dtype == rows.dtype:
        total.addmm_(dlogits.t(), rows)
        return
    for start in range(0, len(total), _GRADIENT_BLOCK_ROWS):
        block = slice(start, start + _GRADIENT_BLOCK_ROWS)
        total[block].add_(dlogits[:, block].t() @ rows)


def not_computed(rows: Tensor) -> Tensor:
    """NaN for every row, in the dtype that CE has for such rows."""
    return rows.new_full(rows.shape[:1], torch.nan, dtype=torch.promote_types(rows.dtype, torch.float32))


def _weighted_sum(weights: Tensor, ce: Tensor) -> Tensor:
    """Σ w · CE over the rows whose weight is not zero."""
    return torch.where(weights != 0, weights.to(ce.dtype) * ce, 0).sum()
