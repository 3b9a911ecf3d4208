"""What is learnt from, and by which model."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from wmtp.config.base import Fraction, NonNegative, Positive, Section, Seed


class ModelConfig(Section):
    """A backbone from `base_id`, or built from the sizes.

    `base_id` is a model folder, a hub name or a run; one that has heads keeps them, and `heads` is their number.
    `layers` counts the layers of the next-token model, head 0 included. `append` adds heads 1..H-1 to them,
    `replace` takes them from the trunk, so that the number of parameters stays.
    """

    base_id: str | None = None
    ref_id: str | None = None
    architecture: Literal["llama", "mistral", "qwen2", "qwen3"] = "llama"
    hidden_size: Annotated[int, Field(ge=1, le=2**20)] = 256
    layers: Annotated[int, Field(ge=2, le=1024)] = 4
    attention_heads: Positive = 4
    key_value_heads: Positive | None = None
    intermediate_size: Positive | None = None
    tie_embeddings: bool = True
    init_std: Annotated[float, Field(gt=0)] = 0.02
    heads: Annotated[int, Field(ge=1, le=1024)] = 4
    placement: Literal["append", "replace"] = "append"
    head_init: Literal["copy", "fresh"] = "copy"

    @model_validator(mode="after")
    def _shapes(self) -> "ModelConfig":
        if self.base_id is None and self.hidden_size % self.attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of attention_heads")
        if self.base_id is None and self.attention_heads % (self.key_value_heads or self.attention_heads):
            raise ValueError(f"attention_heads {self.attention_heads} is not a multiple of key_value_heads")
        if self.base_id is None and self.placement == "replace" and self.layers <= self.heads:
            raise ValueError(f"placement replace needs more layers ({self.layers}) than heads ({self.heads})")
        return self


Family = Literal["list", "arithmetic", "string", "control"]


class TinycodeConfig(Section):
    """The generated benchmark.

    train, validation, test: rows of each split.
    answers: training rows with the same problem, one behind the other; each is corrupted or not on its own.
    noise: share of the training solutions that are corrupted.
    curated: clean training rows that are marked as known to be clean.
    min_operations, max_operations: of a program; held-out ones have 2 or more.
    """

    train: Annotated[int, Field(ge=1, le=10**7)] = 12000
    answers: Positive = 1
    validation: NonNegative = 200
    test: NonNegative = 200
    noise: Fraction = 0.5
    curated: NonNegative = 1500
    min_operations: Annotated[int, Field(ge=1, le=4)] = 1
    max_operations: Annotated[int, Field(ge=1, le=4)] = 3
    families: tuple[Family, ...] = get_args(Family)
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> "TinycodeConfig":
        clean = self.train - round(self.noise * self.train)
        if self.train % self.answers:
            raise ValueError(f"answers {self.answers} should divide train, {self.train}")
        if self.curated > clean:
            raise ValueError(f"curated {self.curated} is more than the {clean} clean rows of train")
        if self.max_operations < self.min_operations:
            raise ValueError(f"max_operations {self.max_operations} is less than min_operations")
        if self.max_operations == 1 and self.validation + self.test:
            raise ValueError(
                "max_operations 1 leaves nothing to hold out for validation and test; 2 or more does"
            )
        if not self.families or len(set(self.families)) < len(self.families):
            raise ValueError(f"families {list(self.families)} should be some, each once")
        return self


class PythonSourceConfig(Section):
    include_tests: bool = False


class FieldsConfig(Section):
    """Which fields of a row hold what: `text`, or `prompt` and `completion`."""

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "FieldsConfig":
        if (self.prompt is None) != (self.completion is None) or (self.text is None) == (self.prompt is None):
            raise ValueError("name either text, or both prompt and completion")
        return self


def _path_or_share(value: Any) -> Any:
    is_share = isinstance(value, int | float) and 0 < value < 1
    if not is_share and (not isinstance(value, str) or not value):
        raise ValueError("should be a path, or a share of the rows above 0 and below 1")
    return value


class DataConfig(Section):
    """`source` is a built-in (tinycode, python-source) or a path to JSONL, JSON or Parquet.

    `validation` is a path, or the share of rows that is held out; tinycode has a split of its own.
    `bos` is whether every document begins with the tokenizer's bos_token; auto is as the tokenizer does on its own.
    `allow_lossy` takes a tokenizer from whose tokens some texts do not come back.
    `where` keeps the training rows whose fields have these values.
    """

    source: Annotated[str, Field(min_length=1)] = "tinycode"
    validation: Annotated[str | float, BeforeValidator(_path_or_share)] = 0.02
    fields: FieldsConfig = FieldsConfig(text="text")
    where: dict[str, Any] = {}
    limit: Positive | None = None
    tokenizer: str | None = None
    bos: Literal["auto"] | bool = "auto"
    allow_lossy: bool = False
    vocab_size: Annotated[int, Field(ge=260, le=2**24)] = 1024
    sequence_length: Annotated[int, Field(ge=2, le=2**24)] = 256
    overlong: Literal["error", "split", "truncate", "drop"] = "error"
    reference_scores: str | None = None
    tinycode: TinycodeConfig = TinycodeConfig()
    python_source: PythonSourceConfig = PythonSourceConfig()
