"""How tokens are scored, and how scores become weights."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from wmtp.config.base import Positive, Section

Mode = Literal["soft", "emphasis", "skip", "proportional"]

Share = Annotated[float, Field(gt=0, le=1)]


class Schedule(Section):
    """A value that goes from `start` to `end` over the first `steps` optimiser steps (all of them if null)."""

    start: float
    end: float
    kind: Literal["linear", "cosine"] = "linear"
    steps: Positive | None = None


class ScheduleConfig(Section):
    """What changes over the run, in place of the constant of the same name in `loss`.

    `effective_share` holds the weights' effective share of tokens (Kish) at this target by moving the temperature.
    """

    lambda_: Annotated[Schedule | None, Field(alias="lambda")] = None
    temperature: Schedule | None = None
    effective_share: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _in_range(self) -> "ScheduleConfig":
        for value in () if self.lambda_ is None else (self.lambda_.start, self.lambda_.end):
            if not 0 <= value <= 1:
                raise ValueError(f"lambda goes to {value}; it should stay in [0, 1]")
        for value in () if self.temperature is None else (self.temperature.start, self.temperature.end):
            if value <= 0:
                raise ValueError(f"temperature goes to {value}; it should stay above 0")
        if self.temperature is not None and self.effective_share is not None:
            raise ValueError("temperature and effective_share both set the temperature; name one of them")
        if self.lambda_ is not None and self.effective_share is not None:
            raise ValueError(
                "effective_share is of the finished weights, which lambda changes; name one of them"
            )
        return self


class WeightConfig(Section):
    """How scores become weights (`loss:` in a recipe). `mode` null is the scorer's own, which is soft for most."""

    lambda_: Annotated[float, Field(alias="lambda", ge=0, le=1)] = 1.0
    mode: Mode | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Share = 0.6
    alpha: Annotated[float, Field(gt=0)] = 0.5
    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.05
    max_weight: Annotated[float, Field(gt=1)] = 3.0
    decay: Annotated[float, Field(ge=0)] = 0.0


class LossConfig(WeightConfig):
    """`chunk_size` rows of logits exist at a time."""

    chunk_size: Positive = 512
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _temperature_matters(self) -> "LossConfig":
        schedule = self.schedule
        if self.mode not in (None, "soft") and (schedule.temperature or schedule.effective_share):
            raise ValueError(f"schedule: mode {self.mode} has no temperature; it goes with soft")
        return self


class ScorerConfig(Section):
    """Which scorer, and its settings: a class of its own knows which there are. A text is short for the name."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)] = "uniform"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        """All but the name."""
        return dict(self.model_extra or {})


class CriticConfig(Section):
    """The value function V(h_t), and how stage 1 learns it.

    `path` is a folder with a trained head (value_head.safetensors or value_head.pt); without one, stage 1 trains it.
    `backbone: learner` reads the hidden states of the learner's trunk; `separate` those of a model of its own: of
    `base_id`, else of `model.ref_id`, else, with `trunk: full`, one built like the learner. `overrides` are those of
    the recipe for stage 1.
    """

    path: str | None = None
    backbone: Literal["learner", "separate"] = "learner"
    base_id: str | None = None
    trunk: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: Positive = 8
    objective: Literal["gae", "monte-carlo", "pairwise"] = "gae"
    reward: Literal["field", "verifier", "reward_model"] = "field"
    field: str = "is_correct"
    reward_model: str | None = None
    gamma: Share = 1.0
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    refresh_every: Positive = 50
    shrinkage: Annotated[float, Field(ge=0)] = 0.003
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Positive = 3
    beta: Annotated[float, Field(gt=0)] = 1.0
    overrides: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> "CriticConfig":
        if self.backbone == "learner" and self.trunk != "frozen":
            raise ValueError(
                f"trunk {self.trunk} changes the trunk for the critic alone; it goes with backbone separate"
            )
        if self.backbone == "learner" and self.base_id is not None:
            raise ValueError("base_id is the model of backbone separate, not learner")
        if (self.reward == "reward_model") != (self.reward_model is not None):
            raise ValueError("reward reward_model and the key reward_model, its path, go together")
        return self
