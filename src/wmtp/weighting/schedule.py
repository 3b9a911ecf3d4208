"""What changes over the run: λ, the temperature, the coefficients of a mixture."""

import math

import torch
from torch import Tensor

from wmtp.config import LossConfig, Schedule, WeightConfig

GAIN = 0.3
"""Of the controller: how much of the measured error goes into the log of the temperature per step."""
LARGEST_ERROR = math.e
"""One odd step moves the temperature by no more than this to the power of GAIN."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.02, 50.0


def value_at(value: float | Schedule, step: int, steps: int) -> float:
    """The value at an optimiser step (from 0) of a run of so many."""
    if not isinstance(value, Schedule):
        return value
    last = (value.steps or steps) - 1
    progress = min(1.0, step / last) if last > 0 else 1.0
    if value.kind == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return value.start + (value.end - value.start) * progress


class WeightSchedule:
    """The weights' configuration at every step.

    With `effective_share` an integral controller moves the temperature so that the share of tokens that counts,
    (Σ w)² / (N Σ w²) = 1 / (1 + v), stays at the target: log T ← log T + GAIN · log(v / v_target). v, the squared
    coefficient of variation of the weights, goes about as 1 / T². A lower temperature concentrates the weights; the
    share that can be reached is bounded by ε and W_max.
    """

    def __init__(self, weights: WeightConfig, loss: LossConfig, steps: int) -> None:
        self._weights = weights
        self._schedule = loss.schedule
        self._steps = steps
        self._temperature = torch.tensor(weights.temperature, dtype=torch.float64)

    def at(self, step: int) -> WeightConfig:
        """The configuration of a step."""
        changes: dict[str, float] = {}
        if self._schedule.lambda_ is not None:
            changes["lambda_"] = value_at(self._schedule.lambda_, step, self._steps)
        if self._schedule.temperature is not None:
            changes["temperature"] = value_at(self._schedule.temperature, step, self._steps)
        if self._schedule.effective_share is not None:
            changes["temperature"] = float(self._temperature)
        return self._weights.model_copy(update=changes) if changes else self._weights

    @property
    def is_controlled(self) -> bool:
        """Whether `observe` has to be called with every step's share."""
        return self._schedule.effective_share is not None

    def observe(self, effective_share: float) -> None:
        """Learn from the effective share of a step's weights, the same on every rank."""
        assert self._schedule.effective_share is not None
        if effective_share > 0:
            error = (1 / effective_share - 1) / (1 / self._schedule.effective_share - 1)
            moved = float(self._temperature) * min(max(error, 1 / LARGEST_ERROR), LARGEST_ERROR) ** GAIN
            self._temperature.fill_(min(max(moved, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE))

    def state(self) -> dict[str, Tensor]:
        """The controller's temperature; saved, and restored in place."""
        return {"temperature": self._temperature} if self.is_controlled else {}
