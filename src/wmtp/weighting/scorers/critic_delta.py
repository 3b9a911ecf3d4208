"""The critic's increments: how much the expected reward rises when a token is appended."""

from torch import Tensor

from wmtp.data.targets import shift_left
from wmtp.weighting.scorers.base import ScoreInputs, Scorer


class CriticDelta(Scorer):
    """δ_t = V_t - V_{t-1}, the rise of the critic's value when token t is appended."""

    needs: frozenset[str] = frozenset({"values"})

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target."""
        return (shift_left(inputs.values_bs) - inputs.values_bs).where(inputs.valid_bs, 0.0)
