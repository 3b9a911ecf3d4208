"""The learner's own uncertainty: high-entropy tokens are where a text forks."""

from torch import Tensor

from wmtp.config import Recipe
from wmtp.weighting.scorers.base import Need, ScoreInputs, Scorer


class Entropy(Scorer):
    """H(p) = -Σ_v p_v log p_v of the learner's prediction, or its negative (Wang et al. 2025, arXiv 2506.01939)."""

    needs: frozenset[Need] = frozenset({"entropy"})

    def __init__(self, recipe: Recipe) -> None:
        self.sign = 1.0 if recipe.entropy.prefer == "high" else -1.0

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target."""
        assert inputs.entropy_bs is not None
        return (self.sign * inputs.entropy_bs).where(inputs.valid_bs, 0.0)
