"""The learner's own uncertainty: high-entropy tokens are where a text forks."""

from typing import Literal

from torch import Tensor

from wmtp.config import Section
from wmtp.weighting.scorers.base import ScoreInputs, Scorer


class Entropy(Scorer):
    """H(p) = -Σ_v p_v log p_v of the learner's prediction, or its negative (Wang et al. 2025, arXiv 2506.01939)."""

    class Config(Section):
        """Whether tokens at which the learner is uncertain get more weight (`high`) or less."""

        prefer: Literal["high", "low"] = "high"

    needs: frozenset[str] = frozenset({"entropy"})

    config: Config

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target."""
        sign = 1.0 if self.config.prefer == "high" else -1.0
        return (sign * inputs.entropy_bs).where(inputs.valid_bs, 0.0)
