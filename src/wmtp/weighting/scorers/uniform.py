"""Every token is as important as any other: multi-token prediction without weighting."""

import torch
from torch import Tensor

from wmtp.weighting.scorers.base import ScoreInputs, Scorer


class Uniform(Scorer):
    """Score 0 everywhere, so that every weight is 1."""

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32 zeros."""
        return torch.zeros_like(inputs.valid_bs, dtype=torch.float32)
