"""The experiment (`recipe.yaml`)."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wmtp.config.base import Fraction, NonNegative, Positive, Section, Seed
from wmtp.config.data import DataConfig, ModelConfig
from wmtp.config.weighting import CriticConfig, LossConfig, ScorerConfig

CONTROLS = {
    "shuffled": "the weights of a step in fresh random places, per head",
    "matched-random": "the weights in random places that stay with their token",
}

Temperature = Annotated[float, Field(ge=0)]
Extraction = Literal["none", "fenced"]


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"should be different seeds, not {seeds}")
    return seeds


Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_different)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else value


def _is_day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError(f"should be a day as in 2024-08-31, not {value!r}") from None


Day = Annotated[str, AfterValidator(_is_day)]


class TrainConfig(Section):
    """`batch_size` rows make an optimiser step, over all ranks and micro-batches.

    The learning rate rises to `lr` over `warmup_steps`, or over `warmup_share` of the steps; where neither is set,
    over a tenth of them, at most 100. Then it follows `schedule` to `lr · min_lr_ratio` at the last step. `constant`
    stays at `lr`; `wsd` (warm up, stay, decay) falls linearly over the last `decay_share` of the steps.
    The last `keep_checkpoints` are kept, and every one whose step is a multiple of `keep_every`.
    """

    control: Literal["shuffled", "matched-random"] | None = None
    steps: Positive = 1000
    batch_size: Positive = 32
    micro_batch_size: Positive | None = None
    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr_ratio: Fraction = 0.1
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_steps: NonNegative | None = None
    warmup_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = False
    log_every: Positive = 10
    validate_every: Positive = 200
    save_every: Positive = 200
    keep_checkpoints: Positive = 2
    keep_every: Positive | None = None
    async_save: bool = False
    max_bad_steps: Positive = 10

    @model_validator(mode="after")
    def _known(self) -> "TrainConfig":
        if self.batch_size % self.rows_at_once:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch_size")
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise ValueError("warmup_steps and warmup_share both set the warm-up; set one of them to null")
        return self

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        if self.warmup_share is not None:
            return round(self.warmup_share * self.steps)
        return min(100, self.steps // 10)

    @property
    def rows_at_once(self) -> int:
        """Rows of a micro-batch."""
        return self.micro_batch_size or self.batch_size


class EvaluateConfig(Section):
    """Generation and execution; times in seconds, memory in MiB, all per program.

    What is None is as the protocol has it; where the protocol is None, it is the task's first (`wmtp ls protocols`).
    The task knows its protocols and splits: `wmtp.evaluate.tasks.settings_of` says whether all of this fits it.
    """

    task: str = "tinycode"
    protocol: str | None = None
    data: str | None = None
    samples: Positive | None = None
    k: Annotated[list[Positive], Field(min_length=1)] | None = None
    temperature: Annotated[list[Temperature], BeforeValidator(_as_list), Field(min_length=1)] | None = None
    extraction: Extraction | None = None
    chat: bool | None = None
    system: str | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_new_tokens: Positive | None = None
    cpu_seconds: Annotated[float, Field(gt=0)] | None = None
    wall_seconds: Annotated[float, Field(gt=0)] | None = None
    memory_mib: Positive | None = None
    output_mib: Positive | None = None
    split: str | None = None
    limit: Positive | None = None
    start_date: Day | None = None
    end_date: Day | None = None
    batch_size: Positive = 64
    allow_code_execution: bool = False
    workers: Positive | None = None
    sandbox: Literal["auto", "basic", "strict"] = "auto"

    @model_validator(mode="after")
    def _days_in_order(self) -> "EvaluateConfig":
        if self.start_date and self.end_date and self.end_date < self.start_date:
            raise ValueError(f"end_date {self.end_date} is before start_date {self.start_date}")
        return self


PROTOCOL_KEYS = tuple(
    name
    for name, field in EvaluateConfig.model_fields.items()
    if field.default is None and name not in ("protocol", "data", "workers")
)
"""Keys of `evaluate` that a protocol decides where they are not set."""


class CompareConfig(Section):
    """Arms are overrides of the recipe they stand in; `reference` those of the reference model's training."""

    baseline: str = "uniform"
    arms: dict[str, dict[str, Any]] = {}
    seeds: Seeds = [0]
    reference: dict[str, Any] | None = None


class Recipe(Section):
    """The experiment (`recipe.yaml`)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    seed: Seed = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    scorer: ScorerConfig = ScorerConfig()
    critic: CriticConfig = CriticConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="after")
    def _heads_fit(self) -> "Recipe":
        if self.model.heads >= self.data.sequence_length:
            raise ValueError(
                f"model.heads {self.model.heads} does not fit into rows of "
                f"data.sequence_length {self.data.sequence_length}"
            )
        return self
