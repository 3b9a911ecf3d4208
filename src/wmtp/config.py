"""Config (environment) and Recipe (experiment), read, merged and validated once, here, without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wmtp.errors import WMTPError
from wmtp.registry import did_you_mean

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

ALGORITHMS = {"mtp-baseline": "uniform", "rho1-wmtp": "rho1-excess-v1"}
"""Algorithm to the scorer it trains with."""

CONTROLS = {
    "shuffled": "the weights of a step in fresh random places, per head",
    "matched-random": "the weights in random places that stay with their token",
}


class Section(BaseModel):
    """A strict, frozen part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class PathsConfig(Section):
    runs: str = "runs"
    cache: str = ".wmtp/cache"


class MeshConfig(Section):
    """Hybrid sharding: `replicate` copies of the model, each over `shard` processes."""

    replicate: Positive
    shard: Positive


class DevicesConfig(Section):
    """Times in seconds. `precision: auto` is bf16 where the processor multiplies it natively, else fp32.

    `parallel: auto` replicates small models (DDP) and shards large ones, or where a mesh or offloading is asked for
    (FSDP2). A process that waits longer than `collective_timeout` for another ends the run; one that is asked to stop
    has `stop_timeout` to save.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: Positive | None = None
    deterministic: bool = False
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    mesh: MeshConfig | None = None
    reshard_after_forward: bool = True
    cpu_offload: bool = False
    collective_timeout: Annotated[float, Field(gt=0)] = 600.0
    stop_timeout: Annotated[float, Field(gt=0)] = 100.0

    @model_validator(mode="after")
    def _sharded(self) -> "DevicesConfig":
        if self.parallel == "ddp" and (self.mesh is not None or self.cpu_offload):
            key = "mesh" if self.mesh is not None else "cpu_offload"
            raise ValueError(f"{key} shards the model; it goes with parallel fsdp or auto, not ddp")
        return self


class MLflowConfig(Section):
    """`tracking_uri` null is an SQLite file in `paths.runs`."""

    enabled: bool = False
    tracking_uri: str | None = None
    experiment: str = "wmtp"
    system_metrics: bool = True


class Config(Section):
    """The environment: where things are and what they run on (`config.yaml`)."""

    paths: PathsConfig = PathsConfig()
    devices: DevicesConfig = DevicesConfig()
    mlflow: MLflowConfig = MLflowConfig()


class ModelConfig(Section):
    """A backbone from `base_id`, or built from the sizes.

    `layers` counts the layers of the next-token model, head 0 included. `append` adds heads 1..H-1 to them,
    `replace` takes them from the trunk, so that the number of parameters stays.
    """

    base_id: str | None = None
    ref_id: str | None = None
    architecture: Literal["llama", "mistral", "qwen2", "qwen3"] = "llama"
    hidden_size: Positive = 256
    layers: Annotated[int, Field(ge=2)] = 4
    attention_heads: Positive = 4
    key_value_heads: Positive | None = None
    intermediate_size: Positive | None = None
    tie_embeddings: bool = True
    init_std: Annotated[float, Field(gt=0)] = 0.02
    heads: Positive = 4
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


class TinycodeConfig(Section):
    """The generated benchmark: rows per split, share of corrupted training solutions, known clean rows."""

    train: Positive = 12000
    validation: NonNegative = 200
    test: NonNegative = 200
    noise: Fraction = 0.5
    curated: NonNegative = 1500
    min_operations: Annotated[int, Field(ge=1, le=4)] = 1
    max_operations: Annotated[int, Field(ge=1, le=4)] = 3
    families: tuple[Literal["list", "arithmetic", "string", "control"], ...] = (
        "list",
        "arithmetic",
        "string",
        "control",
    )
    seed: int = 0


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


class DataConfig(Section):
    """`source` is a built-in (tinycode, python-source) or a path to JSONL, JSON or Parquet.

    `validation` is a path, or the share of rows that is held out; tinycode has a split of its own.
    `where` keeps the training rows whose fields have these values.
    """

    source: str = "tinycode"
    validation: str | Annotated[float, Field(gt=0, lt=1)] = 0.02
    fields: FieldsConfig = FieldsConfig(text="text")
    where: dict[str, Any] = {}
    limit: Positive | None = None
    tokenizer: str | None = None
    vocab_size: Annotated[int, Field(ge=260)] = 1024
    sequence_length: Annotated[int, Field(ge=2)] = 256
    overlong: Literal["error", "split", "drop"] = "error"
    reference_scores: str | None = None
    tinycode: TinycodeConfig = TinycodeConfig()
    python_source: PythonSourceConfig = PythonSourceConfig()


class TrainConfig(Section):
    """`batch_size` rows make an optimiser step, over all ranks and micro-batches.

    The last `keep_checkpoints` are kept, and every one whose step is a multiple of `keep_every`.
    """

    algo: str = "mtp-baseline"
    scorer: str | None = None
    control: Literal["shuffled", "matched-random"] | None = None
    steps: Positive = 1000
    batch_size: Positive = 32
    micro_batch_size: Positive | None = None
    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr_ratio: Fraction = 0.1
    warmup_steps: NonNegative = 100
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
        if self.algo not in ALGORITHMS:
            raise ValueError(f"unknown algo {self.algo!r}; {did_you_mean(self.algo, list(ALGORITHMS))}")
        if self.batch_size % self.rows_at_once:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch_size")
        return self

    @property
    def rows_at_once(self) -> int:
        """Rows of a micro-batch."""
        return self.micro_batch_size or self.batch_size

    @property
    def scorer_name(self) -> str:
        """The scorer that is named, else the algorithm's."""
        return self.scorer or ALGORITHMS[self.algo]


