"""Gathers what a training run's page shows from its directory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wmtp.errors import WMTPError
from wmtp.layout import DATA_FILE, ENVIRONMENT_FILE, RECIPE_FILE
from wmtp.records import (
    DataSummary,
    Evaluation,
    Metrics,
    MetricsRecord,
    read_critic_validations,
    read_data_summary,
)
from wmtp.report import figures
from wmtp.report.format import number
from wmtp.report.measures import read_measures
from wmtp.run import Run
from wmtp.storage import read_json

TRACES: dict[str, tuple[str, Callable[[MetricsRecord], float | None]]] = {
    "loss": ("weighted loss, nats", lambda r: r.loss),
    "weight-mean": ("mean weight", lambda r: r.weight_mean),
    "weight-entropy": ("weight entropy, 1 = uniform", lambda r: r.weight_entropy),
    "weight-effective": ("effective share of tokens", lambda r: r.weight_effective),
    "grad-norm": ("gradient norm", lambda r: r.grad_norm),
    "lr": ("learning rate", lambda r: r.lr),
    "speed": ("tokens per second", lambda r: r.tokens_per_second),
    "memory": ("memory, MiB", lambda r: r.memory_mib),
}


def run_context(run: Run) -> dict[str, Any]:
    """Everything that the template needs; what has no data is named in `left_out`.

    Raises:
        WMTPError: the metrics are absent or empty, or one of the files cannot be read.
    """
    metrics, directory = run.metrics, run.directory
    if not metrics.train:
        raise WMTPError(f"{directory / 'metrics.jsonl'}: no training step was logged yet")
    left_out: list[str] = []
    traces = {}
    for name, (title, value) in TRACES.items():
        figure = figures.run_figure(metrics, title, name, value)
        if figure is None:
            left_out.append(f"{title}: not in the metrics")
        else:
            traces[name] = figure
    recipe = directory / RECIPE_FILE
    return {
        "name": directory.resolve().name,
        "last": metrics.train[-1],
        "last_validation": metrics.validation[-1] if metrics.validation else None,
        "skipped_steps": metrics.train[-1].skipped_steps,
        "nonfinite_scores": metrics.train[-1].nonfinite_scores,
        "head_figures": _head_figures(metrics, left_out),
        "traces": list(traces.values()),
        "critic": _critic(run),
        "evaluations": _evaluations(run, left_out),
        "measures": read_measures(directory),
        "environment": _environment(directory / ENVIRONMENT_FILE, left_out),
        "data": _data(directory, left_out),
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        "left_out": left_out,
    }


def _head_figures(metrics: Metrics, left_out: list[str]) -> list[str]:
    kinds = {"training": metrics.train, "validation": metrics.validation}
    limits = figures.shared_limits(list(kinds.values()))
    if not metrics.validation:
        left_out.append("Validation: nothing was validated")
    return [
        figures.heads_figure(
            f"{kind} cross-entropy, nats/token", rows, f"heads-{kind}", limits, size=(4.0, 2.7)
        )
        for kind, rows in kinds.items()
        if rows
    ]


def _critic(run: Run) -> dict[str, Any] | None:
    """Facts and figures of the run's own critic, if it has one."""
    found = run.critic
    if found is None:
        return None
    curve = figures.critic_figure(read_critic_validations(run.directory))
    return {
        "facts": {
            "objective": found.objective,
            "AUC": number(found.auc, 3),
            "explained variance": number(found.explained_variance, 3),
            "calibration error": number(found.calibration, 3),
            "documents": f"{number(found.documents, 0)} for training, {number(found.held_out, 0)} held out",
            "best step": f"{number(found.best_step, 0)} of {number(found.steps, 0)}",
            "training seconds": number(found.seconds, 1),
        },
        "figures": [] if curve is None else [curve],
    }


def _evaluations(run: Run, left_out: list[str]) -> list[Evaluation]:
    found = run.evaluations
    if not found:
        left_out.append("Evaluation: there is no evaluation-<task>.json")
    return found


def _data(run: Path, left_out: list[str]) -> DataSummary | None:
    found = read_data_summary(run)
    if found is None:
        left_out.append(f"Data: there is no {DATA_FILE}")
    return found


def _environment(path: Path, left_out: list[str]) -> dict[str, str]:
    if not path.is_file():
        left_out.append(f"Environment: there is no {path.name}")
        return {}
    content = read_json(path)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}
