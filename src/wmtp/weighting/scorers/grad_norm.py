"""How strongly a token pulls at the model: the norm of its loss gradient."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from wmtp.config import Section
from wmtp.weighting.advantage import exponential_average
from wmtp.weighting.scorers.base import ScoreInputs, Scorer


class GradNorm(Scorer):
    """‖∂CE/∂h‖₂ = ‖Wᵀ(p - onehot)‖₂, averaged exponentially along the document.

    An upper bound of the gradient's norm with respect to all parameters, up to a factor (Katharopoulos and Fleuret
    2018). With β = `smoothing`, y_t = β y_{t-1} + (1 - β) x_t over the supervised tokens.
    """

    class Config(Section):
        """`smoothing` is the coefficient of the moving average along a document."""

        smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.5

    needs: frozenset[str] = frozenset({"gradient_norm"})

    config: Config

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target."""
        norms_bs = inputs.gradient_norm_bs.where(inputs.valid_bs, torch.nan)
        smooth_bs = exponential_average(norms_bs, inputs.batch.document_ids, self.config.smoothing)
        return smooth_bs.where(inputs.valid_bs, 0.0)
