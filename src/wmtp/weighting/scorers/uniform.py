"""Every token is as important as any other: multi-token prediction without weighting."""

from typing import ClassVar

import torch
from torch import Tensor

from wmtp.config import Recipe
from wmtp.weighting.scorers.base import ScoreInputs


class Uniform:
    """Score 0 everywhere, so that every weight is 1."""

    needs_learner: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    @classmethod
    def from_recipe(cls, _recipe: Recipe) -> "Uniform":
        """There is nothing to set."""
        return cls()

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32 zeros."""
        return torch.zeros_like(inputs.valid_bs, dtype=torch.float32)
