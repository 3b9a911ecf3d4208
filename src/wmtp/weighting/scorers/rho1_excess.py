"""Rho-1: how much worse the learner predicts a token than a good reference does."""

from typing import Literal

import torch
from torch import Tensor

from wmtp.config import Section
from wmtp.weighting.scorers.base import ScoreInputs, Scorer

RELATIVE_FLOOR = 0.1
"""Nats. `relative` divides by at least this much: below it the reference gives the token more than 90% and the
quotient would measure the noise in a number near 0."""


class Rho1Excess(Scorer):
    """The excess loss of a token over a reference model's, signed, absolute or relative (Rho-1).

    signed    ce_learner - ce_reference, as in the Rho-1 paper (Lin et al. 2024, eq. 3)
    absolute  |ce_reference - ce_learner|: also high where only the reference finds the token implausible
    relative  (ce_learner - ce_reference) / max(ce_reference, RELATIVE_FLOOR)
    """

    class Config(Section):
        """`excess` is one of the three."""

        excess: Literal["signed", "absolute", "relative"] = "signed"

    needs: frozenset[str] = frozenset({"learner_ce", "reference_ce"})

    config: Config

    @torch.no_grad()
    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target, not finite where a cross-entropy is not."""
        learner_ce_bs, reference_ce_bs = inputs.learner_ce_bs.float(), inputs.reference_ce_bs.float()
        excess_bs = learner_ce_bs - reference_ce_bs
        if self.config.excess == "absolute":
            excess_bs = excess_bs.abs()
        elif self.config.excess == "relative":
            excess_bs = excess_bs / reference_ce_bs.clamp(min=RELATIVE_FLOOR)
        return excess_bs.where(inputs.valid_bs, 0.0)
