"""Controls: the very same weights in places that mean nothing.

What a weighting gains over its `shuffled` control comes from where its weights are, and not from how they are
distributed. `matched-random` differs from `shuffled` in that a token keeps its (meaningless) importance whenever it
is seen.
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from wmtp.config import CONTROLS
from wmtp.data.targets import lookahead, shift_left
from wmtp.distributed.world import all_gather_ragged, rank
from wmtp.errors import WMTPError
from wmtp.registry import did_you_mean


@torch.no_grad()
def apply_control(
    name: str,
    weights_bsh: Tensor,
    valid_bsh: Tensor,
    token_keys_bs: Tensor,
    *,
    seed: int,
    step: int,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Hands the weights of the valid entries out anew: the same weights within each head, over all ranks.

    shuffled        a fresh random permutation within each head, at every step.
    matched-random  every token of the data set has one random rank, the same at every step and for every head that
                    predicts it; the sorted weights are handed out in the order of these ranks.

    Entries are ordered by a hash of the target token's key (for `shuffled` also of step and head), so the outcome
    does not depend on how the batch is split. Where a token occurs twice, the entry with the smaller weight goes
    first; occurrences of equal weight keep the order of ranks and rows.

    Args:
        name: one of `CONTROLS`.
        weights_bsh: [B, S, H] finished weights of all micro-batches of this rank.
        valid_bsh: [B, S, H] bool.
        token_keys_bs: [B, S] int64, the place in the tokenised data set of the token at s.
        seed: of the run.
        step: of the optimiser.
        group: the ranks that share the optimiser step; None for a single process.
    Returns:
        [B, S, H] weights, 0 where not valid.
    Raises:
        WMTPError: there is no control of that name.
    """
    if name not in CONTROLS:
        raise WMTPError(f"unknown control {name!r}; {did_you_mean(name, list(CONTROLS))}")
    heads = weights_bsh.shape[-1]
    target_keys_nh = lookahead(shift_left(token_keys_bs), heads).flatten(0, 1)
    if name == "shuffled":
        head_h = torch.arange(heads, device=weights_bsh.device)
        order_nh = _hash(seed, step, head_h, target_keys_nh)
    else:
        order_nh = _hash(seed, target_keys_nh)
    valid_nh = valid_bsh.flatten(0, 1)
    weights_nh = weights_bsh.flatten(0, 1).where(valid_nh, torch.inf)
    order_nh = order_nh.where(valid_nh, torch.iinfo(torch.int64).max)
    all_weights = all_gather_ragged(weights_nh, group)
    dealt_nh = _deal(torch.cat(all_weights), torch.cat(all_gather_ragged(order_nh, group)))
    own_nh: Tensor = dealt_nh.split([len(w) for w in all_weights])[rank(group)]
    return own_nh.where(valid_nh, 0.0).view_as(weights_bsh)


def _deal(weights_nh: Tensor, order_nh: Tensor) -> Tensor:
    """The k-th smallest weight to the entry whose order is k-th smallest, ties in order by weight; per column.

    Invalid entries, of infinite weight and greatest order, stay last in both.
    """
    sorted_weights_nh, by_weight_nh = weights_nh.sort(dim=0)
    by_order_nh = order_nh.gather(0, by_weight_nh).argsort(dim=0, stable=True)
    return torch.empty_like(weights_nh).scatter_(0, by_weight_nh.gather(0, by_order_nh), sorted_weights_nh)


def _hash(*parts: Tensor | int) -> Tensor:
    """A random-looking int64 for every combination of parts, broadcast together."""
    state = torch.zeros((), dtype=torch.int64)
    for part in parts:
        state = _splitmix(state + (_wrap(part) if isinstance(part, int) else part))
    return state


def _splitmix(x: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), a bijection of int64 that wraps around."""
    x = x + _wrap(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _wrap(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _wrap(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A shift of the 64 bits that brings in zeros: `>>` repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _wrap(value: int) -> int:
    """The int64 of the same low 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
