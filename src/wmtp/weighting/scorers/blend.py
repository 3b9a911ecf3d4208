"""Several scorers at once: a convex mixture of their weights."""

import torch
from torch import Tensor

from wmtp.config import Mode, Recipe
from wmtp.weighting.schedule import value_at
from wmtp.weighting.scorers.base import (
    Need,
    ScoreInputs,
    Scorer,
    StepInfo,
    checked_call,
    checked_complete,
)
from wmtp.weighting.weights import normalise


class Blend(Scorer):
    """Σ_k c_k w_k of the normalised weights of other scorers, the coefficients constant or scheduled.

    The coefficients are divided by their sum, so that the mean stays 1 and the bounds hold.
    """

    mode: Mode = "proportional"

    def __init__(self, recipe: Recipe) -> None:
        from wmtp.weighting.scorers import create_scorer

        self.coefficients = recipe.blend
        self.parts = {name: create_scorer(name, recipe) for name in recipe.blend}
        self.needs: frozenset[Need] = frozenset().union(*(part.needs for part in self.parts.values()))
        self._widths: dict[str, int | None] = {}

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S, K]: what the parts give, side by side."""
        answers = {name: checked_call(name, part, inputs) for name, part in self.parts.items()}
        self._widths = {name: None if a.ndim == 2 else a.shape[2] for name, a in answers.items()}
        return torch.cat([a if a.ndim == 3 else a[..., None] for a in answers.values()], dim=2)

    @torch.no_grad()
    def complete(self, scores: Tensor, info: StepInfo) -> Tensor:
        """[B, S, H] float32 weights, NaN where the score of a part that counts is not finite."""
        coefficients = {name: value_at(c, info.step, info.steps) for name, c in self.coefficients.items()}
        total = sum(coefficients.values())
        mixed = torch.zeros_like(info.valid_bsh, dtype=torch.float32)
        answers = scores.split([width or 1 for width in self._widths.values()], dim=2)
        for (name, part), answer in zip(self.parts.items(), answers, strict=True):
            given = answer[..., 0] if self._widths[name] is None else answer
            own = checked_complete(name, part, given, info)
            config = info.config.model_copy(update={"mode": part.mode, "lambda_": 1.0})
            weights = normalise(own, info.valid_bsh, config, info.group)
            if coefficients[name] > 0:
                unknown = info.valid_bsh & ~own.isfinite()
                mixed += coefficients[name] / total * weights.masked_fill(unknown, torch.nan)
        return mixed

    def state(self) -> dict[str, Tensor]:
        """The parts' own."""
        return {f"{name}.{k}": v for name, part in self.parts.items() for k, v in part.state().items()}
