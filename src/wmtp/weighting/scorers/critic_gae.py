"""Advantage-weighted learning: exp of the whitened advantage of each token."""

import torch
from torch import Tensor

from wmtp.config import Mode, Recipe, Section
from wmtp.distributed.world import all_reduce
from wmtp.weighting.advantage import gae
from wmtp.weighting.scorers.base import ScoreInputs, Scorer, StepInfo

MOMENTUM = 0.99
"""Of the running statistics, per optimiser step."""
LARGEST_EXPONENT = 20.0


class CriticGAE(Scorer):
    """exp(A_t / β) of the GAE advantage A_t of each token, whitened by running statistics (AWR).

    A_t = Σ_l (γ λ)^l δ_{t+l} with δ_t = r_t + γ V_t - V_{t-1} (Schulman et al. 2016, eq. 16), the reward of the
    document paid with its last token; exp(A / β) as in advantage-weighted regression (Peng et al. 2019).
    """

    needs: frozenset[str] = frozenset({"values", "rewards"})
    mode: Mode = "proportional"

    def __init__(self, config: Section, recipe: Recipe) -> None:
        super().__init__(config, recipe)
        self.critic = recipe.critic
        self.moments = torch.zeros(3, dtype=torch.float64)
        """Decayed sums over supervised tokens: their number, A and A²."""

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S] float32, A of the token at s + 1."""
        return gae(
            inputs.rewards_bs,
            inputs.values_bs,
            inputs.batch.document_ids,
            gamma=self.critic.gamma,
            gae_lambda=self.critic.gae_lambda,
        )

    @torch.no_grad()
    def complete(self, scores: Tensor, info: StepInfo) -> Tensor:
        """[B, S] float32 weights up to a factor, NaN where the advantage is not finite."""
        known = info.valid_bsh[..., 0] & scores.isfinite()
        a = scores.where(known, 0.0).double()
        sums = all_reduce(torch.stack([known.sum().double(), a.sum(), a.square().sum()]), info.group).cpu()
        moments = sums
        if info.is_training:
            moments = self.moments.mul_(MOMENTUM).add_(sums)
        elif self.moments[0] > 0:
            moments = self.moments
        count, total, squares = moments.tolist()
        mean = total / max(count, 1.0)
        std = max(squares / max(count, 1.0) - mean**2, 0.0) ** 0.5
        whitened = (scores - mean) / std if std > 0 else torch.zeros_like(scores)
        weights = (whitened / self.critic.beta).clamp_(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp_()
        return weights.where(known, torch.nan)

    def state(self) -> dict[str, Tensor]:
        """The running sums."""
        return {"moments": self.moments}
