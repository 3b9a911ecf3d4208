"""Executes completions and keeps the verdicts, for a model's own and for those made elsewhere."""

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from wmtp import __version__
from wmtp.config import EvaluateConfig, Extraction
from wmtp.errors import WMTPError
from wmtp.evaluate.extraction import extract
from wmtp.evaluate.samples import Key, SampleFile
from wmtp.evaluate.tasks import Problem, settings_of
from wmtp.progress import progress
from wmtp.sandbox import AnyProgram, Limits, Verdict, describe, execute_all
from wmtp.storage import sha256_text


def require_consent(config: EvaluateConfig) -> None:
    """Refuse to run generated programs without consent.

    Raises:
        WMTPError: there is none.
    """
    if not config.allow_code_execution:
        raise WMTPError(
            "evaluate.allow_code_execution: evaluating runs programs that a model wrote; allow it in the recipe "
            "or with --allow-code-execution (docs/sandbox.md says what they cannot do)"
        )


def sandbox_limits(config: EvaluateConfig) -> Limits:
    """What one program may use."""
    settings = settings_of(config)
    return Limits(
        cpu_seconds=settings.cpu_seconds,
        wall_seconds=settings.wall_seconds,
        memory_mib=settings.memory_mib,
        reply_bytes=settings.output_mib << 20,
        processes=settings.processes,
    )


def judging_conditions(config: EvaluateConfig) -> dict[str, Any]:
    """Conditions, besides programs and tests, that verdicts depend on: JSON values."""
    return {
        "limits": asdict(sandbox_limits(config)),
        "sandbox": describe(config.sandbox)["level"],
        "python": platform.python_version(),
        "wmtp": __version__,
    }


def verdict_origin(problems: Sequence[Problem], config: EvaluateConfig) -> dict[str, Any]:
    """Conditions, besides the completions, that verdicts depend on: JSON values."""
    tests = sha256_text(*(sha256_text(repr(problem.program(""))) for problem in problems))
    rule = settings_of(config).extraction
    return {"tests": tests, **judging_conditions(config)} | ({} if rule == "none" else {"extraction": rule})


def judge_samples(
    file: SampleFile, problems: Sequence[Problem], order: Sequence[Key], config: EvaluateConfig
) -> None:
    """Execute every completion that has no verdict yet; each verdict is written as it becomes known.

    Args:
        file: holds the completions.
        problems: that they answer.
        order: which samples.

    A program that the sandbox could not judge, even at the second try, is an `ERROR`: it is judged again when the
    evaluation is repeated.
    """
    by_id = {problem.task_id: problem for problem in problems}
    todo = [key for key in order if key not in file.executions]
    passed = sum(execution.verdict is Verdict.PASSED for execution in file.executions.values())
    errors = 0
    with progress("execute", len(todo)) as update:
        programs = _programs(file, by_id, todo, settings_of(config).extraction)
        executions = execute_all(programs, sandbox_limits(config), config.workers, config.sandbox)
        for done, (index, execution) in enumerate(executions, start=1):
            file.judge(todo[index], execution)
            passed += execution.verdict is Verdict.PASSED
            errors += execution.verdict is Verdict.ERROR
            update(done, f"{passed} passed" + (f", {errors} not judged" if errors else ""))


def _programs(
    file: SampleFile, problems: dict[str, Problem], keys: Sequence[Key], rule: Extraction
) -> Iterator[AnyProgram]:
    for key in keys:
        problem = problems[key.task_id]
        yield problem.program(extract(file.completions[key], problem, rule))


def warn(line: str) -> None:
    """Say something that is no result."""
    print(line, file=sys.stderr)
