"""Values and rewards of packed documents to advantages, targets of a value head and averages.

values[b, s] = V(h_s) is the value after reading the token at s. rewards[b, s] is the reward R of the whole document
of position s, the same at each of its positions; it is paid on appending the document's last token. What values and
rewards hold in padding is never read, and nothing passes from one document to another, not even a NaN.
"""

import torch
from torch import Tensor

from wmtp.data.targets import has_next, has_previous, is_last, shift_left


@torch.no_grad()
def discounted_scan(x_bs: Tensor, decay_bs: Tensor) -> Tensor:
    """y[b, s] = x[b, s] + decay[b, s] y[b, s + 1], where y is 0 beyond the row.

    log2(S) steps, each of which doubles how far a position has looked ahead: when that is k, y[s] is what
    x[s..s+k-1] give and decay[s] the product of decay[s..s+k-1]. A decay of 0 cuts: what lies beyond is left out,
    even if it is not finite.

    Args:
        x_bs, decay_bs: [B, S] of one floating dtype.
    Returns:
        [B, S] of that dtype.
    """
    width = 1
    while width < x_bs.shape[1]:
        ahead = torch.nn.functional.pad(x_bs[:, width:], (0, width))
        x_bs = x_bs + (decay_bs * ahead).where(decay_bs != 0, 0.0)
        decay_bs = decay_bs * torch.nn.functional.pad(decay_bs[:, width:], (0, width))
        width *= 2
    return x_bs


@torch.no_grad()
def gae(
    rewards_bs: Tensor, values_bs: Tensor, document_ids_bs: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438): of appending the token at s + 1 in the state at s.

    A[s] = δ[s] + γ λ A[s+1] within the document, with δ[s] = R - V[s] where the token at s + 1 is its last, and
    δ[s] = γ V[s+1] - V[s] before. That is `value_targets` - V.

    Args:
        rewards_bs: [B, S] float, constant within a document.
        values_bs: [B, S] float.
        document_ids_bs: [B, S] int64, from 1; 0 is padding.
        gamma, gae_lambda: γ and λ, in [0, 1].
    Returns:
        [B, S] float, 0 where no token of the same document follows.
    """
    targets_bs = value_targets(rewards_bs, values_bs, document_ids_bs, gamma=gamma, gae_lambda=gae_lambda)
    return (targets_bs - values_bs).where(has_next(document_ids_bs), 0.0)


@torch.no_grad()
def value_targets(
    rewards_bs: Tensor, values_bs: Tensor, document_ids_bs: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """λ-returns, what the values should have been: V + A where a token follows, R at a document's last position.

    G[s] = R at a document's last two positions, and γ ((1 - λ) V[s+1] + λ G[s+1]) before. With γ = λ = 1 every target
    is exactly R.

    Args:
        as of `gae`.
    Returns:
        [B, S] float, 0 in padding.
    """
    inner_bs, last_bs = has_next(document_ids_bs), is_last(document_ids_bs)
    before_last = inner_bs & shift_left(last_bs)
    bootstraps = inner_bs & ~before_last
    next_values_bs = gamma * (1 - gae_lambda) * shift_left(values_bs)
    x_bs = next_values_bs.where(bootstraps, rewards_bs.where(last_bs | before_last, 0.0))
    return discounted_scan(x_bs, gamma * gae_lambda * bootstraps.to(x_bs.dtype))


@torch.no_grad()
def monte_carlo_targets(rewards_bs: Tensor, document_ids_bs: Tensor, *, gamma: float) -> Tensor:
    """γ^n R with n the tokens of the document that are still to come.

    Args:
        rewards_bs: [B, S] float, constant within a document.
        document_ids_bs: [B, S] int64, from 1; 0 is padding.
        gamma: γ, in [0, 1].
    Returns:
        [B, S] float, R at a document's last position, 0 in padding.
    """
    rewards_bs = rewards_bs.where(is_last(document_ids_bs), 0.0)
    return discounted_scan(rewards_bs, gamma * has_next(document_ids_bs).to(rewards_bs.dtype))


@torch.no_grad()
def exponential_average(x_bs: Tensor, document_ids_bs: Tensor, beta: float) -> Tensor:
    """y[s] = β y[s-1] + (1 - β) x[s] along a document, which starts with y = x at its first finite entry.

    Later entries that are not finite leave y as it was; before the first finite one, y is x as it is.

    Args:
        x_bs: [B, S] float.
        document_ids_bs: [B, S] int64, from 1; 0 is padding.
        beta: β, in [0, 1].
    Returns:
        [B, S] of the dtype of x, 0 in padding.
    """
    continues = has_previous(document_ids_bs)
    usable = x_bs.isfinite() & (document_ids_bs > 0)
    seen_bs = _backward_looking_scan(usable.to(x_bs.dtype), continues.to(x_bs.dtype))
    first = usable & (seen_bs == 1)
    inputs_bs = x_bs.where(first, (1 - beta) * x_bs).where(usable, 0.0)
    decay_bs = torch.ones_like(x_bs).masked_fill(usable, beta).masked_fill(~continues, 0.0)
    average_bs = _backward_looking_scan(inputs_bs, decay_bs)
    return average_bs.where(seen_bs > 0, x_bs).where(document_ids_bs > 0, 0.0)


def document_means(x_bs: Tensor, document_ids_bs: Tensor, where_bs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x over the entries of each document that `where` selects; differentiable in x.

    Documents come row by row and from left to right. One of which nothing is selected is left out, so results agree
    in order and number if, and only if, `where` selects from the same documents. x is not read elsewhere.

    Args:
        x_bs: [B, S] float.
        document_ids_bs: [B, S] int64, from 1; 0 is padding.
        where_bs: [B, S] bool; padding is never selected.
    Returns:
        means [documents] of the dtype of x, and counts [documents] int64, none of them 0.
    """
    numbers_bs = (~has_previous(document_ids_bs)).flatten().cumsum(0).view_as(document_ids_bs)
    selected = where_bs & (document_ids_bs > 0)
    _, places, counts = numbers_bs[selected].unique(return_inverse=True, return_counts=True)
    sums = x_bs.new_zeros(len(counts)).index_add(0, places, x_bs[selected])
    return sums / counts, counts


def _backward_looking_scan(x_bs: Tensor, decay_bs: Tensor) -> Tensor:
    """y[b, s] = x[b, s] + decay[b, s] y[b, s - 1], where y is 0 before the row."""
    return discounted_scan(x_bs.flip(1), decay_bs.flip(1)).flip(1)
