"""Rho-1: how much worse the learner predicts a token than a good reference does."""

import torch
from torch import Tensor

from wmtp.config import Recipe
from wmtp.weighting.scorers.base import Need, ScoreInputs, Scorer

RELATIVE_FLOOR = 0.1
"""Nats. `relative` divides by at least this much: below it the reference gives the token more than 90% and the
quotient would measure the noise in a number near 0."""


class Rho1Excess(Scorer):
    """The excess loss of a token over a reference model's, signed, absolute or relative (Rho-1).

    signed    ce_learner - ce_reference, as in the Rho-1 paper (Lin et al. 2024, eq. 3)
    absolute  |ce_reference - ce_learner|: also high where only the reference finds the token implausible
    relative  (ce_learner - ce_reference) / max(ce_reference, RELATIVE_FLOOR)
    """

    needs: frozenset[Need] = frozenset({"learner_ce", "reference_ce"})

    def __init__(self, recipe: Recipe) -> None:
        self.excess = recipe.rho1.excess

    @torch.no_grad()
    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target, not finite where a cross-entropy is not."""
        assert inputs.learner_ce_bs is not None
        assert inputs.reference_ce_bs is not None
        learner_ce_bs, reference_ce_bs = inputs.learner_ce_bs.float(), inputs.reference_ce_bs.float()
        excess_bs = learner_ce_bs - reference_ce_bs
        if self.excess == "absolute":
            excess_bs = excess_bs.abs()
        elif self.excess == "relative":
            excess_bs = excess_bs / reference_ce_bs.clamp(min=RELATIVE_FLOOR)
        return excess_bs.where(inputs.valid_bs, 0.0)
