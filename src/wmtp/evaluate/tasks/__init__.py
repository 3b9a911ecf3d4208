"""Benchmarks by name; listing them imports none."""

from wmtp.evaluate.tasks.base import SEVERAL_ANSWERS, Problem, Task, problems_of
from wmtp.registry import Registry

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

__all__ = ["SEVERAL_ANSWERS", "TASKS", "Problem", "Task", "problems_of"]
