"""How strongly a token pulls at the model: the norm of its loss gradient."""

import torch
from torch import Tensor

from wmtp.config import Recipe
from wmtp.weighting.advantage import exponential_average
from wmtp.weighting.scorers.base import Need, ScoreInputs, Scorer


class GradNorm(Scorer):
    """‖∂CE/∂h‖₂ = ‖Wᵀ(p - onehot)‖₂, averaged exponentially along the document.

    An upper bound of the gradient's norm with respect to all parameters, up to a factor (Katharopoulos and Fleuret
    2018). With β = `grad_norm.smoothing`, y_t = β y_{t-1} + (1 - β) x_t over the supervised tokens.
    """

    needs: frozenset[Need] = frozenset({"gradient_norm"})

    def __init__(self, recipe: Recipe) -> None:
        self.smoothing = recipe.grad_norm.smoothing

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32; 0 where the token is not a target."""
        assert inputs.gradient_norm_bs is not None
        norms_bs = inputs.gradient_norm_bs.where(inputs.valid_bs, torch.nan)
        smooth_bs = exponential_average(norms_bs, inputs.batch.document_ids, self.smoothing)
        return smooth_bs.where(inputs.valid_bs, 0.0)
