"""Reads what a run wrote: metrics, critic, evaluation, samples."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wmtp.errors import WMTPError
from wmtp.layout import CRITIC, CRITIC_FILE, DATA_FILE, METRICS_FILE
from wmtp.typed_json import read_as, read_lines_as


@dataclass(frozen=True)
class MetricsRecord:
    """One line of `metrics.jsonl`; `ce` is per head, None where a step did not compute it."""

    kind: str
    step: int
    tokens: int
    seconds: float
    ce: list[float | None]
    loss: float | None = None
    weight_mean: float | None = None
    weight_entropy: float | None = None
    weight_effective: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    tokens_per_second: float | None = None
    memory_mib: float | None = None
    skipped_steps: int | None = None
    nonfinite_scores: int | None = None


@dataclass(frozen=True)
class Metrics:
    """The records of one run by kind, in order of steps."""

    train: list[MetricsRecord]
    validation: list[MetricsRecord]


@dataclass(frozen=True)
class CriticRecord:
    """One line of the critic's `metrics.jsonl`; only validations have an AUC."""

    kind: str
    step: int
    auc: float | None = None


@dataclass(frozen=True)
class CriticResult:
    """`critic.json`: results of stage 1 on held-out documents; None where a number is undefined."""

    objective: str
    documents: int
    held_out: int
    steps: int
    seconds: float
    best_step: int
    auc: float | None
    explained_variance: float | None
    calibration: float | None


@dataclass(frozen=True)
class ProblemResult:
    """One problem's row in an evaluation; the groups are known for generated tasks only."""

    task_id: str
    samples: int
    passed: int
    verdict: str
    operations: int | None = None
    family: str | None = None


@dataclass(frozen=True)
class PassAt:
    """pass@k and its standard error; `best_of` lists the temperatures it is the best of, if several."""

    value: float
    stderr: float | None = None
    best_of: list[float] | None = None


@dataclass(frozen=True)
class Decoding:
    """Statistics of self-speculative decoding."""

    tokens_per_forward: float
    acceptance: list[float]


@dataclass(frozen=True)
class Evaluation:
    """`evaluation-<task>.json`."""

    task: str
    protocol: str
    problems: int
    samples_per_problem: int
    pass_at: dict[str, PassAt]
    by_problem: list[ProblemResult]
    verdicts: dict[str, int] = field(default_factory=dict)
    decoding: Decoding | None = None
    left_out: list[str] = field(default_factory=list)
    base_pass_at: dict[str, PassAt] = field(default_factory=dict)
    stops: dict[str, int] = field(default_factory=dict)
    syntax_errors: int = 0
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def pass_at_1(self) -> float:
        """The share of samples that passed, mean over problems: pass@1 for any number of samples."""
        return sum(p.passed / p.samples for p in self.by_problem) / len(self.by_problem)

    @property
    def answers(self) -> list[str]:
        """Lines about how completions end and whether they parse."""
        lines = []
        if self.stops:
            ends = ", ".join(f"{count:,} {reason}" for reason, count in self.stops.items())
            lines.append(f"completions ended by: {ends}")
        if self.syntax_errors:
            lines.append(
                f"{self.syntax_errors:,} of {sum(self.verdicts.values()):,} samples are not valid Python"
            )
        return lines


@dataclass(frozen=True)
class SplitSummary:
    """Documents of a split by what happened to them (`wmtp.data.dataset.Counts`)."""

    tokens: int
    supervised_tokens: int
    documents: int
    blank: int
    overlong: int
    unsupervised: int
    cut: int

    @property
    def left_out(self) -> int:
        """Documents that were left out."""
        return self.blank + self.overlong + self.unsupervised


@dataclass(frozen=True)
class DataSummary:
    """`data.json`."""

    training: SplitSummary
    validation: SplitSummary
    notes: list[str]

    @property
    def splits(self) -> dict[str, SplitSummary]:
        """Both, by name."""
        return {"training": self.training, "validation": self.validation}


@dataclass(frozen=True)
class Sample:
    """One generated program and its verdict."""

    task_id: str
    sample: int
    completion: str
    verdict: str
    message: str = ""


_RECORD = TypeAdapter(MetricsRecord)
_EVALUATION = TypeAdapter(Evaluation)
_DATA = TypeAdapter(DataSummary)
_CRITIC = TypeAdapter(CriticResult)
_CRITIC_RECORD = TypeAdapter(CriticRecord)
_SAMPLE = TypeAdapter(Sample)


def read_metrics(run: Path) -> Metrics:
    """Read a run's `metrics.jsonl`.

    Of a step that was logged twice (by a run that resumed from a checkpoint) the last record counts.

    Raises:
        WMTPError: the file is absent or a line is not a metrics record.
    """
    path = run / METRICS_FILE
    if not path.is_file():
        raise WMTPError(f"{path}: no such file; is {run} a run directory?")
    by_kind: dict[str, dict[int, MetricsRecord]] = {"train": {}, "validation": {}}
    for record in read_lines_as(path, _RECORD):
        if record.kind in by_kind:
            by_kind[record.kind][record.step] = record
    train, validation = ([records[s] for s in sorted(records)] for records in by_kind.values())
    return Metrics(train=train, validation=validation)


def read_data_summary(run: Path) -> DataSummary | None:
    """Read what the run learns from; None for runs from before it was recorded.

    Raises:
        WMTPError: `data.json` cannot be read as one.
    """
    path = run / DATA_FILE
    return read_as(path, _DATA) if path.is_file() else None


def read_critic(run: Path) -> CriticResult | None:
    """Read the results of the run's own stage 1; None if there was none, or it is not finished.

    Raises:
        WMTPError: `critic.json` cannot be read as one.
    """
    path = run / CRITIC / CRITIC_FILE
    if not path.is_file():
        return None
    return read_as(path, _CRITIC)


def read_critic_validations(run: Path) -> list[CriticRecord]:
    """Read the validations of the run's own stage 1, in order of steps; the last one of a step counts.

    Raises:
        WMTPError: a line of its metrics cannot be read.
    """
    path = run / CRITIC / METRICS_FILE
    records = read_lines_as(path, _CRITIC_RECORD) if path.is_file() else []
    by_step = {record.step: record for record in records if record.kind == "validation"}
    return [by_step[step] for step in sorted(by_step)]


def read_evaluation(path: Path) -> Evaluation:
    """Read an `evaluation-<task>.json`.

    Raises:
        WMTPError: it cannot be read as one.
    """
    return read_as(path, _EVALUATION)


def read_samples(path: Path) -> list[Sample]:
    """Read a `samples/<task>.jsonl` in file order.

    Raises:
        WMTPError: a line is not a sample.
    """
    return read_lines_as(path, _SAMPLE)
