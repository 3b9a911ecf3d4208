"""A small network that learns, while the model learns, which tokens help on clean data."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from wmtp.config import Mode, Recipe
from wmtp.config.base import Positive
from wmtp.distributed.world import all_reduce
from wmtp.weighting.scorers.base import CleanRowsConfig, ScoreInputs, Scorer, StepInfo

FEATURES = 3
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Learned(Scorer):
    """w = 2 σ(MLP(features)), taught by the one-step meta-gradient on clean rows (Meta-Weight-Net, Shu et al. 2019).

    A step θ' = θ - η Σ w_i g_i / Σ w changes the clean loss by -η Σ w_i a_i / Σ w, to first order in η, where
    a_i = ⟨g_i, ∇L_clean(θ)⟩ with gradients with respect to the unembedding alone. The network climbs J = Σ w a / Σ w
    by Adam, once per optimiser step, before its weights are used. Features: log(1 + CE), entropy, CE - entropy.
    It learns in float64: Adam divides by the gradient, and where that is near 0 rounding would decide.
    """

    class Config(CleanRowsConfig):
        """The weighting network, and the clean rows that teach it."""

        hidden: Positive = 16
        lr: Annotated[float, Field(gt=0)] = 0.01

    needs: frozenset[str] = frozenset({"learner_ce", "entropy", "alignment"})
    mode: Mode = "proportional"

    config: Config

    def __init__(self, config: Config, recipe: Recipe) -> None:
        super().__init__(config, recipe)
        hidden = config.hidden
        self.shapes = {"w1": (hidden, FEATURES), "b1": (hidden,), "w2": (1, hidden), "b2": (1,)}
        generator = torch.Generator().manual_seed(recipe.seed)
        first = torch.randn(hidden * FEATURES, generator=generator).double() / math.sqrt(FEATURES)
        parameters = torch.cat(
            [first, torch.zeros(hidden + hidden + 1, dtype=torch.float64)]
        )  # so that every weight is 1 at first
        self.memory = {
            "parameters": parameters,
            "first_moment": torch.zeros_like(parameters),
            "second_moment": torch.zeros_like(parameters),
            "updates": torch.zeros((), dtype=torch.float64),
        }

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S, 3]: cross-entropy, entropy and alignment of the token at s + 1."""
        return torch.stack([inputs.learner_ce_bs, inputs.entropy_bs, inputs.alignment_bs], dim=2)

    def complete(self, scores: Tensor, info: StepInfo) -> Tensor:
        """[B, S] float32 weights in (0, 2), NaN where a feature is not finite."""
        self.memory = {name: tensor.to(scores.device) for name, tensor in self.memory.items()}
        known_bs = info.valid_bsh[..., 0] & scores.isfinite().all(dim=2)
        ce, entropy, alignment = scores[known_bs].double().unbind(1)
        features = torch.stack([ce.log1p(), entropy, ce - entropy], dim=1)
        if info.is_training:
            self._learn(features, alignment, info)
        weights = _network(self.memory["parameters"], self.shapes, features)
        return torch.full_like(scores[..., 0], torch.nan).masked_scatter_(known_bs, weights.to(scores.dtype))

    def _learn(self, features: Tensor, alignment: Tensor, info: StepInfo) -> None:
        with torch.enable_grad():
            parameters = self.memory["parameters"].detach().requires_grad_()
            weights = _network(parameters, self.shapes, features)
            sums = torch.stack([(weights * alignment).sum(), weights.sum()]).detach()
            total_aligned, total = all_reduce(sums, info.group)
            # The gradient of this rank's part of J, whose other parts are constants here.
            share = (weights * (alignment - total_aligned / total)).sum() / total
            (gradient,) = torch.autograd.grad(share, parameters)
        gradient = all_reduce(gradient, info.group)
        if total > 0 and gradient.isfinite().all():
            self._ascend(gradient)

    def _ascend(self, gradient: Tensor) -> None:
        """Adam (Kingma and Ba 2015, algorithm 1)."""
        memory = self.memory
        memory["updates"] += 1
        memory["first_moment"].lerp_(gradient, 1 - BETAS[0])
        memory["second_moment"].lerp_(gradient.square(), 1 - BETAS[1])
        first = memory["first_moment"] / (1 - BETAS[0] ** memory["updates"])
        second = memory["second_moment"] / (1 - BETAS[1] ** memory["updates"])
        memory["parameters"] += self.config.lr * first / (second.sqrt() + EPSILON)

    def state(self) -> dict[str, Tensor]:
        """The network, and Adam's moments."""
        return self.memory


def _network(parameters: Tensor, shapes: dict[str, tuple[int, ...]], features: Tensor) -> Tensor:
    """2 σ(W₂ tanh(W₁ x + b₁) + b₂), [n]."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = zip(shapes.values(), parameters.split(sizes), strict=True)
    w1, b1, w2, b2 = (flat.view(shape) for shape, flat in parts)
    return 2 * torch.sigmoid((features @ w1.T + b1).tanh() @ w2.T + b2).squeeze(1)
