"""Results of a comparison, as written to `comparison.json` and `heatmap.json`."""

from dataclasses import asdict, field
from pathlib import Path

from pydantic import ConfigDict, JsonValue, TypeAdapter
from pydantic.dataclasses import dataclass

from wmtp.errors import WMTPError
from wmtp.layout import COMPARISON_FILE, HEATMAP_FILE
from wmtp.storage import write_json
from wmtp.typed_json import read_as

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Interval:
    """An estimate and its 95% interval; the bounds are None where the data cannot give them."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, config=_STRICT)
class Difference:
    """Arm minus baseline with its 95% interval, and the p value of a paired test."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, config=_STRICT)
class SeedResult:
    """One training run of an arm; `run` is its directory relative to the comparison's."""

    seed: int
    pass_at_1: float
    validation_ce: float
    run: str


@dataclass(frozen=True, config=_STRICT)
class ArmResult:
    """One arm over all its seeds.

    Attributes:
        description: what this arm overrides in the recipe, by dotted key.
        pass_at_1: share of samples passed (0..1), mean over problems and seeds.
        difference: `pass_at_1` minus the baseline's; None for the baseline itself.
        validation_ce: head 0's cross-entropy in nats per supervised token, mean over seeds.
        tokens_per_forward: of self-speculative decoding; None when it was not measured.
        acceptance: share of accepted drafts of heads 1..H-1; None when it was not measured.
        training_tokens_per_second, training_seconds, training_tokens: of one run, mean over seeds.
        verdicts: samples by verdict, all seeds together.
    """

    name: str
    description: dict[str, JsonValue]
    pass_at_1: Interval
    difference: Difference | None
    validation_ce: Interval
    tokens_per_forward: float | None
    acceptance: list[float] | None
    training_tokens_per_second: float
    training_seconds: float
    training_tokens: int
    by_seed: list[SeedResult]
    verdicts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class ReferenceResult:
    """Result of the reference model, which scored the tokens and is no arm."""

    pass_at_1: float | None
    validation_ce: float
    seconds: float
    run: str


@dataclass(frozen=True, config=_STRICT)
class Comparison:
    """Arms × seeds on one task, each arm against `baseline`; arms are in the recipe's order."""

    name: str
    task: str
    protocol: str
    baseline: str
    seeds: list[int]
    steps: int
    problems: int
    arms: list[ArmResult]
    reference: ReferenceResult | None = None
    conditions: dict[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms: two have the same name: {names}")
        if self.baseline not in names:
            raise ValueError(f"baseline: {self.baseline!r} is not one of the arms {names}")
        for arm in self.arms:
            if (arm.difference is None) != (arm.name == self.baseline):
                raise ValueError(f"arms: {arm.name!r}: the baseline, and only it, has no difference")

    @property
    def baseline_arm(self) -> ArmResult:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.baseline)

    @property
    def other_arms(self) -> list[ArmResult]:
        """Every arm but the baseline."""
        return [arm for arm in self.arms if arm.name != self.baseline]


@dataclass(frozen=True, config=_STRICT)
class TokenSample:
    """One training document and how every arm weighted its tokens.

    Attributes:
        title: names the sample, e.g. its problem and what was planted.
        prompt_tokens: how many of the first tokens belong to the prompt.
        tokens: decoded pieces; joined they give the text.
        supervised: whether the token is a target of head 0.
        planted: whether the token belongs to an error planted by the corpus' noise.
        weights: by arm, the weight of every token as head 0's target; None where not supervised.
    """

    title: str
    prompt_tokens: int
    tokens: list[str]
    supervised: list[bool]
    planted: list[bool]
    weights: dict[str, list[float | None]]

    def __post_init__(self) -> None:
        lengths = {"supervised": len(self.supervised), "planted": len(self.planted)}
        lengths |= {f"weights.{arm}": len(row) for arm, row in self.weights.items()}
        for name, length in lengths.items():
            if length != len(self.tokens):
                raise ValueError(f"{name}: {length} entries for {len(self.tokens)} tokens")


_COMPARISON = TypeAdapter(Comparison)
_SAMPLES = TypeAdapter(list[TokenSample])


def write_comparison(comparison: Comparison, directory: Path) -> None:
    """Write `comparison.json` atomically."""
    write_json(directory / COMPARISON_FILE, asdict(comparison))


def read_comparison(directory: Path) -> Comparison:
    """Read `comparison.json`.

    Raises:
        WMTPError: it is absent, or not what `write_comparison` writes.
    """
    return read_as(_written(directory / COMPARISON_FILE), _COMPARISON)


def write_heatmap(samples: list[TokenSample], directory: Path) -> None:
    """Write `heatmap.json` atomically."""
    write_json(directory / HEATMAP_FILE, [asdict(sample) for sample in samples])


def read_heatmap(directory: Path) -> list[TokenSample]:
    """Read `heatmap.json`.

    Raises:
        WMTPError: it is absent, or not what `write_heatmap` writes.
    """
    return read_as(_written(directory / HEATMAP_FILE), _SAMPLES)


def _written(path: Path) -> Path:
    if not path.is_file():
        raise WMTPError(f"{path}: no such file; `wmtp compare` writes it")
    return path
