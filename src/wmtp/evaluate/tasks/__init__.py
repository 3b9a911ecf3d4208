"""Benchmarks by name, and what of a recipe's `evaluate` each takes; listing them imports none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from wmtp.config import PROTOCOL_KEYS, EvaluateConfig, Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import GREEDY, Protocol, TaskSettings
from wmtp.evaluate.tasks.base import SEVERAL_ANSWERS, ListedTask, Problem, Task, problems_of
from wmtp.registry import Registry, did_you_mean

TASKS = Registry[Task](
    "task",
    {
        "tinycode": "wmtp.evaluate.tasks.tinycode:tinycode",
        "mbpp": "wmtp.evaluate.tasks.mbpp:mbpp",
        "humaneval": "wmtp.evaluate.tasks.humaneval:humaneval",
        "humanevalplus": "wmtp.evaluate.tasks.evalplus:humanevalplus",
        "mbppplus": "wmtp.evaluate.tasks.evalplus:mbppplus",
        "codecontests": "wmtp.evaluate.tasks.codecontests:codecontests",
        "livecodebench": "wmtp.evaluate.tasks.livecodebench:livecodebench",
    },
)

__all__ = [
    "SEVERAL_ANSWERS",
    "TASKS",
    "ListedTask",
    "Problem",
    "Protocol",
    "Task",
    "TaskSettings",
    "find_protocol",
    "problems_of",
    "result_name",
    "settings_of",
    "takes",
    "task_of",
    "task_settings",
]

F = TypeVar("F", bound=Callable[..., Any])


def takes(settings: TaskSettings) -> Callable[[F], F]:
    """Say of a task's factory what it takes of `evaluate`; without, it is one greedy protocol and no splits."""

    def declared(factory: F) -> F:
        factory.task_settings = settings  # type: ignore[attr-defined]
        return factory

    return declared


def task_settings(task: str) -> TaskSettings:
    """What the task of that name takes of `evaluate`.

    Raises:
        WMTPError: there is no such task, or what it says of itself is something else.
    """
    found = getattr(TASKS.get(task), "task_settings", TaskSettings((GREEDY,)))
    if not isinstance(found, TaskSettings) or not found.protocols:
        raise WMTPError(
            f"evaluate.task {task}: task_settings should be wmtp.evaluate.tasks.TaskSettings with a protocol at "
            f"least, not {found!r}"
        )
    return found


def find_protocol(task: str, name: str | None) -> Protocol:
    """A task's protocol of that name, or its first.

    Raises:
        WMTPError: there is no such task, or it has no such protocol.
    """
    settings = task_settings(task)
    known = {protocol.name: protocol for protocol in settings.protocols}
    if name is not None and name not in known:
        raise WMTPError(
            f"evaluate.protocol {name!r}: not one of task {task!r}; {did_you_mean(name, list(known))}"
        )
    found = settings.protocols[0] if name is None else known[name]
    is_of_split = not settings.splits or found.split in settings.splits
    return replace(found, task=task, split=found.split if is_of_split else settings.splits[0])


def settings_of(config: EvaluateConfig) -> Protocol:
    """The protocol that a recipe names, with what it sets otherwise.

    Raises:
        WMTPError: there is no such task, it has no such protocol or split, or settings do not go together.
    """
    settings, task = task_settings(config.task), config.task
    if config.split is not None and not settings.splits:
        raise WMTPError(f"evaluate.split {config.split}: task {task} is not divided into splits")
    if config.split is not None and config.split not in settings.splits:
        raise WMTPError(
            f"evaluate.split {config.split!r}: not one of task {task!r}; "
            f"{did_you_mean(config.split, list(settings.splits))}"
        )
    if (config.start_date or config.end_date) and not settings.has_dates:
        raise WMTPError(f"evaluate.start_date, evaluate.end_date: the problems of task {task} have no dates")
    if config.data is not None and not settings.reads_data:
        raise WMTPError(
            f"evaluate.data {config.data}: task {task} reads no file; name the benchmark with --task"
        )
    given = {key: getattr(config, key) for key in PROTOCOL_KEYS}
    changes = {key: value for key, value in given.items() if value is not None}
    return find_protocol(task, config.protocol).with_changes(changes)


def task_of(recipe: Recipe) -> ListedTask:
    """The recipe's task with the problems that are evaluated: the first `evaluate.limit`, checked.

    Raises:
        WMTPError: settings do not fit the task, its data is missing, or what it gives is no list of problems.
    """
    settings = settings_of(recipe.evaluate)
    task = TASKS.create(recipe.evaluate.task, recipe)
    problems = problems_of(task, settings.limit)
    return ListedTask(task.name, task.stop, problems)


def result_name(task: str, protocol: str) -> str:
    """What files of a result are called: the task, and the protocol where it is not the task's first.

    Args:
        task: a name; that of a task of one's own counts as having the greedy protocol first.
        protocol: a name, or a label with changes.
    """
    name = protocol.partition(" ")[0]
    first = task_settings(task).protocols[0] if task in TASKS.names() else GREEDY
    return task if name == first.name else f"{task}-{name}"
