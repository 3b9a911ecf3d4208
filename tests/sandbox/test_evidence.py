"""Right programs pass and wrong ones do not: generated ones, and the real benchmarks' where they are at hand."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mutants import mutants, passes_plainly
from wmtp.config import TinycodeConfig
from wmtp.data import tinycode
from wmtp.evaluate.tasks.humaneval import checked_program
from wmtp.sandbox import Case, Execution, Limits, Program, StdinProgram, Verdict, execute_all

DATA = Path(__file__).parents[3] / "shared" / "data"
AMPLE = Limits(cpu_seconds=20, wall_seconds=200)
CLASSES_IN_TESTS = {367, 601, 927}

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the benchmarks' files are not beside the repository"
)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def outcomes(programs: Sequence[Program | StdinProgram], limits: Limits = AMPLE) -> list[Execution]:
    found = dict(execute_all(programs, limits))
    return [found[i] for i in range(len(programs))]


def not_passed(programs: Sequence[Program | StdinProgram], limits: Limits = AMPLE) -> dict[str, Execution]:
    executions = zip(programs, outcomes(programs, limits), strict=True)
    return {p.task_id: e for p, e in executions if e.verdict is not Verdict.PASSED}


def humaneval(row: dict[str, Any], completion: str) -> Program:
    return checked_program(row["task_id"], row["prompt"], row["test"], row["entry_point"])(completion)


def tinycode_problems(count: int) -> list[dict[str, Any]]:
    return tinycode.generate(
        TinycodeConfig(
            seed=5, train=1, validation=0, test=count, noise=0, curated=0, min_operations=2, max_operations=3
        )
    ).test


def test_mutants_of_generated_programs() -> None:
    """Passing here and in a plain process are the same thing, for programs that do no harm."""
    problems = tinycode_problems(5)
    chosen = [(p, code) for p in problems for code in [p["code"], *list(mutants(p["code"]))[:4]]]
    plainly = [passes_plainly("\n".join([code, *p["test_list"]]), 5) for p, code in chosen]
    here = outcomes([Program(str(i), code, tuple(p["test_list"])) for i, (p, code) in enumerate(chosen)])
    assert [e.verdict is Verdict.PASSED for e in here] == plainly
    assert 5 <= sum(plainly) < len(plainly)


@pytest.mark.slow
@needs_data
def test_humaneval_solutions_pass() -> None:
    programs = [humaneval(row, row["canonical_solution"]) for row in rows("humaneval.jsonl")]
    assert len(programs) == 164
    assert not_passed(programs) == {}


@pytest.mark.slow
@needs_data
def test_mbpp_solutions_pass() -> None:
    programs = [
        Program(
            str(row["task_id"]),
            row["code"],
            (*row["test_list"], *row["challenge_test_list"]),
            row["test_setup_code"],
            tests_inside=row["task_id"] in CLASSES_IN_TESTS,
            defines=("sum",) if row["task_id"] == 126 else (),
        )
        for row in rows("mbpp.jsonl")
    ]
    assert len(programs) == 974
    assert not_passed(programs) == {}


@pytest.mark.slow
@needs_data
def test_codecontests_solutions_pass() -> None:
    programs = [
        StdinProgram(
            row["id"], row["python3_solution"], cases(row["public_tests"]), cases(row["other_tests"])
        )
        for row in rows("codecontests_sample.jsonl")
    ]
    assert len(programs) == 40
    assert not_passed(programs, replace(AMPLE, processes=1)) == {}  # one of them starts a thread


def cases(tests: list[dict[str, str]]) -> tuple[Case, ...]:
    return tuple(Case(test["input"], test["output"]) for test in tests)


@pytest.mark.slow
@needs_data
def test_mutants_never_score_higher_than_in_a_plain_process() -> None:
    solutions = [(row, row["prompt"] + row["canonical_solution"]) for row in rows("humaneval.jsonl")]
    every = [(row, code) for row, source in solutions for code in mutants(source)]
    chosen = random.Random(7).sample(every, 300)
    programs = [replace(humaneval(row, ""), code=code) for row, code in chosen]
    here = outcomes(programs, Limits(cpu_seconds=2, wall_seconds=100))
    too_high = [
        (program.task_id, program.code)
        for program, execution in zip(programs, here, strict=True)
        if execution.verdict is Verdict.PASSED
        and not passes_plainly(
            "\n".join([program.code, program.setup, f"candidate = {program.entry_point}", *program.tests]), 4
        )
    ]
    assert too_high == []
    verdicts = {execution.verdict for execution in here}
    assert {Verdict.PASSED, Verdict.FAILED} <= verdicts <= set(Verdict) - {Verdict.ERROR}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_the_same_verdicts_on_a_machine_that_is_overloaded() -> None:
    problems = tinycode_problems(10)
    programs = [
        Program(str(p["task_id"]), code, tuple(p["test_list"]))
        for p in problems
        for code in [p["code"], *list(mutants(p["code"]))[:2]]
    ]
    burning = "import time\nwhile time.process_time() < {}: pass\ndef f(): return 1"
    programs += [Program(f"burns {s}", burning.format(s), ("assert f() == 1",)) for s in (0.5, 1.2, 9)]
    limits = Limits(cpu_seconds=2)
    quiet = [e.verdict for e in outcomes(programs, limits)]
    with busy_processes(4 * (os.cpu_count() or 1)):
        overloaded = [e.verdict for e in outcomes(programs, limits)]
    assert overloaded == quiet
    assert quiet[-3:] == [Verdict.PASSED, Verdict.PASSED, Verdict.TIMEOUT]
    assert Verdict.FAILED in quiet
