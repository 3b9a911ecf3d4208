"""CodeContests (Li et al. 2022, arXiv 2203.07814): scripts that read standard input and write standard output."""

from collections.abc import Mapping
from typing import Any

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.rows import Row, unified
from wmtp.evaluate.sandbox import Case, StdinProgram
from wmtp.evaluate.tasks.base import ListedTask, Problem, check_unique, data_rows

SOURCE = "a split of deepmind/code_contests (huggingface.co/datasets), as JSON lines"
PRIVATE = ("private_tests", "generated_tests", "other_tests")


def codecontests(recipe: Recipe) -> ListedTask:
    """Contest problems answered by scripts; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    rows = data_rows(recipe.evaluate, SOURCE)
    problems = [_problem(row) for row in rows]
    check_unique((row, problem.task_id) for row, problem in zip(rows, problems, strict=True))
    return ListedTask("codecontests", recipe.evaluate.settings.stop, problems)


def _problem(row: Row) -> Problem:
    task_id = row.identifier("id", "name")
    public = _cases(row, "public_tests")
    private = tuple(case for field in PRIVATE for case in _cases(row, field))
    if not public and not private:
        raise WMTPError(f"{row.place}: no tests: neither 'public_tests' nor {', '.join(map(repr, PRIVATE))}")
    return Problem(
        task_id,
        f'"""\n{row.text("description").strip()}\n"""\n',
        lambda completion: StdinProgram(task_id, completion, public, private),
    )


def _cases(row: Row, field: str) -> tuple[Case, ...]:
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


def _not_tests(row: Row, field: str) -> WMTPError:
    return WMTPError(
        f"{row.place}: {field!r} should hold 'input' and 'output', two lists of texts of one length"
    )
