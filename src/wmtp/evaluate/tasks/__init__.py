"""Benchmarks: what one is, which there are, and what each takes of a recipe's `evaluate`."""

from wmtp.evaluate.protocols import Protocol, TaskSettings
from wmtp.evaluate.tasks.base import SEVERAL_ANSWERS, ListedTask, Problem, Task, problems_of
from wmtp.evaluate.tasks.known import (
    TASKS,
    find_protocol,
    result_name,
    settings_of,
    takes,
    task_of,
    task_settings,
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
