"""Several scorers at once: a convex mixture of their weights."""

from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from wmtp.config import Mode, Recipe, Schedule, Section, to_dict
from wmtp.weighting.needs import sources_of
from wmtp.weighting.schedule import value_at
from wmtp.weighting.scorers import create_scorer, settings_of
from wmtp.weighting.scorers.base import (
    CleanRowsConfig,
    ScoreInputs,
    Scorer,
    StepInfo,
    checked_call,
    checked_complete,
)
from wmtp.weighting.weights import normalise

Coefficient = Annotated[float, Field(ge=0)]


class Blend(Scorer):
    """Σ_k c_k w_k of the normalised weights of other scorers, the coefficients constant or scheduled.

    The coefficients are divided by their sum, so that the mean stays 1 and the bounds hold.
    """

    class Config(Section):
        """`parts` are scorers with their coefficients, `settings` what is set of them."""

        parts: dict[str, Coefficient | Schedule] = Field(default={}, validate_default=True)
        settings: dict[str, dict[str, Any]] = Field(default={}, validate_default=True)

        @field_validator("parts")
        @classmethod
        def _mix(cls, parts: dict[str, float | Schedule]) -> dict[str, float | Schedule]:
            ends = [(c.start, c.end) if isinstance(c, Schedule) else (c, c) for c in parts.values()]
            if any(value < 0 for pair in ends for value in pair):
                raise ValueError("a coefficient goes below 0")
            if not any(start > 0 for start, _ in ends) or not any(end > 0 for _, end in ends):
                raise ValueError("name scorers with their coefficients, at least one of them above 0")
            if "blend" in parts:
                raise ValueError("cannot hold itself")
            return parts

        @field_validator("settings")
        @classmethod
        def _complete(
            cls, given: dict[str, dict[str, Any]], info: ValidationInfo
        ) -> dict[str, dict[str, Any]]:
            if (parts := info.data.get("parts")) is None:  # which has an error of its own
                return given
            for name in given.keys() - parts.keys():
                raise ValueError(f"{name!r} is none of the parts")
            return {name: to_dict(settings_of(name, given.get(name, {}), name, under="")) for name in parts}

    mode: Mode = "proportional"
    config: Config

    def __init__(self, config: Config, recipe: Recipe) -> None:
        super().__init__(config, recipe)
        self.parts = {name: create_scorer(name, recipe, config.settings[name]) for name in config.parts}
        self.needs = frozenset().union(*(part.needs for part in self.parts.values()))

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """[B, S, P + K]: how wide the answers of the P parts are, 0 for [B, S]; then the answers, side by side."""
        answers = [checked_call(name, part, inputs) for name, part in self.parts.items()]
        widths = [
            answer.new_full(answer.shape[:2], answer.shape[2] if answer.ndim == 3 else 0)
            for answer in answers
        ]
        wide = [answer if answer.ndim == 3 else answer[..., None] for answer in answers]
        return torch.cat([torch.stack(widths, dim=2), *wide], dim=2)

    @torch.no_grad()
    def complete(self, scores: Tensor, info: StepInfo) -> Tensor:
        """[B, S, H] float32 weights, NaN where the score of a part that counts is not finite."""
        coefficients = {name: value_at(c, info.step, info.steps) for name, c in self.config.parts.items()}
        total = sum(coefficients.values())
        mixed = torch.zeros_like(info.valid_bsh, dtype=torch.float32)
        widths = [int(width) for width in scores[0, 0, : len(self.parts)].tolist()]
        answers = scores[..., len(self.parts) :].split([width or 1 for width in widths], dim=2)
        for (name, part), width, answer in zip(self.parts.items(), widths, answers, strict=True):
            own = checked_complete(name, part, answer if width else answer[..., 0], info)
            config = info.config.model_copy(update={"mode": part.mode, "lambda_": 1.0})
            weights = normalise(own, info.valid_bsh, config, info.group)
            if coefficients[name] > 0:
                unknown = info.valid_bsh & ~own.isfinite()
                mixed += coefficients[name] / total * weights.masked_fill(unknown, torch.nan)
        return mixed

    @property
    def clean_rows(self) -> CleanRowsConfig:
        """Those of the first part that needs any."""
        return next(part.clean_rows for part in self.parts.values() if "alignment" in sources_of(part.needs))

    def state(self) -> dict[str, Tensor]:
        """The parts' own."""
        return {f"{name}.{k}": v for name, part in self.parts.items() for k, v in part.state().items()}
