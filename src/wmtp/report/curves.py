"""Curves over training, averaged over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wmtp.records import Metrics, MetricsRecord

Floats = NDArray[np.float64]
Axis = Literal["tokens", "seconds"]

MAX_POINTS = 240


@dataclass(frozen=True)
class Band:
    """A mean curve and its range over seeds, each [points]."""

    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def validation_band(runs: Sequence[Metrics], axis: Axis) -> Band | None:
    """Validation cross-entropy of head 0 over seeds, at the steps that every seed measured.

    x is the mean of the seeds' tokens (or training seconds) at that step; low and high are the minimum and maximum
    over seeds. None if there is no common step.
    """
    by_step = [{r.step: r for r in run.validation if r.ce and r.ce[0] is not None} for run in runs]
    if not by_step:
        return None
    steps = sorted(set.intersection(*(set(records) for records in by_step)))
    if not steps:
        return None
    rows = [[records[step] for step in steps] for records in by_step]
    x_rp = np.array([[getattr(record, axis) for record in row] for row in rows], dtype=np.float64)
    ce_rp = np.array([[record.ce[0] for record in row] for row in rows], dtype=np.float64)
    return Band(x=x_rp.mean(axis=0), mean=ce_rp.mean(axis=0), low=ce_rp.min(axis=0), high=ce_rp.max(axis=0))


def series(
    records: Sequence[MetricsRecord], value: Callable[[MetricsRecord], float | None]
) -> tuple[Floats, Floats]:
    """(tokens, values) of the records that have the value, thinned."""
    pairs = [(record.tokens, value(record)) for record in records]
    known = np.array([(x, y) for x, y in pairs if y is not None], dtype=np.float64).reshape(-1, 2)
    return thinned(known[:, 0], known[:, 1])


def head_series(records: Sequence[MetricsRecord]) -> list[tuple[Floats, Floats]]:
    """(tokens, cross-entropy) of every head."""
    heads = max((len(record.ce) for record in records), default=0)

    def of_head(h: int) -> Callable[[MetricsRecord], float | None]:
        return lambda record: record.ce[h] if h < len(record.ce) else None

    return [series(records, of_head(h)) for h in range(heads)]


def thinned(x: Floats, y: Floats, limit: int = MAX_POINTS) -> tuple[Floats, Floats]:
    """At most `limit` points, each the mean of equally many neighbours (the last may have fewer)."""
    size = -(-len(x) // limit)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts
