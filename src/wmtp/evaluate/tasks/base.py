"""What a benchmark is to the evaluation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wmtp.config import EvaluateConfig
from wmtp.data.rows import refuse_half_pairs
from wmtp.errors import WMTPError
from wmtp.evaluate.rows import EvaluationRow, read_rows
from wmtp.sandbox import AnyProgram
from wmtp.storage import local_copy, why_no_file


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        task_id: unique within the task.
        prompt: what the model is given.
        program: what is executed to judge a completion.
        prefix: the text in front of a completion in the program; "" where the completion is the whole program.
        entry_points: names of the functions and classes that the tests use, as far as they are known.
        reference: a program that solves it, where completions are compared with one.
        metadata: JSON values that the results carry along, for grouping.
        solution: a completion that should pass; judged before any sample, and where it does not pass, the problem is
            in no number.
        has_base: its public tests are those of an older benchmark, of which pass@k is reported, too.
    """

    task_id: str
    prompt: str
    program: Callable[[str], AnyProgram]
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    solution: str | None = None
    prefix: str = ""
    entry_points: tuple[str, ...] = ()
    has_base: bool = False


SEVERAL_ANSWERS = "several_answers"
"""Key of a problem's metadata: its statement accepts any of several answers, and its tests know one."""


class Task(Protocol):
    """A benchmark under one protocol. A task of your own is made from a recipe: `module:factory`, called with it.

    Attributes:
        name: of the benchmark.
        stop: strings that end a completion, besides the end-of-text token; they are not part of it.
    """

    name: str
    stop: tuple[str, ...]

    def problems(self) -> list[Problem]:
        """Every problem, in a fixed order."""
        ...


@dataclass(frozen=True)
class ListedTask:
    """A benchmark whose problems were read, or generated, beforehand."""

    name: str
    stop: tuple[str, ...]
    rows: Sequence[Problem]

    def problems(self) -> list[Problem]:
        """Every problem, in their order."""
        return list(self.rows)


def problems_of(task: Task, limit: int | None) -> list[Problem]:
    """The task's problems from the first, at most `limit`.

    Raises:
        WMTPError: there are none, one's prompt is no text, or what should be a task is none.
    """
    if not all(hasattr(task, part) for part in ("name", "stop", "problems")):
        raise WMTPError(
            "evaluate.task: should make an object with name, stop and problems() (wmtp.evaluate.tasks.Task), "
            f"not {type(task).__name__}"
        )
    problems = task.problems()
    if not isinstance(problems, list) or not all(isinstance(each, Problem) for each in problems):
        raise WMTPError(
            f"evaluate.task {task.name}: problems() should give a list of wmtp.evaluate.tasks.Problem"
        )
    problems = problems[:limit]
    if not problems:
        raise WMTPError(f"evaluate.task {task.name}: has no problems")
    for problem in problems:
        refuse_half_pairs(problem.prompt, f"evaluate.task {task.name}: prompt of {problem.task_id}")
    return problems


def data_rows(config: EvaluateConfig, source: str) -> list[EvaluationRow]:
    """The rows of `evaluate.data`, as published.

    Args:
        source: which file to download, and from where.

    Raises:
        WMTPError: it is not set, not there, or empty.
    """
    if config.data is None:
        raise WMTPError(
            f"evaluate.data: task {config.task} reads its problems from a file; set it to {source}"
        )
    path = Path(local_copy(config.data))
    if (reason := why_no_file(path)) is not None:
        hint = "" if path.exists() else f"; download {source}"
        raise WMTPError(f"evaluate.data {config.data}: {reason}{hint}")
    rows = list(read_rows(path))
    if not rows:
        raise WMTPError(f"evaluate.data {config.data}: has no rows; download {source}")
    return rows


def check_unique(rows: Iterable[tuple[EvaluationRow, str]]) -> None:
    """Refuse two rows with one id.

    Raises:
        WMTPError: there are.
    """
    places: dict[str, str] = {}
    for row, task_id in rows:
        if task_id in places:
            raise WMTPError(f"{row.place}: id {task_id!r} stands in {places[task_id]} already")
        places[task_id] = row.place


def is_humaneval_plus(row: EvaluationRow) -> bool:
    """Whether a row in HumanEval's format is one of HumanEval+."""
    test = row.values.get("test")
    return "plus_input" in row.values or (isinstance(test, str) and "    inputs = [" in test)


def is_mbpp_plus(row: EvaluationRow) -> bool:
    """Whether a row in MBPP's format is one of MBPP+."""
    return "plus_input" in row.values or isinstance(row.values.get("test"), str)
