"""Scores to weights: the one place that normalises.

Statistics are global: they run over all entries of the optimiser step, on all ranks of the group, so that the
weights do not depend on how a batch is split. Nothing here waits for the device (no value is read back), and the
number of collectives is fixed.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

from wmtp.config import WeightConfig
from wmtp.data.targets import lookahead
from wmtp.distributed.world import all_reduce

LOG_RANGE = 700.0
"""Unscaled weights below exp(-LOG_RANGE) times the greatest are raised to it; exp(±700) is still a float64."""

SCALE_WAYS, SCALE_ROUNDS = 256, 6
"""The scale is found to LOG_RANGE / 256**6 = 2.5e-12 of itself, by one collective a round."""

RADIX_SORT_FROM = 32768
"""Fewer integers are padded to this many, because torch sorts so many by radix, five times faster, on a CPU."""

INT32 = torch.iinfo(torch.int32)


@torch.no_grad()
def expand(token_scores_bs: Tensor, heads: int, decay: float) -> Tensor:
    """Scores of tokens to scores of (position, head): scores[b,s,h] = token_scores[b,s+h] exp(-decay h).

    `valid` decides where documents end; what stands beyond one is never used.

    Args:
        token_scores_bs: [B, S] float32, entry [b, s] is the importance of the token at s + 1.
        heads: H.
        decay: how fast farther tokens lose importance, per head.
    Returns:
        [B, S, H] float32.
    """
    h = torch.arange(heads, device=token_scores_bs.device)
    return lookahead(token_scores_bs.float(), heads) * torch.exp(-decay * h)


@torch.no_grad()
def normalise(
    scores: Tensor, valid: Tensor, config: WeightConfig, group: ProcessGroup | None = None
) -> Tensor:
    """Weights with mean 1 over the valid entries of all ranks; 0 elsewhere.

    With z = (s - mean(s)) / std(s) over the N entries that are valid and finite:

    soft       w = clip(c u, ε, W_max) with u = exp(z / T), the scale c such that mean(w) = 1. Bounds and mean
               both hold: they are solved for together.
    emphasis   the same with u = max(z, 0) 1(s > q) + α, where floor(top_p N) entries exceed the quantile q (fewer
               if there are ties). Standardised, so that adding a constant to the scores changes nothing.
    proportional  the same with u = max(s, 0), for scores that are weights up to a factor.
    skip       w = 1 / top_p for the top_p N entries with the highest scores and 0 for the others. Entries that tie
               at the threshold share what is left of top_p N equally, so the mean is exactly 1; ε and W_max
               play no part.

    Without a mode it is soft. Finally w <- (1 - λ) + λ w. Equal scores give w = 1. A score that is not finite gives
    w = 1 and enters no statistic.

    Args:
        scores: of any shape, taken as float32; not read where not valid.
        valid: bool, same shape. A rank, or all of them, may have no valid entry.
        config: mode, T, top_p, α, ε, W_max, λ.
        group: the ranks that share the optimiser step; None for a single process.
    Returns:
        float32 weights, same shape.
    """
    assert scores.shape == valid.shape
    scores = scores.float()
    entries = _Entries.of(scores, valid & scores.isfinite(), group)
    weights = _skip(entries, config.top_p) if config.mode == "skip" else _scaled(entries, config)
    mixed = (1.0 - config.lambda_) + config.lambda_ * weights
    return mixed.float().where(entries.finite, valid.float())


@torch.no_grad()
def weight_statistics(weights: Tensor, valid: Tensor, group: ProcessGroup | None = None) -> dict[str, Tensor]:
    """What to report of a step's weights, over the valid entries of all ranks.

    Args:
        weights, valid: as in `normalise`, of the same shape.
        group: the ranks that share the optimiser step; None for a single process.
    Returns:
        float32 scalars, all 0 if no entry is valid. mean; entropy: -Σ p log p / log N with p = w / Σ w, 1 when the
        weights are equal; effective: (Σ w)² / (N Σ w²), Kish's effective sample size as a share of N.
    """
    w = weights.double().where(valid, 0.0)
    local = torch.stack([valid.sum().double(), w.sum(), w.square().sum(), torch.xlogy(w, w).sum()])
    count, total, squares, w_log_w = all_reduce(local, group).unbind()
    entropy = (total.log() - w_log_w / total) / count.log()
    statistics = {
        "mean": total / count,
        "entropy": entropy.where(count > 1, 1.0),
        "effective": total.square() / (count * squares),
    }
    return {name: value.where(count > 0, 0.0).float() for name, value in statistics.items()}


@dataclass(frozen=True)
class _Entries:
    """Scores with what is needed to rank them.

    Attributes:
        scores: float64, 0 where not finite.
        finite: where the entry is valid and its score finite.
        keys: int32 that order as the scores do, equal for equal scores; the greatest int32, which belongs to no
            finite float, where not finite. (Integers also sort several times faster than floats.)
        sorted_keys, order: of this rank, ascending; behind the sorted keys stands what they were padded with.
        count, total: int64 scalars, finite entries of this rank and of all.
    """

    scores: Tensor
    finite: Tensor
    keys: Tensor
    sorted_keys: Tensor
    order: Tensor
    count: Tensor
    total: Tensor
    group: ProcessGroup | None

    @classmethod
    def of(cls, scores: Tensor, finite: Tensor, group: ProcessGroup | None) -> "_Entries":
        bits = (scores + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
        keys = _flip_negative(bits).where(finite, INT32.max)
        padding = max(0, RADIX_SORT_FROM - keys.numel())
        padded_keys = torch.nn.functional.pad(keys.flatten(), (0, padding), value=INT32.max)
        sorted_keys, order = padded_keys.sort(stable=True)
        count = finite.sum()
        scores = scores.where(finite, 0.0).double()
        return cls(
            scores, finite, keys, sorted_keys, order[: keys.numel()], count, all_reduce(count, group), group
        )

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Maximum, mean and population standard deviation over all ranks.

        The last is infinite, so that every z is 0, where all scores are equal. That is seen exactly: a float64
        holds the sum of 2**29 equal float32 scores without rounding.
        """
        last_key = self.sorted_keys[(self.count - 1)[None]]
        own_maximum = _flip_negative(last_key).view(torch.float32).double().where(self.count > 0, -torch.inf)
        maximum = all_reduce(own_maximum, self.group, ReduceOp.MAX)[0]
        total = self.total.clamp(min=1)
        mean = all_reduce(self.scores.sum(), self.group) / total
        squares = (self.scores - mean).square_().mul_(self.finite).sum()
        std = (all_reduce(squares, self.group) / total).sqrt()
        return maximum, mean, std.where(std > 0, torch.inf)

    def kth_largest(self, rank: Tensor) -> Tensor:
        """The key of the rank-th largest score (from 1) over all ranks; below every key if there are fewer.

        Exact: a search in int32 that fixes eight bits a round, by one collective each.
        """
        base = torch.full_like(rank, INT32.min)
        steps = torch.arange(256, device=rank.device)
        for shift in (24, 16, 8, 0):
            candidates = base + (steps << shift)
            at_least = self.count - torch.searchsorted(self.sorted_keys, candidates.int())
            index = (all_reduce(at_least, self.group) >= rank).sum() - 1
            base = base + (index.clamp(min=0) << shift)
        return base


