"""Rho-1: how much worse the learner predicts a token than a good reference does."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.weighting.scorers.base import ScoreInputs

Excess = Literal["signed", "absolute", "relative"]

RELATIVE_FLOOR = 0.1
"""Nats. `relative` divides by at least this much: below it the reference gives the token more than 90% and the
quotient would measure the noise in a number near 0."""


@dataclass(frozen=True)
class Rho1Excess:
    """The excess loss of a token, from the cross-entropies of learner (head 0) and reference.

    signed    ce_learner - ce_reference, as in the Rho-1 paper (Lin et al. 2024, eq. 3)
    absolute  |ce_reference - ce_learner|: also high where only the reference finds the token implausible
    relative  (ce_learner - ce_reference) / max(ce_reference, RELATIVE_FLOOR)
    """

    excess: Excess = "signed"
    needs_learner: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.excess not in get_args(Excess):
            raise WMTPError(f"rho1.excess {self.excess!r} should be one of {', '.join(get_args(Excess))}")

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "Rho1Excess":
        """The one that `rho1:` describes."""
        return cls(recipe.rho1.excess)

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
