"""CodeContests (Li et al. 2022, arXiv 2203.07814): scripts that read standard input and write standard output."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wmtp.config import EvaluateConfig, Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import HIGH, META_MTP, Protocol, TaskSettings
from wmtp.evaluate.rows import EvaluationRow, unified
from wmtp.evaluate.tasks import settings_of, takes
from wmtp.evaluate.tasks.base import SEVERAL_ANSWERS, ListedTask, Problem, check_unique, data_rows
from wmtp.sandbox import Case, StdinProgram

SOURCE = "a split of deepmind/code_contests (huggingface.co/datasets), as JSON lines"
PRIVATE = ("private_tests", "generated_tests", "other_tests")
SOURCES = ("UNKNOWN_SOURCE", "CODECHEF", "CODEFORCES", "HACKEREARTH", "CODEJAM", "", "ATCODER", "AIZU")
"""Where problems come from, by the number that is published."""
PYTHON3 = 3
"""The number of a solution's language."""

TIMES_SECONDS, LEAST_SECONDS = 5, 3.0
"""A problem's time limit is for compiled languages: Python has so many times as much, so many seconds at least."""
TIMES_MEMORY = 2
"""A problem's memory limit is about memory in use; the sandbox's about addresses."""
TIMES_WALL = 6

_OWN = Protocol(
    "codecontests",
    "docstring",
    dict.fromkeys((1, 10, 100), (0.8,)),
    samples=100,
    stop=('\n"""',),
    top_p=0.95,
    max_new_tokens=1024,
    submissions=(1, 10),
    cpu_seconds=10.0,
    wall_seconds=60.0,
    memory_mib=1024,
    processes=1,
    about="100 samples of a script, from the statement as a docstring",
)
_META_MTP = replace(
    _OWN,
    name=META_MTP.name,
    temperatures=dict.fromkeys((1, 10, 100, 1000), HIGH),
    samples=1000,
    top_p=1.0,
    about=META_MTP.about,
)

_SEVERAL = re.compile(
    r"\b(?:print|output|report|write|display|give|return)s? "
    r"(?:(?:it|them|these|the (?:answers?|elements?|numbers?|integers?)) )?(?:in )?any\b"
    r"|\bany (?:one )?of (?:them|these|those)\b",
    re.IGNORECASE,
)


@takes(TaskSettings((_OWN, _META_MTP)))
def codecontests(recipe: Recipe) -> ListedTask:
    """Contest problems answered by scripts; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    rows = data_rows(recipe.evaluate, SOURCE)
    names = _names(rows)
    check_unique(zip(rows, names, strict=True))
    problems = [_problem(row, name, recipe.evaluate) for row, name in zip(rows, names, strict=True)]
    return ListedTask("codecontests", settings_of(recipe.evaluate).stop, problems)


def _names(rows: list[EvaluationRow]) -> list[str]:
    """The problems' names, with the source where several have one name."""
    names = [row.identifier("id", "name") for row in rows]
    counts = Counter(names)
    return [
        f"{name} ({source})" if counts[name] > 1 and (source := _source(row)) else name
        for row, name in zip(rows, names, strict=True)
    ]


def _source(row: EvaluationRow) -> str:
    number = row.values.get("source")
    return SOURCES[number] if isinstance(number, int) and 0 <= number < len(SOURCES) else ""


def _problem(row: EvaluationRow, task_id: str, config: EvaluateConfig) -> Problem:
    public = _cases(row, "public_tests")
    private = tuple(case for field in PRIVATE for case in _cases(row, field))
    if not public and not private:
        raise WMTPError(f"{row.place}: no tests: neither 'public_tests' nor {', '.join(map(repr, PRIVATE))}")
    facts: dict[str, Any] = {
        "input_file": _file_name(row, "input_file"),
        "output_file": _file_name(row, "output_file"),
        **_limits(row, config),
    }
    description = row.text("description").strip()
    return Problem(
        task_id,
        f'"""\n{description}\n"""\n',
        lambda completion: StdinProgram(task_id, completion, public, private, **facts),
        metadata={SEVERAL_ANSWERS: True} if allows_several_answers(description) else {},
        solution=_solution(row),
    )


def allows_several_answers(description: str) -> bool:
    """Whether a statement says that any of several answers is right, where the tests know one."""
    return _SEVERAL.search(" ".join(description.split())) is not None


def _solution(row: EvaluationRow) -> str | None:
    """The first of the row's right solutions in Python 3."""
    value = row.values.get("solutions")
    if not value:
        return None
    languages, texts = (
        (value.get("language"), value.get("solution")) if isinstance(value, Mapping) else (0, 0)
    )
    if not isinstance(languages, list) or not isinstance(texts, list) or len(languages) != len(texts):
        raise WMTPError(
            f"{row.place}: 'solutions' should hold 'language' and 'solution', two lists of one length"
        )
    found = (
        text for language, text in zip(languages, texts, strict=True) if language in (PYTHON3, "PYTHON3")
    )
    return next((text for text in found if isinstance(text, str)), None)


def _limits(row: EvaluationRow, config: EvaluateConfig) -> dict[str, Any]:
    """What the problem's own limits mean here; what the recipe sets is kept."""
    settings, limits = settings_of(config), dict[str, Any]()
    seconds, size = _seconds(row), row.values.get("memory_limit_bytes") or 0
    if seconds and config.cpu_seconds is None:
        limits["cpu_seconds"] = max(LEAST_SECONDS, TIMES_SECONDS * seconds)
        if config.wall_seconds is None:
            limits["wall_seconds"] = max(settings.wall_seconds, TIMES_WALL * limits["cpu_seconds"])
    if not _is_count(size):
        raise WMTPError(f"{row.place}: 'memory_limit_bytes' should be a whole number, not {size!r}")
    if config.memory_mib is None:
        mib = -(-TIMES_MEMORY * size // (1 << 20))
        limits["memory_mib"] = max(settings.memory_mib, mib)
    return limits


def _seconds(row: EvaluationRow) -> float:
    """The problem's time limit; 0 where it has none."""
    value = row.values.get("time_limit") or {}
    parts = [value.get(part) or 0 for part in ("seconds", "nanos")] if isinstance(value, Mapping) else []
    if not parts or not all(map(_is_count, parts)):
        raise WMTPError(
            f"{row.place}: 'time_limit' should hold 'seconds' and 'nanos', whole numbers, not {value!r}"
        )
    seconds, nanos = parts
    return float(seconds + nanos / 1e9)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _file_name(row: EvaluationRow, field: str) -> str:
    """The file that programs read or write; empty: standard input or output."""
    name = row.text(field, default="").strip()
    if "/" in name or "\0" in name or name in (".", ".."):
        raise WMTPError(f"{row.place}: {field!r} should be the name of a file, not {name!r}")
    return name


def _cases(row: EvaluationRow, field: str) -> tuple[Case, ...]:
    """Published as two lists, `input` and `output`; a list of pairs is understood too."""
    value = row.values.get(field) or []
    if isinstance(value, Mapping):
        inputs, outputs = value.get("input"), value.get("output")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            raise _not_tests(row, field)
        value = [{"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]
    if not isinstance(value, list) or not all(_is_pair(pair) for pair in value):
        raise _not_tests(row, field)
    return tuple(Case(unified(pair["input"]), unified(pair["output"])) for pair in value)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Mapping) and all(isinstance(pair.get(side), str) for side in ("input", "output"))


def _not_tests(row: EvaluationRow, field: str) -> WMTPError:
    return WMTPError(
        f"{row.place}: {field!r} should hold 'input' and 'output', two lists of texts of one length"
    )
