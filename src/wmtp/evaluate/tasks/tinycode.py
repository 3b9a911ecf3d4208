"""tinycode: the generated benchmark, or any rows in MBPP's format."""

from collections.abc import Iterable, Mapping
from typing import Any

from wmtp.config import Recipe
from wmtp.data.corpus import tinycode_corpus
from wmtp.data.templates import mbpp_style_prompt
from wmtp.errors import WMTPError
from wmtp.evaluate.sandbox import Program
from wmtp.evaluate.tasks.base import Problem


class TinycodeTask:
    """Unseen problems of the built-in benchmark; the prompt is one line, the completion the whole program.

    Args:
        rows: with `task_id`, `text` and `test_list`; where present, `family` and the number of
            `operations` (their names) become metadata.

    Raises:
        WMTPError: a row lacks a field, or two share a `task_id`.
    """

    name = "tinycode"
    stop: tuple[str, ...] = ()

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._problems = [_problem(position, row) for position, row in enumerate(rows)]
        seen: set[str] = set()
        for problem in self._problems:
            if problem.task_id in seen:
                raise WMTPError(
                    f"tinycode has two problems with task_id {problem.task_id!r}; ids must be unique"
                )
            seen.add(problem.task_id)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> "TinycodeTask":
        """The test split of the recipe's `data.tinycode`."""
        return cls(tinycode_corpus(recipe.data.tinycode).test)

    def problems(self) -> list[Problem]:
        """Every problem, in the order of the rows."""
        return list(self._problems)


def _problem(position: int, row: Mapping[str, Any]) -> Problem:
    for field in ("task_id", "text", "test_list"):
        if field not in row:
            raise WMTPError(
                f"tinycode row {position} has no field {field!r}; it has {', '.join(row) or 'none'}"
            )
    metadata = {"family": row["family"]} if "family" in row else {}
    if "operations" in row:
        metadata["operations"] = len(row["operations"])
    task_id, tests, setup = str(row["task_id"]), tuple(row["test_list"]), row.get("test_setup_code", "")
    return Problem(
        task_id,
        mbpp_style_prompt(row["text"]),
        lambda completion: Program(task_id, completion, tests, setup),
        metadata=metadata,
    )
