"""EvalPlus's own package and ours on the same completions.

    WMTP_EVALPLUS=FOLDER python tests/evaluate/evalplus_agreement.py humaneval 500

prints where they differ, of that many mutants of the reference solutions in FOLDER's HumanEvalPlus.jsonl.gz (or
MbppPlus.jsonl.gz, with mbpp).
"""

import ast
import gzip
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "sandbox"))

from mutants import mutants
from wmtp.config import Recipe
from wmtp.evaluate.judging import sandbox_limits
from wmtp.evaluate.tasks import TASKS, Problem
from wmtp.sandbox import Verdict, execute_all

FILES = {"humaneval": "HumanEvalPlus.jsonl.gz", "mbpp": "MbppPlus.jsonl.gz"}


class Outcome(NamedTuple):
    """Whether the base tests and all tests passed, and why not."""

    base: bool
    plus: bool
    message: str = ""


def problems_in(path: Path, benchmark: str) -> tuple[Recipe, list[Problem]]:
    """The task's problems, and the recipe that they were made from."""
    settings = {"task": f"{benchmark}plus", "data": str(path), "allow_code_execution": True}
    recipe = Recipe.model_validate({"evaluate": settings})
    return recipe, TASKS.create(f"{benchmark}plus", recipe).problems()


def changed_solutions(rows: Iterable[dict[str, Any]], count: int) -> Iterator[tuple[str, str]]:
    """Task id and whole program of mutants, one of each problem in turn, every problem's own solution first."""
    rows = list(rows)
    yield from ((row["task_id"], row["prompt"] + row["canonical_solution"]) for row in rows)
    left = [(row["task_id"], _working(row["prompt"] + row["canonical_solution"])) for row in rows]
    while count and left:
        for task_id, programs in list(left):
            program = next(programs, None)
            if program is None:
                left.remove((task_id, programs))
            elif count:
                count -= 1
                yield task_id, program


def _working(source: str) -> Iterator[str]:
    """Mutants in which more than a docstring has changed."""
    return (
        mutant for mutant in mutants(source) if _without_docstrings(mutant) != _without_docstrings(source)
    )


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def ours(path: Path, benchmark: str, programs: Sequence[tuple[str, str]], seconds: float) -> list[Outcome]:
    """What our task says of whole programs."""
    recipe, problems = problems_in(path, benchmark)
    by_id = {problem.task_id: problem for problem in problems}
    limits = replace(sandbox_limits(recipe.evaluate), cpu_seconds=seconds)
    todo = (replace(by_id[task_id].program(""), code=program) for task_id, program in programs)
    found = dict(execute_all(todo, limits))
    return [
        Outcome(
            found[n].verdict is Verdict.PASSED or found[n].public is True,
            found[n].verdict is Verdict.PASSED,
            f"{found[n].verdict}: {found[n].message}",
        )
        for n in range(len(programs))
    ]


def theirs(
    rows: Sequence[dict[str, Any]], benchmark: str, programs: Sequence[tuple[str, str]]
) -> list[Outcome]:
    """What EvalPlus says of them."""
    from evalplus.data.mbpp import mbpp_deserialize_inputs
    from evalplus.eval import PASS, untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    expected: dict[tuple[str, str], Any] = {}
    by_id = {row["task_id"]: dict(row) for row in rows}
    for row in by_id.values():
        for field in ("base_input", "plus_input"):
            if benchmark == "mbpp":
                row[field] = mbpp_deserialize_inputs(row["task_id"], row[field])
            expected[row["task_id"], field] = trusted_exec(
                row["prompt"] + row["canonical_solution"],
                row[field],
                row["entry_point"],
                record_time=True,
                output_not_none=row["entry_point"] in MBPP_OUTPUT_NOT_NONE_TASKS,
            )

    def passes(task_id: str, program: str, field: str) -> bool:
        row, (results, seconds) = by_id[task_id], expected[task_id, field]
        arguments = (program, row[field], row["entry_point"], results, row["atol"], seconds)
        return bool(untrusted_check(benchmark, *arguments, fast_check=True)[0] == PASS)

    outcomes = []
    for task_id, program in programs:
        base = passes(task_id, program, "base_input")
        outcomes.append(Outcome(base, base and passes(task_id, program, "plus_input")))
    return outcomes


def main(benchmark: str, count: int, every: int = 1, offset: int = 0) -> None:
    """Print every difference, and how many programs agree."""
    path = Path(os.environ["WMTP_EVALPLUS"]) / FILES[benchmark]
    lines = gzip.decompress(path.read_bytes()).splitlines()
    rows = [json.loads(line) for line in lines][offset::every]
    programs = list(changed_solutions(rows, count))
    mine, other = ours(path, benchmark, programs, 8), theirs(rows, benchmark, programs)
    differing = 0
    for (task_id, program), one, two in zip(programs, mine, other, strict=True):
        if one[:2] != two[:2]:
            differing += 1
            print(f"{task_id}: ours {one}, EvalPlus {two[:2]}\n{program}\n")
    passed = sum(outcome.plus for outcome in other)
    print(f"{benchmark}: {len(programs)} programs, {len(rows)} of them solutions; EvalPlus passes {passed}")
    print(f"{benchmark}: {differing} differ")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:]))
