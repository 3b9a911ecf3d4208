"""The definition of the loss in plain torch: readable, exact, and with all logits in memory."""

import torch
from torch import Tensor
from torch.nn import functional

from wmtp.loss.statistics import TokenStatistics


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


@torch.enable_grad()
def linear_token_statistics(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    *,
    where: Tensor | None = None,
    entropy: bool = False,
    gradient_norm: bool = False,
    clean_gradient: Tensor | None = None,
) -> TokenStatistics:
    """Statistics of every token, without gradient; CE always. The gradients are those that autograd finds.

    Args:
        hidden: [N, D] floating point.
        unembedding: [V, D] floating point.
        targets: [N] int64, in [0, V) inside `where`.
        where: [N] bool, the rows to compute; all of them if None.
        entropy: whether to compute it.
        gradient_norm: whether to compute it.
        clean_gradient: [V, D] floating point, what the gradients are compared with; None for no alignment.
    """
    kept = torch.ones_like(targets, dtype=torch.bool) if where is None else where
    hidden, unembedding = hidden.detach()[kept].requires_grad_(), unembedding.detach().requires_grad_()
    ce = _cross_entropy(hidden, unembedding, targets[kept])
    entropies = norms = alignments = None
    if entropy:
        entropies = torch.special.entr(_logits(hidden, unembedding).softmax(1)).sum(1)
    if gradient_norm:
        norms = _gradient(ce.sum(), hidden).norm(dim=1)
    if clean_gradient is not None:
        alignments = torch.zeros_like(ce)
        for n, ce_n in enumerate(ce):
            alignments[n] = (_gradient(ce_n, unembedding) * clean_gradient).sum()
    results = (None if x is None else _scatter(x.detach(), kept) for x in (entropies, norms, alignments))
    return TokenStatistics(_scatter(ce.detach(), kept), *results)


def _cross_entropy(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return functional.cross_entropy(_logits(hidden, unembedding), targets, reduction="none")


def _logits(hidden: Tensor, unembedding: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden @ unembedding.to(hidden.dtype).t()
        return logits.to(torch.promote_types(hidden.dtype, torch.float32))


def _gradient(value: Tensor, of: Tensor) -> Tensor:
    with torch.autocast(of.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(value, of, retain_graph=True)
        return gradient.to(value.dtype)


def _scatter(values: Tensor, kept: Tensor) -> Tensor:
    return values.new_full(kept.shape, torch.nan).masked_scatter_(kept, values)
