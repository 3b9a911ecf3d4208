"""The figures of the reports, each as an SVG element.

A series' number decides its colour, dash and marker: 0 is the baseline, the other arms follow in their order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from wmtp.experiment.results import Comparison, Interval
from wmtp.records import CriticRecord, Metrics, MetricsRecord
from wmtp.report.curves import Axis, Band, Floats, head_series, series
from wmtp.report.format import number, percent, percent_range
from wmtp.report.groups import Group
from wmtp.report.svg import (
    INK,
    MUTED,
    STYLE,
    color,
    compact,
    line,
    marker,
    new_figure,
    to_svg,
)

AXIS_LABELS: dict[Axis, str] = {"tokens": "training tokens", "seconds": "training seconds"}

_LOG_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


def series_numbers(comparison: Comparison) -> dict[str, int]:
    """Series number of every arm."""
    names = [comparison.baseline, *(arm.name for arm in comparison.other_arms)]
    return {name: n for n, name in enumerate(names)}


def pass_figure(comparison: Comparison) -> str:
    """pass@1 by arm: a dot and its interval, an open dot for every seed, a line at the baseline."""
    numbers = series_numbers(comparison)
    arms = list(reversed(comparison.arms))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.3, 0.5 + 0.32 * len(arms))
        axes = figure.subplots()
        axes.axvline(100 * comparison.baseline_arm.pass_at_1.value, color=MUTED, linewidth=0.8, dashes=(2, 2))
        for y, arm in enumerate(arms):
            _dot(axes, arm.pass_at_1, y, numbers[arm.name])
            if len(arm.by_seed) > 1:
                seeds = [100 * seed.pass_at_1 for seed in arm.by_seed]
                axes.plot(
                    seeds, [y - 0.27] * len(seeds), linestyle="none", marker="o", markersize=2.6,
                    markerfacecolor="none", markeredgecolor=MUTED, markeredgewidth=0.7,
                )  # fmt: skip
        axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(left=0)
        axes.set_xlabel("pass@1, %")
    parts = [f"{a.name} {percent(a.pass_at_1.value)}, {percent_range(a.pass_at_1)}" for a in comparison.arms]
    return to_svg(figure, "pass", f"pass@1 and its 95% interval by arm: {'; '.join(parts)}.")


def validation_figure(bands: dict[str, Band], numbers: dict[str, int], axis: Axis) -> str:
    """Validation cross-entropy of head 0 by arm, mean and range over seeds."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure()
        axes = figure.subplots()
        for name, band in bands.items():
            n = numbers[name]
            axes.fill_between(band.x, band.low, band.high, color=color(n), alpha=0.2, linewidth=0)
            axes.plot(band.x, band.mean, **line(n), **_points(band.x, n))
        _over_training(axes, axis)
        _log_scale(axes)
        axes.set_title(f"validation cross-entropy of head 0 at equal {axis}")
    parts = [f"{name} ends at {number(float(b.mean[-1]), 3)}" for name, b in bands.items()]
    alt = f"Validation cross-entropy of head 0 against {AXIS_LABELS[axis]}: {'; '.join(parts)}."
    return to_svg(figure, f"validation-{axis}", alt)


def heads_figure(
    title: str,
    records: Sequence[MetricsRecord],
    name: str,
    limits: tuple[float, float],
    size: tuple[float, float] = (2.7, 2.1),
) -> str:
    """Cross-entropy of every head of one run.

    Args:
        title: above the figure.
        records: of one kind.
        name: unique in the page.
        limits: of the y axis, so that figures can be read side by side.
        size: width and height in inches.
    """
    curves = head_series(records)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(*size)
        axes = figure.subplots()
        for head, (x, y) in enumerate(curves):
            axes.plot(x, y, color=INK, alpha=1 - 0.7 * head / max(len(curves) - 1, 1), linewidth=1.1)
        _over_training(axes, "tokens")
        axes.set_ylim(*limits)
        _log_scale(axes)
        _label_heads(axes, [(h, float(y[-1])) for h, (_, y) in enumerate(curves) if len(y)])
        axes.set_title(title)
    parts = [f"head {h} ends at {number(float(y[-1]), 3)}" for h, (_, y) in enumerate(curves) if len(y)]
    return to_svg(figure, name, f"{title}: cross-entropy by head; {'; '.join(parts)}.")


def acceptance_figure(acceptance: dict[str, list[float]], numbers: dict[str, int]) -> str:
    """Share of accepted drafts of heads 1..H-1 by arm, as bars."""
    heads = max(len(shares) for shares in acceptance.values())
    width = 0.78 / len(acceptance)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.3, 2.5)
        axes = figure.subplots()
        for place, (name, shares) in enumerate(acceptance.items()):
            offset = (place - (len(acceptance) - 1) / 2) * width
            axes.bar(
                [h + offset for h in range(1, len(shares) + 1)], [100 * share for share in shares],
                width=width * 0.88, color=color(numbers[name]), linewidth=0,
            )  # fmt: skip
        axes.set_xticks(range(1, heads + 1), [f"head {h}" for h in range(1, heads + 1)])
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0, 100)
        axes.set_title("accepted drafts, %")
    parts = [f"{name} {', '.join(percent(s) for s in shares)}" for name, shares in acceptance.items()]
    return to_svg(figure, "acceptance", f"Accepted drafts of heads 1 and up by arm: {'; '.join(parts)}.")


