"""Weighted cross-entropy of a linear layer over the vocabulary, and statistics of its tokens, without its logits.

`reference` is the definition in plain torch, `chunked` and `statistics` the same functions with one chunk of
logits alive, `kernel` what a run computes with.
"""

from wmtp.loss.chunked import linear_cross_entropy_per_token, weighted_linear_cross_entropy
from wmtp.loss.kernel import LossKernel, choose_kernel
from wmtp.loss.statistics import TokenStatistics, linear_token_statistics

__all__ = [
    "LossKernel",
    "TokenStatistics",
    "choose_kernel",
    "linear_cross_entropy_per_token",
    "linear_token_statistics",
    "weighted_linear_cross_entropy",
]
