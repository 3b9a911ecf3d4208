"""Token weights as colours: neutral at 1, one hue below, another above."""

from collections.abc import Sequence
from dataclasses import dataclass

from wmtp.experiment.results import TokenSample
from wmtp.report.format import visible

SATURATION = 3.0


@dataclass(frozen=True)
class Cell:
    """One token as drawn; `strength` is None for a token without a weight."""

    text: str
    weight: float | None
    strength: float | None
    planted: bool


@dataclass(frozen=True)
class PlaceMeans:
    """Mean weight of the tokens of planted errors and of all other weighted tokens, with their counts."""

    planted: float | None
    planted_tokens: int
    other: float | None
    other_tokens: int


@dataclass(frozen=True)
class HeatmapBlock:
    """One sample as one arm weighted it."""

    arm: str
    cells: list[Cell]
    means: PlaceMeans


@dataclass(frozen=True)
class DrawnSample:
    """One sample: its prompt, unless an arm weighted part of it, and a block per arm."""

    title: str
    prompt: list[Cell]
    blocks: list[HeatmapBlock]


@dataclass(frozen=True)
class Heatmap:
    """The drawn samples out of `total`, and mean weights by arm over all of them."""

    drawn: list[DrawnSample]
    total: int
    means: dict[str, PlaceMeans]


def strength(weight: float) -> float:
    """Signed strength of the colour: -1 at weight 0, 0 at weight 1, +1 at `SATURATION` and above."""
    return weight - 1 if weight < 1 else min((weight - 1) / (SATURATION - 1), 1.0)


def cells(sample: TokenSample, arm: str) -> list[Cell]:
    """The sample's tokens as one arm weighted them, prompt included."""
    return [
        Cell(
            text=visible(token),
            weight=weight,
            strength=None if weight is None else strength(weight),
            planted=planted,
        )
        for token, weight, planted in zip(sample.tokens, sample.weights[arm], sample.planted, strict=True)
    ]


def heatmap(samples: Sequence[TokenSample], limit: int | None = None) -> Heatmap:
    """The first `limit` samples as drawn, and the means over all."""
    arms = dict.fromkeys(arm for sample in samples for arm in sample.weights)
    return Heatmap(
        drawn=[_drawn(sample) for sample in samples[:limit]],
        total=len(samples),
        means={arm: place_means(samples, arm) for arm in arms},
    )


def place_means(samples: Sequence[TokenSample], arm: str) -> PlaceMeans:
    """Mean weights of the arm over all samples that it weighted."""
    planted: list[float] = []
    other: list[float] = []
    for sample in samples:
        if arm not in sample.weights:
            continue
        for weight, is_planted in zip(sample.weights[arm], sample.planted, strict=True):
            if weight is not None:
                (planted if is_planted else other).append(weight)
    return PlaceMeans(
        planted=sum(planted) / len(planted) if planted else None,
        planted_tokens=len(planted),
        other=sum(other) / len(other) if other else None,
        other_tokens=len(other),
    )


def _drawn(sample: TokenSample) -> DrawnSample:
    blocks = {arm: cells(sample, arm) for arm in sample.weights}
    weighted = any(cell.weight is not None for row in blocks.values() for cell in row[: sample.prompt_tokens])
    start = 0 if weighted else sample.prompt_tokens
    return DrawnSample(
        title=visible(sample.title),
        prompt=next(iter(blocks.values()), [])[:start],
        blocks=[HeatmapBlock(arm, row[start:], place_means([sample], arm)) for arm, row in blocks.items()],
    )