def _flip_negative(bits: Tensor) -> Tensor:
    """The bits of float32 numbers to int32 that order as they do, and back."""
    return bits ^ ((bits >> 31) & INT32.max)


def _skip(entries: _Entries, top_p: float) -> Tensor:
    kept = _fraction_of(entries.total, top_p)
    threshold = entries.kth_largest(kept.ceil().long())
    above = entries.finite & (entries.keys > threshold)
    tied = entries.keys == threshold
    above_count, tied_count = all_reduce(torch.stack([above.sum(), tied.sum()]), entries.group).unbind()
    tied_share = (kept - above_count) / tied_count
    return (above.double() + tied_share * tied) / top_p


def _fraction_of(count: Tensor, fraction: float) -> Tensor:
    """fraction · count, an integer where only rounding keeps it from being one (0.07 · 100)."""
    product = count.double() * fraction
    nearest = product.round()
    return nearest.where((product - nearest).abs() <= 1e-12 * product, product)


def _scaled(entries: _Entries, config: WeightConfig) -> Tensor:
    """clip(c u, ε, W_max), everything in logarithms: log u lies in [-LOG_RANGE, 0]."""
    lower, upper = _representable_bounds(config.epsilon, config.max_weight)
    if config.mode == "proportional":
        log_u = _log_proportional(entries)
    else:
        log_u = _log_emphasis(entries, config) if config.mode == "emphasis" else _log_soft(entries, config)
    log_u.clamp_(min=-LOG_RANGE)
    return (log_u + _log_scale(entries, log_u, lower, upper)).exp_().clamp_(lower, upper)


