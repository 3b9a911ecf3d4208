"""What runs record, in MLflow's terms: flat names, and values that it takes."""

import json
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from wmtp.evaluate.tasks import result_name

PARAM_LENGTH = 500
"""What every version of MLflow's server takes; longer values are cut."""
TAG_LENGTH = 5000
NAME_LENGTH = 250


def clean(name: str) -> str:
    """A name of the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII).strip("/")[:NAME_LENGTH]


def flatten(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names and printed values of a recipe's leaves."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= {clean(f"{key}.{inner}"): text for inner, text in flatten(value).items()}
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[clean(str(key))] = text[:PARAM_LENGTH]
    return flat


def record_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics record, named `kind/key`; a list has one entry per head."""
    values: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, list):
            values |= {f"{key}_head_{i}": number for i, number in enumerate(value)}
        elif key not in ("step", "time"):
            values[key] = value
    return _numbers(record["kind"], values)


def evaluation_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """pass@k, its standard error, verdicts and decoding figures of an `evaluation-<task>.json`; else nothing."""
    if "pass_at" not in evaluation:
        return {}
    values: dict[str, Any] = {}
    for k, estimate in evaluation["pass_at"].items():
        values |= {f"pass_at_{k}": estimate["value"], f"pass_at_{k}_stderr": estimate["stderr"]}
    values |= {f"verdict_{name}": count for name, count in evaluation.get("verdicts", {}).items()}
    decoding = evaluation.get("decoding") or {}
    values["tokens_per_forward"] = decoding.get("tokens_per_forward")
    values |= {f"acceptance_head_{i}": share for i, share in enumerate(decoding.get("acceptance", []), 1)}
    return _numbers(f"evaluation/{result_name(evaluation['task'], evaluation['protocol'])}", values)


def comparison_metrics(comparison: Mapping[str, Any]) -> dict[str, float]:
    """pass@1 and validation CE of every arm of a `comparison.json`, and its difference from the baseline."""
    found: dict[str, float] = {}
    for arm in comparison["arms"]:
        for figure in ("pass_at_1", "difference", "validation_ce"):
            parts = arm[figure] or {}
            values = {figure if part == "value" else f"{figure}_{part}": parts[part] for part in parts}
            found |= _numbers(f"arms/{arm['name']}", values)
    return found


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        clean(f"{prefix}/{key}"): float(value)
        for key, value in values.items()
        if isinstance(value, Real) and not isinstance(value, bool)
    }
