"""Gathers what a comparison's page shows from its directory."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.evaluate.tasks import result_name
from wmtp.experiment.results import ArmResult, Comparison, read_comparison, read_heatmap
from wmtp.layout import HEATMAP_FILE, METRICS_FILE, RECIPE_FILE, evaluation_file, samples_file
from wmtp.records import (
    Evaluation,
    Metrics,
    Sample,
    read_evaluation,
    read_metrics,
    read_samples,
)
from wmtp.report import figures
from wmtp.report.curves import validation_band
from wmtp.report.groups import Group, Key, grouped
from wmtp.report.headline import headline, notes
from wmtp.report.heatmap import Heatmap, heatmap
from wmtp.report.programs import shown_problems
from wmtp.report.svg import swatch_symbols

MAX_HEATMAP_SAMPLES = 12
GROUP_TITLES: dict[Key, str] = {
    "operations": "pass@1 by number of operations, %",
    "family": "pass@1 by family, %",
}


@dataclass(frozen=True)
class ArmFiles:
    """One arm's metrics and evaluations of every seed, and the samples of its first.

    A list is empty unless its file exists for every seed (samples: for the first).
    """

    metrics: list[Metrics]
    evaluations: list[Evaluation]
    samples: list[Sample]


@dataclass(frozen=True)
class GroupedResult:
    """pass@1 by one kind of group, as numbers and as a figure."""

    title: str
    groups: list[Group]
    figure: str


def comparison_context(directory: Path) -> dict[str, Any]:
    """The template's variables; `left_out` names what has no data.

    Raises:
        WMTPError: `comparison.json` is absent, or one of the files cannot be read.
    """
    comparison = read_comparison(directory)
    left_out: list[str] = []
    name = result_name(comparison.task, comparison.protocol)
    files = {arm.name: _arm_files(directory, arm, name, left_out) for arm in comparison.arms}
    samples = {name: found.samples for name, found in files.items() if found.samples}
    recipe = directory / RECIPE_FILE
    return {
        "comparison": comparison,
        "series": figures.series_numbers(comparison),
        "symbols": swatch_symbols(len(comparison.arms)),
        "headline": headline(comparison),
        "notes": notes(comparison),
        "pass_figure": figures.pass_figure(comparison),
        "curve_figures": _curve_figures(comparison, files, left_out),
        "head_figures": _head_figures(files),
        "acceptance": _acceptance(comparison, left_out),
        "grouped": _grouped(comparison, files, left_out),
        "heatmap": _heatmap(directory, left_out),
        "problems": shown_problems(samples) if samples else [],
        "verdicts": sorted({verdict for arm in comparison.arms for verdict in arm.verdicts}),
        "command": _command(comparison),
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        "left_out": left_out,
    }


def _command(comparison: Comparison) -> str:
    """The command that repeats the comparison with the same seeds and arms."""
    seeds = f"compare.seeds=[{','.join(map(str, comparison.seeds))}]"
    arms = ",".join(arm.name for arm in comparison.arms)
    return shlex.join(["wmtp", "compare", RECIPE_FILE, seeds, "--arms", arms])


def _arm_files(directory: Path, arm: ArmResult, evaluation: str, left_out: list[str]) -> ArmFiles:
    runs = [directory / seed.run for seed in arm.by_seed]
    samples = [samples_file(run, evaluation) for run in runs[:1]]

    def each(paths: list[Path], what: str) -> list[Path]:
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            left_out.append(f"{what} of {arm.name}: there is no {missing.relative_to(directory)}")
        return paths if missing is None else []

    return ArmFiles(
        metrics=[
            read_metrics(p.parent) for p in each([run / METRICS_FILE for run in runs], "Learning curves")
        ],
        evaluations=[
            read_evaluation(path)
            for path in each([evaluation_file(run, evaluation) for run in runs], "pass@1 by kind of problem")
        ],
        samples=[row for path in each(samples, "Programs") for row in read_samples(path)],
    )


def _curve_figures(comparison: Comparison, files: dict[str, ArmFiles], left_out: list[str]) -> list[str]:
    drawn = []
    for axis in figures.AXIS_LABELS:
        bands = {name: validation_band(found.metrics, axis) for name, found in files.items()}
        known = {name: band for name, band in bands.items() if band is not None}
        if known:
            drawn.append(figures.validation_figure(known, figures.series_numbers(comparison), axis))
    for name, found in files.items():
        if found.metrics and not any(run.validation for run in found.metrics):
            left_out.append(f"Validation curve of {name}: its metrics have no validation records")
    return drawn


def _head_figures(files: dict[str, ArmFiles]) -> list[str]:
    records = {name: found.metrics[0].train for name, found in files.items() if found.metrics}
    limits = figures.shared_limits(list(records.values()))
    return [
        figures.heads_figure(name, rows, f"heads-{n}", limits)
        for n, (name, rows) in enumerate(records.items())
        if rows
    ]


def _acceptance(comparison: Comparison, left_out: list[str]) -> str | None:
    measured = {arm.name: arm.acceptance for arm in comparison.arms if arm.acceptance}
    without = [arm.name for arm in comparison.arms if not arm.acceptance]
    if without:
        left_out.append(
            f"Acceptance of drafts: not measured for {', '.join(without)} (one head, or no draft was checked)"
        )
    return figures.acceptance_figure(measured, figures.series_numbers(comparison)) if measured else None


def _grouped(comparison: Comparison, files: dict[str, ArmFiles], left_out: list[str]) -> list[GroupedResult]:
    evaluations = {name: found.evaluations for name, found in files.items() if found.evaluations}
    if not evaluations:
        return []
    results = []
    for key, title in GROUP_TITLES.items():
        groups = grouped(evaluations, key)
        if groups:
            figure = figures.groups_figure(groups, figures.series_numbers(comparison), title, key)
            results.append(GroupedResult(title=title, groups=groups, figure=figure))
        else:
            left_out.append(
                f"{title.removesuffix(', %')}: the evaluations do not say what kind each problem is"
            )
    return results


def _heatmap(directory: Path, left_out: list[str]) -> Heatmap | None:
    if not (directory / HEATMAP_FILE).is_file():
        left_out.append(f"Token weights: there is no {HEATMAP_FILE}")
        return None
    samples = read_heatmap(directory)
    if not samples:
        left_out.append(f"Token weights: {HEATMAP_FILE} holds no sample")
        return None
    return heatmap(samples, limit=MAX_HEATMAP_SAMPLES)
