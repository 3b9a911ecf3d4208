"""The definition of the loss in plain torch: readable, exact, and with all logits in memory."""

import torch
from torch import Tensor
from torch.nn import functional


def weighted_linear_cross_entropy(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ_n w[n] · CE(unembedding · hidden[n], targets[n]).

    Rows of weight zero do not take part: their hidden states and targets are not read and get a gradient of
    zero. Logits have the dtype of `hidden`; everything after them is float32, or float64 if `hidden` is.

    Args:
        hidden: [N, D] floating point.
        unembedding: [V, D] floating point.
        targets: [N] int64, in [0, V) wherever the weight is not zero.
        weights: [N] float32 or float64, without gradient.
    Returns:
        The scalar loss, differentiable in `hidden` and `unembedding`, and CE [N] without gradient, NaN where
        the weight is zero.
    """
    kept = weights != 0
    ce_kept = _cross_entropy(hidden[kept], unembedding, targets[kept])
    loss = (weights[kept].to(ce_kept.dtype) * ce_kept).sum()
    return loss, _scatter(ce_kept.detach(), kept)


@torch.no_grad()
def linear_cross_entropy_per_token(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, *, where: Tensor | None = None
) -> Tensor:
    """CE(unembedding · hidden[n], targets[n]) of every row, without gradient.

    Args:
        hidden: [N, D] floating point.
        unembedding: [V, D] floating point.
        targets: [N] int64, in [0, V) inside `where`.
        where: [N] bool, the rows to compute; all of them if None.
    Returns:
        [N] float32 (float64 if `hidden` is), NaN outside `where`.
    """
    kept = torch.ones_like(targets, dtype=torch.bool) if where is None else where
    return _scatter(_cross_entropy(hidden[kept], unembedding, targets[kept]), kept)


def _cross_entropy(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden @ unembedding.to(hidden.dtype).t()
        logits = logits.to(torch.promote_types(hidden.dtype, torch.float32))
        return functional.cross_entropy(logits, targets, reduction="none")


def _scatter(values: Tensor, kept: Tensor) -> Tensor:
    return values.new_full(kept.shape, torch.nan).masked_scatter_(kept, values)
