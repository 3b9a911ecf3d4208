"""Benchmarks of lm-evaluation-harness on a model of this package.

Importing this module registers the backend with the harness as `wmtp`, also for its own command:
`--model wmtp --model_args run=RUN`.
"""

import math
import random
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from wmtp.environment import dtype_name
from wmtp.errors import WMTPError, one_line
from wmtp.evaluate.harness_model import MTPBackend
from wmtp.layout import LM_EVAL_FILE
from wmtp.progress import working
from wmtp.registry import did_you_mean
from wmtp.run import Run
from wmtp.storage import check_can_write, sha256_text, write_json


def evaluate_lm_eval(run: Run, tasks: Sequence[str]) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness on a run's newest checkpoint; writes `evaluation-lm-eval.json`.

    `evaluate.limit` limits the documents of each task, `evaluate.batch_size` is kept, and
    `evaluate.allow_code_execution` is the consent to tasks that run code.

    Args:
        tasks: names of tasks, groups or tags that the harness knows, or YAML files.

    Raises:
        WMTPError: an unknown task, one whose data cannot be loaded, or one that runs code without consent.
    """
    path, recipe = run.directory / LM_EVAL_FILE, run.recipe
    check_can_write(path)
    model = run.model
    with working("index the tasks of lm-eval"):
        manager = TaskManager()
    loaded = load_tasks(manager, tasks, allow_code=recipe.evaluate.allow_code_execution)
    backend = MTPBackend(model, run.tokenizer, batch_size=recipe.evaluate.batch_size, seed=recipe.seed)
    result = {
        "checkpoint": run.checkpoint.name,
        "lm_eval": version("lm_eval"),
        "dtype": dtype_name(model.dtype),
        "limit": recipe.evaluate.limit,
        "tasks": run_tasks(backend, loaded, recipe.evaluate.limit),
    }
    write_json(path, result)
    return result


def load_tasks(manager: TaskManager, names: Sequence[str], *, allow_code: bool) -> dict[str, Any]:
    """What the harness's `TaskManager.load` gives, set up as its `simple_evaluate` does.

    Raises:
        WMTPError: an unknown task, one whose data cannot be loaded, one that runs code without consent, or one that
            is not all text.
    """
    for name in names:
        if name not in manager.task_index and not Path(name).is_file():
            raise WMTPError(
                f"--lm-eval {name}: no such task or YAML file; {did_you_mean(name, manager.all_tasks)}"
            )
    try:
        loaded: dict[str, Any] = manager.load(list(names))
    except (OSError, ImportError, ValueError) as error:
        raise WMTPError(f"--lm-eval {','.join(names)}: cannot be loaded: {one_line(error)}") from None
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not allow_code:
        raise WMTPError(
            f"--lm-eval {unsafe[0]}: this task runs programs that the model wrote, outside the sandbox; "
            f"allow it with --allow-code-execution"
        )
    beyond_text = [name for name, task in loaded["tasks"].items() if getattr(task, "MULTIMODAL", False)]
    if beyond_text:
        raise WMTPError(
            f"--lm-eval {beyond_text[0]}: this task shows more than text, and the model reads text only"
        )
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return loaded


def run_tasks(backend: MTPBackend, loaded: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """By name of a task or group: version, number of shots and samples, a hash of documents, prompts and targets, and
    the metrics with their standard errors (None where the harness gives none)."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)  # noqa: NPY002 (what the harness draws from)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    found = evaluate(backend, loaded, limit=limit, confirm_run_unsafe_code=True)
    return {
        name: {
            "version": found["versions"].get(name),
            "shots": found["n-shot"].get(name),
            "samples": values.get("sample_len"),
            "hash": _hash(found["samples"].get(name)),
            "metrics": _metrics(values, found["higher_is_better"].get(name, {})),
        }
        for name, values in found["results"].items()
    }


def _hash(samples: Sequence[Mapping[str, Any]] | None) -> str | None:
    if samples is None:
        return None
    return sha256_text(*(s[part] for s in samples for part in ("doc_hash", "prompt_hash", "target_hash")))


def _metrics(values: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The harness keeps `name,filter` and `name_stderr,filter` side by side in a dictionary."""
    found = []
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        found.append(
            {
                "metric": metric,
                "filter": chosen,
                "value": _number(value),
                "stderr": _number(values.get(f"{metric}_stderr,{chosen}")),
                "higher_is_better": higher_is_better.get(metric),
            }
        )
    return found


def _number(value: Any) -> float | None:
    """None for anything but a finite number, such as the harness's "N/A"."""
    is_number = isinstance(value, int | float | np.floating) and math.isfinite(value)
    return float(value) if is_number else None