class WeightConfig(Section):
    """How scores become weights (`loss:` in a recipe)."""

    lambda_: Annotated[float, Field(alias="lambda", ge=0, le=1)] = 1.0
    mode: Literal["soft", "emphasis", "skip"] = "soft"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.6
    alpha: Annotated[float, Field(gt=0)] = 0.5
    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.05
    max_weight: Annotated[float, Field(gt=1)] = 3.0
    decay: Annotated[float, Field(ge=0)] = 0.0


class LossConfig(WeightConfig):
    """`chunk_size` rows of logits exist at a time."""

    chunk_size: Positive = 512


class Rho1Config(Section):
    """`percentile_top_p`, the fraction that is kept or emphasised, goes before `loss.top_p` where given."""

    excess: Literal["signed", "absolute", "relative"] = "signed"
    percentile_top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class EvaluateConfig(Section):
    """Generation and execution; times in seconds, memory in MiB, all per program."""

    task: str = "tinycode"
    samples: Positive = 1
    k: list[Positive] = [1]
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 256
    batch_size: Positive = 64
    limit: Positive | None = None
    allow_code_execution: bool = False
    cpu_seconds: Annotated[float, Field(gt=0)] = 3.0
    wall_seconds: Annotated[float, Field(gt=0)] = 10.0
    memory_mib: Positive = 512
    workers: Positive | None = None

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluateConfig":
        if max(self.k) > self.samples:
            raise ValueError(f"pass@{max(self.k)} needs samples >= {max(self.k)}, not {self.samples}")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples at temperature 0 are all the same; set temperature above 0")
        return self


class CompareConfig(Section):
    """Arms are overrides of the recipe they stand in; `reference` those of the reference model's training."""

    baseline: str = "uniform"
    arms: dict[str, dict[str, Any]] = {}
    seeds: list[int] = [0]
    reference: dict[str, Any] | None = None


class Recipe(Section):
    """The experiment (`recipe.yaml`)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    seed: int = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    rho1: Rho1Config = Rho1Config()
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

    @property
    def weights(self) -> WeightConfig:
        """`loss` with `rho1.percentile_top_p`, where that is given, as its `top_p`."""
        if self.rho1.percentile_top_p is None:
            return self.loss
        return self.loss.model_copy(update={"top_p": self.rho1.percentile_top_p})


def load(
    recipe_path: Path | None, config_path: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[Recipe, Config]:
    """Read, merge and validate both files; each override (`key.sub=value`) goes to the file of its section.

    Raises:
        WMTPError: what is wrong, in which file and key, and what would be right.
    """
    recipe_tree = _read(recipe_path) if recipe_path else OmegaConf.create()
    config_tree = _read(config_path) if config_path else OmegaConf.create()
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise WMTPError(f"override {override!r} should look like key.sub=value")
        tree = config_tree if key.split(".")[0] in Config.model_fields else recipe_tree
        _set(tree, key, yaml.safe_load(text))
    return (
        _validate(Recipe, _resolve(recipe_tree, recipe_path), str(recipe_path or "recipe")),
        _validate(Config, _resolve(config_tree, config_path), str(config_path or "config")),
    )


def override(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """A recipe with dotted keys changed; `where` names their origin in errors."""
    tree = OmegaConf.create(to_dict(recipe))
    for key, value in changes.items():
        _set(tree, key, value)
    return _validate(Recipe, _resolve(tree, None), where)


def to_dict(section: Section) -> dict[str, Any]:
    """Plain values, under the names that the files use."""
    return section.model_dump(mode="json", by_alias=True)


def to_yaml(section: Section) -> str:
    """The file that reads back as this section."""
    return yaml.safe_dump(to_dict(section), sort_keys=False, allow_unicode=True)


def changed_keys(old: Section, new: Section) -> list[str]:
    """Dotted keys whose values differ."""

    def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                flat |= flatten(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value
        return flat

    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return sorted(key for key in before | after if before.get(key) != after.get(key))


def _read(path: Path, chain: tuple[Path, ...] = ()) -> DictConfig:
    if path.resolve() in chain:
        raise WMTPError(f"{path}: extends itself")
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError:
        raise WMTPError(f"{path}: no such file") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise WMTPError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, DictConfig):
        raise WMTPError(f"{path}: should be a mapping of sections")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    merged = OmegaConf.merge(_read(path.parent / parent, (*chain, path.resolve())), tree)
    assert isinstance(merged, DictConfig)
    return merged


def _set(tree: DictConfig, key: str, value: Any) -> None:
    try:
        OmegaConf.update(tree, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise WMTPError(f"{key}: {str(error).splitlines()[0]}") from None


def _resolve(tree: DictConfig, path: Path | None) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise WMTPError(f"{path or 'override'}: {str(error).splitlines()[0]}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


S = TypeVar("S", bound=Section)


def _validate(section: type[S], values: dict[str, Any], where: str) -> S:
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise WMTPError("\n".join(_explain(section, dict(e), where) for e in error.errors())) from None


def _explain(section: type[Section], error: dict[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _names_beside(section, error["loc"])
        return f"{where}: unknown key {key!r}; {did_you_mean(str(error['loc'][-1]), known)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    return f"{where}: {key}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _names_beside(section: type[Section], location: tuple[str | int, ...]) -> list[str]:
    for part in location[:-1]:
        field = next(f for n, f in section.model_fields.items() if part in (n, f.alias))
        candidates = (field.annotation, *get_args(field.annotation))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return [field.alias or name for name, field in section.model_fields.items()]
