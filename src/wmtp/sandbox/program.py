"""Programs, their limits, and the outcome of running them."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal

from wmtp.errors import WMTPError
from wmtp.sandbox.isolated.faults import ENTRY_POINT

__all__ = [
    "ENTRY_POINT",
    "Call",
    "CallProgram",
    "Case",
    "Execution",
    "Limits",
    "Program",
    "StdinProgram",
    "Verdict",
]


class Verdict(StrEnum):
    """`ERROR` means that the program could not be judged, and says nothing about it.

    Its tests are wrong, a package that they need is not installed, or the sandbox failed.

    """

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_seconds: processor time, rounded up to a whole second. Each case of a `StdinProgram` or `CallProgram` has
            as much, of a script with the start of the interpreter. What calls spend on taking arguments and on giving
            results does not count.
        wall_seconds: from the start of a process to its last reply; each case has as much, all of them together the
            sum. A loose limit: it has to hold on a busy machine. What does not count as processor time does not count
            here, up to as much again.
        memory_mib: address space.
        file_mib: size of one file.
        open_files: file descriptors.
        processes: further processes and, at level basic, threads. An ordinary user's other processes count too, so
            that there 0 means none and a small number usually still none.
        reply_bytes: size of one encoded result; of what a script writes for one case, in addition to 16 times the
            size of what is expected, so that every right output fits.
    """

    cpu_seconds: float = 3
    wall_seconds: float = 30
    memory_mib: int = 512
    file_mib: int = 1
    open_files: int = 32
    processes: int = 0
    reply_bytes: int = 1 << 24

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0 or (field.name != "processes" and not getattr(self, field.name)):
                raise WMTPError(
                    f"sandbox limit {field.name} is {getattr(self, field.name)}; it must be positive"
                )


@dataclass(frozen=True)
class Program:
    """A candidate's code and the tests that it must pass.

    Attributes:
        task_id: the problem it is meant to solve.
        code: what the candidate wrote; hostile until shown otherwise.
        tests: trusted Python statements, run one after the other in one namespace; the first that raises decides.
        setup: trusted Python statements that go before the tests.
        tests_inside: the tests need the candidate's own classes, so that setup and tests run in the candidate's
            process, after its code and in its namespace. That success cannot be had by exiting early, printing or
            writing to a pipe, but a program that means to can forge it: see docs/sandbox.md. To be decided from the
            reference solution, never from the candidate. Where the tests pass what cannot cross (a function, an
            object of their own), they run inside whatever this says.
        entry_point: name of the candidate's function that the tests know as `candidate`. It is the candidate's, even
            when a built-in or a module is called like it.
        defines: the names of the candidate that the tests use; they are the candidate's, even when a built-in is
            called like one (`sum`), while every other built-in is the tests' own. Without, those that the tests do
            not define and that are no built-in. To be decided from the reference solution. A name beyond these and
            `entry_point` that nobody defines is the tests' own mistake.
        packages: third-party packages, by the name by which they are imported, that tests and candidate may import;
            of all others, neither can. A package needs those named that it imports itself. What importing them costs
            does not count towards the limits. One that is not installed here makes the verdict `ERROR`.
        public_tests: so many of the tests, from the first, are those that `Execution.public` is about.
    """

    task_id: str
    code: str
    tests: tuple[str, ...]
    setup: str = ""
    tests_inside: bool = False
    entry_point: str = ""
    defines: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    public_tests: int = 0

    def __post_init__(self) -> None:
        if not self.tests:
            raise WMTPError(f"problem {self.task_id!r} has no tests, so that no program can pass or fail it")
        for name in self.packages:
            if not name.isidentifier():
                raise WMTPError(f"problem {self.task_id!r}: package {name!r} should be the name of a package")


@dataclass(frozen=True)
class Case:
    """What a program reads and must write.

    Attributes:
        stdin: the program's standard input; a newline is added where its last line has none.
        stdout: what it has to write; see `StdinProgram.comparison`.
    """

    stdin: str
    stdout: str


@dataclass(frozen=True)
class StdinProgram:
    """A candidate's script and the cases that it must answer, each in a new process.

    Attributes:
        task_id: the problem it is meant to solve.
        code: what the candidate wrote; runs as `__main__` and has to end with exit status 0.
        public: cases that the problem's statement shows; run first.
        private: the other cases. The first case that goes wrong is the last one.
        comparison: "tokens", CodeContests' rule: what white space separates, letters A to Z as small ones; numbers by
            an absolute difference below 1e-5, but two integers exactly. "lines", LiveCodeBench's: lines without the
            white space at their ends, and without empty lines at both ends; exactly, or the same numbers exactly.
        input_file: a name under which the standard input is a file in the working directory, too.
        output_file: a name of a file there; where the script makes it, its content counts as what it has written.
        packages: see `Program`.
        cpu_seconds, wall_seconds, memory_mib: in place of the limits that an evaluation has.
    """

    task_id: str
    code: str
    public: tuple[Case, ...]
    private: tuple[Case, ...]
    comparison: Literal["tokens", "lines"] = "tokens"
    input_file: str = ""
    output_file: str = ""
    packages: tuple[str, ...] = ()
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    memory_mib: int | None = None

    def __post_init__(self) -> None:
        _check_cases(self)
        for name in (self.input_file, self.output_file):
            if "/" in name or "\0" in name or name in (".", ".."):
                raise WMTPError(f"problem {self.task_id!r}: {name!r} should be the name of a file")

    def within(self, limits: Limits) -> Limits:
        """An evaluation's limits, except those that the program sets itself."""
        return replace(
            limits,
            cpu_seconds=self.cpu_seconds or limits.cpu_seconds,
            wall_seconds=self.wall_seconds or limits.wall_seconds,
            memory_mib=self.memory_mib or limits.memory_mib,
        )


@dataclass(frozen=True)
class Call:
    """Arguments of a function and the result that it must return, as plain built-in values.

    Attributes:
        arguments: one after the other.
        result: compared by `==`; a tuple counts as the list of its elements.
    """

    arguments: tuple[Any, ...]
    result: Any


@dataclass(frozen=True)
class CallProgram:
    """A candidate's function and the calls that it must answer, each in a new process.

    Attributes:
        task_id: the problem it is meant to solve.
        code: what the candidate wrote; hostile until shown otherwise.
        function: the name of its function.
        public: calls that the problem's statement shows; run first.
        private: the other calls. The first that goes wrong is the last one.
        packages: see `Program`.
        fault: what is wrong with the calls themselves; nothing is executed then, and the verdict is `ERROR`.
    """

    task_id: str
    code: str
    function: str
    public: tuple[Call, ...]
    private: tuple[Call, ...]
    packages: tuple[str, ...] = ()
    fault: str = ""

    def __post_init__(self) -> None:
        if not self.fault:
            _check_cases(self)


def _check_cases(program: StdinProgram | CallProgram) -> None:
    if not program.public and not program.private:
        raise WMTPError(f"problem {program.task_id!r} has no cases, so that no program can pass or fail it")


@dataclass(frozen=True)
class Execution:
    """The outcome of one program.

    Attributes:
        verdict: see `Verdict`.
        message: the first failing test and why, at most a few hundred printable characters; empty when passed. It
            quotes the candidate: escape it before showing it as HTML.
        seconds: wall-clock time from the start of the processes to the end of all of them.
        inside: the tests ran in the candidate's process, where a hostile program can forge the verdict: because
            `tests_inside` says so, or because they pass what cannot cross.
        public: whether all public cases or tests passed; None if that is not known, or there are none.
    """

    verdict: Verdict
    message: str
    seconds: float
    inside: bool = False
    public: bool | None = None
