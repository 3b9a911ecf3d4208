"""What a benchmark is to the evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wmtp.evaluate.sandbox import Program


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        task_id: unique within the task.
        prompt: what the model is given.
        tests: trusted Python statements that a right solution passes.
        setup: trusted Python statements that go before the tests.
        metadata: JSON values that the results carry along, for grouping.
    """

    task_id: str
    prompt: str
    tests: tuple[str, ...]
    setup: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A benchmark under one protocol.

    Attributes:
        name: of the benchmark.
        protocol: how it is prompted and decoded; results of different protocols do not compare.
        stop: strings that end a completion, besides the end-of-text token; they are not part of it.
    """

    name: str
    protocol: str
    stop: tuple[str, ...]

    def problems(self) -> list[Problem]:
        """Every problem, in a fixed order."""
        ...

    def program(self, problem: Problem, completion: str) -> Program:
        """What is executed to judge a completion."""
        ...
