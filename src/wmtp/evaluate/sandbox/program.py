"""What is executed, within which limits, and what came of it."""

from dataclasses import dataclass, fields
from enum import StrEnum

from wmtp.errors import WMTPError


class Verdict(StrEnum):
    """`ERROR` says that the program could not be judged; it is no statement about the program."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_seconds: processor time, start of the interpreter included; rounded up to a whole second.
        wall_seconds: from the start of the candidate's process to the last reply.
        memory_mib: address space.
        file_mib: size of one file.
        open_files: file descriptors.
        processes: further processes and threads. An ordinary user's other processes count too, so that there
            0 means none and a small number usually still none.
        reply_bytes: size of one encoded result.
    """

    cpu_seconds: float = 3
    wall_seconds: float = 10
    memory_mib: int = 512
    file_mib: int = 1
    open_files: int = 32
    processes: int = 0
    reply_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0 or (field.name != "processes" and not getattr(self, field.name)):
                raise WMTPError(
                    f"sandbox limit {field.name} is {getattr(self, field.name)}; it must be positive"
                )


@dataclass(frozen=True)
class Program:
    """A candidate's code and the tests that it has to pass.

    Attributes:
        task_id: the problem it is meant to solve.
        code: what the candidate wrote; hostile until shown otherwise.
        tests: trusted Python statements, run one after the other in one namespace; the first that raises decides.
        setup: trusted Python statements that go before the tests.
    """

    task_id: str
    code: str
    tests: tuple[str, ...]
    setup: str = ""

    def __post_init__(self) -> None:
        if not self.tests:
            raise WMTPError(f"problem {self.task_id!r} has no tests, so that no program can pass or fail it")


@dataclass(frozen=True)
class Execution:
    """The outcome of one program.

    Attributes:
        verdict: see `Verdict`.
        message: the first failing test and why, at most a few hundred printable characters; empty when passed. It
            quotes the candidate: escape it before showing it as HTML.
        seconds: wall-clock time from the start of the processes to the end of all of them.
    """

    verdict: Verdict
    message: str
    seconds: float