def groups_figure(groups: Sequence[Group], numbers: dict[str, int], title: str, name: str) -> str:
    """pass@1 with its interval by group of problems, the arms side by side."""
    arms = list(groups[0].pass_at_1)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.3, 2.5)
        axes = figure.subplots()
        for place, arm in enumerate(arms):
            offset = (place - (len(arms) - 1) / 2) * 0.6 / len(arms)
            for x, group in enumerate(groups):
                _dot(axes, group.pass_at_1[arm], x + offset, numbers[arm], upright=True)
        axes.set_xticks(range(len(groups)), [f"{g.name}\nn = {g.problems}" for g in groups])
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0, 100)
        axes.set_title(title)
    parts = [
        f"{group.name}: "
        + ", ".join(f"{arm} {percent(found.value)}" for arm, found in group.pass_at_1.items())
        for group in groups
    ]
    return to_svg(figure, name, f"{title}. {'; '.join(parts)}.")


def run_figure(
    metrics: Metrics, title: str, name: str, value: Callable[[MetricsRecord], float | None]
) -> str | None:
    """One number of the training records against tokens; None if no record has it."""
    x, y = series(metrics.train, value)
    if not len(x):
        return None
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.7, 1.9)
        axes = figure.subplots()
        axes.plot(x, y, color=color(1), linewidth=1.1)
        _over_training(axes, "tokens")
        axes.set_title(title)
    return to_svg(figure, name, f"{title}: from {y[0]:.4g} to {y[-1]:.4g}.")


def critic_figure(records: Sequence[CriticRecord]) -> str | None:
    """The critic's AUC at every validation of stage 1; None if no validation has one."""
    points = [(record.step, record.auc) for record in records if record.auc is not None]
    if not points:
        return None
    x, y = np.array(points, dtype=np.float64).T
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.7, 1.9)
        axes = figure.subplots()
        axes.axhline(0.5, color=MUTED, linewidth=0.8, dashes=(2, 2))
        axes.plot(x, y, **line(1), **_points(x, 1))
        axes.xaxis.set_major_formatter(FuncFormatter(compact))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlim(left=0)
        axes.set_ylim(min(0.45, float(y.min()) - 0.05), 1.02)
        axes.set_xlabel("steps of stage 1")
        axes.set_title("AUC on held-out documents")
    alt = f"The critic's AUC on held-out documents: from {y[0]:.3f} to {y[-1]:.3f}, {y.max():.3f} at best."
    return to_svg(figure, "critic", alt)


def shared_limits(records: Sequence[Sequence[MetricsRecord]]) -> tuple[float, float]:
    """Logarithmic y limits that fit every head's curve of every run."""
    values: list[Floats] = [y[y > 0] for rows in records for _, y in head_series(rows)]
    known = np.concatenate([*values, np.empty(0)])
    if not known.size:
        return 0.1, 1.0
    return float(known.min()) / 1.1, float(known.max()) * 1.1


def log_ticks(low: float, high: float) -> list[float]:
    """The fewest round numbers between two positive limits that label a logarithmic axis: two or more."""
    for steps in _LOG_STEPS:
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [float(f"{step * 10.0**e:.6g}") for e in exponents for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    return [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The places in ascending order, moved up just enough to be `gap` apart."""
    moved: dict[int, float] = {}
    free = -float("inf")
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        moved[i] = max(places[i], free)
        free = moved[i] + gap
    return [moved[i] for i in range(len(places))]


def _points(x: Floats, n: int) -> dict[str, Any]:
    """Markers for a curve with so few points that they can be told apart."""
    return {"marker": marker(n), "markersize": 3} if len(x) <= 12 else {}


def _dot(axes: Any, found: Interval, place: float, n: int, *, upright: bool = False) -> None:
    value = 100 * found.value
    reach = None
    if found.low is not None and found.high is not None:
        reach = [[value - 100 * found.low], [100 * found.high - value]]
    x, y = ([place], [value]) if upright else ([value], [place])
    axes.errorbar(
        x, y, **{"yerr" if upright else "xerr": reach}, color=color(n), marker=marker(n),
        markersize=4 if upright else 5, elinewidth=1.2, markeredgewidth=0,
    )  # fmt: skip


def _over_training(axes: Any, axis: Axis) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(compact))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(left=0)
    axes.set_xlabel(AXIS_LABELS[axis])


def _log_scale(axes: Any) -> None:
    """Make late differences as visible as early ones, with round numbers as ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim())))
    axes.yaxis.set_major_formatter(FuncFormatter(compact))
    axes.yaxis.set_minor_locator(NullLocator())


def _label_heads(axes: Any, ends: Sequence[tuple[int, float]]) -> None:
    to_fraction = axes.transData + axes.transAxes.inverted()
    places = [float(to_fraction.transform((0, value))[1]) for _, value in ends]
    for (head, _), place in zip(ends, spread(places, 0.07), strict=True):
        axes.text(1.02, place, str(head), transform=axes.transAxes, fontsize=7, color=MUTED, va="center")
