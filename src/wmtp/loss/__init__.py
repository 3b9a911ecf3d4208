"""Weighted cross-entropy of a linear layer over the vocabulary, without its logits.

`reference` is the definition in plain torch, `chunked` the same functions with one chunk of logits alive.
"""

from wmtp.loss.chunked import linear_cross_entropy_per_token, weighted_linear_cross_entropy

__all__ = ["linear_cross_entropy_per_token", "weighted_linear_cross_entropy"]