def _log_soft(entries: _Entries, config: WeightConfig) -> Tensor:
    """log u of u = exp((z - max z) / T)."""
    maximum, _, std = entries.moments()
    return (entries.scores - maximum).div_(std).div_(config.temperature)


def _log_emphasis(entries: _Entries, config: WeightConfig) -> Tensor:
    """log u of u = (max(z, 0) 1(s > q) + α) / (max z + α)."""
    maximum, mean, std = entries.moments()
    next_rank = _fraction_of(entries.total, config.top_p).floor().long() + 1
    above = entries.keys > entries.kth_largest(next_rank)
    z = (entries.scores - mean).div_(std)
    greatest = (maximum - mean) / std
    return z.clamp_(min=0.0).mul_(above).add_(config.alpha).log_() - (greatest + config.alpha).log()


def _log_proportional(entries: _Entries) -> Tensor:
    """log u of u = max(s, 0) / max s; equal where no score is above 0."""
    maximum, _, _ = entries.moments()
    return (entries.scores.clamp(min=0.0) / maximum).log_().where(maximum > 0, 0.0)


def _representable_bounds(lower: float, upper: float) -> tuple[float, float]:
    """The nearest float32 inside the interval, so that rounding a weight to float32 cannot leave it."""
    low, high = np.float32(lower), np.float32(min(upper, torch.finfo(torch.float32).max))
    if float(low) < lower:
        low = np.nextafter(low, np.float32(1))
    if float(high) > upper:
        high = np.nextafter(high, np.float32(1))
    return float(low), float(high)


def _log_scale(entries: _Entries, log_u: Tensor, lower: float, upper: float) -> Tensor:
    """log c with Σ (clip(c u, lower, upper) - 1) = 0 over all ranks.

    The sum rises with c, and lower <= 1 <= upper puts the solution between 1 / max u and 1 / min u, so inside
    [0, LOG_RANGE]. Each round divides the bracket into SCALE_WAYS parts and keeps the one where the sign changes:
    with u sorted, and its partial sums, the sum at a candidate c costs two binary searches.
    """
    sorted_log_u = log_u.where(entries.finite, torch.inf).flatten()[entries.order]
    partial_sums = torch.nn.functional.pad(sorted_log_u.exp().cumsum_(0), (1, 0))
    log_lower = math.log(lower) if lower > 0 else -math.inf
    parts = torch.arange(1, SCALE_WAYS, dtype=torch.float64, device=log_u.device)
    log_c = torch.zeros((), dtype=torch.float64, device=log_u.device)
    width = LOG_RANGE
    for _ in range(SCALE_ROUNDS):
        width /= SCALE_WAYS
        candidates = log_c + width * parts
        at_lower = torch.searchsorted(sorted_log_u, log_lower - candidates)
        below_upper = torch.searchsorted(sorted_log_u, math.log(upper) - candidates, right=True)
        between = candidates.exp() * (partial_sums[below_upper] - partial_sums[at_lower])
        at_upper = entries.count - below_upper
        clipped = lower * at_lower.double() + between + upper * at_upper.double()
        surplus = all_reduce(clipped - entries.count, entries.group)
        log_c = log_c + width * (surplus < 0).sum(dtype=torch.float64)
    return log_c
