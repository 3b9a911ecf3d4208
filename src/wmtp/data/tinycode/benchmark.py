"""The benchmark: rows in MBPP's format, split by composition, part of the training solutions corrupted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wmtp.config import TinycodeConfig
from wmtp.data.tinycode.cases import Case, draw_cases
from wmtp.data.tinycode.compositions import Composition, Split, draw_composition
from wmtp.data.tinycode.corruption import KINDS, Corruption, corrupt
from wmtp.data.tinycode.descriptions import describe
from wmtp.data.tinycode.programs import Program, source_code
from wmtp.data.tinycode.rng import Rng
from wmtp.errors import WMTPError

Row = dict[str, Any]
TRIES = 2000
"""Number of draws of a problem after which the space counts as exhausted."""
TRIES_OF_A_KIND = 50
"""Number of draws after which a problem of another family or length is tried."""
TRIES_FOR_NEW_ROW = 20
"""Number of draws after which a training row may repeat an earlier one."""
POOL_SIZE: dict[Split, int] = {"train": 8, "validation": 40, "test": 40}
"""Number of inputs from which a problem's tests are chosen; more where they decide an evaluation."""


@dataclass(frozen=True)
class Corpus:
    """Rows of the three splits.

    Fields of a row: `task_id` (unique in the corpus), `text`, `code`, `test_list` (assert statements),
    `family`, `operations` (names, in order), `branch` (the conditional or loop, or None), `is_correct` (by
    execution), `curated`, `corruption` (its kind, or None), `error_spans` ([start, end) characters of `code`
    that the corruption put there), `clean_code` (the right solution).
    """

    train: list[Row]
    validation: list[Row]
    test: list[Row]


@dataclass(frozen=True)
class _Problem:
    composition: Composition
    program: Program
    text: str
    code: str
    cases: list[Case]


def generate(config: TinycodeConfig) -> Corpus:
    """Generate the corpus; the same configuration gives the same rows on every machine.

    The problems of a split depend on `seed`, its size, the numbers of operations and the families only: with
    another `noise` the same problems have other solutions.

    Raises:
        WMTPError: the families hold too few problems for a held-out split.
    """
    seed, families = config.seed, config.families
    held_out = range(max(2, config.min_operations), config.max_operations + 1)
    splits: tuple[tuple[Split, int, range], ...] = (
        ("train", config.train, range(config.min_operations, config.max_operations + 1)),
        ("validation", config.validation, held_out),
        ("test", config.test, held_out),
    )
    first_id = 0
    rows: dict[Split, list[Row]] = {}
    for split, count, lengths in splits:
        each = config.answers if split == "train" else 1
        distinct = _draw_problems(split, count // each, lengths, families, Rng(f"tinycode {seed} {split}"))
        problems = [problem for problem in distinct for _ in range(each)]
        corrupted = round(config.noise * count) if split == "train" else 0
        corruptions = _corruptions(problems, corrupted, Rng(f"tinycode {seed} noise"))
        rows[split] = [_row(first_id + i, problem, corruptions.get(i)) for i, problem in enumerate(problems)]
        first_id += count
    _mark_curated(rows["train"], config.curated, Rng(f"tinycode {seed} curated"))
    return Corpus(rows["train"], rows["validation"], rows["test"])


def _draw_problems(
    split: Split, count: int, lengths: Sequence[int], families: Sequence[str], rng: Rng
) -> list[_Problem]:
    problems: list[_Problem] = []
    seen: set[tuple[str, str]] = set()
    for _ in range(count):
        problem = _draw_problem(split, lengths, families, seen, rng)
        if problem is None:
            raise WMTPError(
                f"data.tinycode.{split}: {count} rows are more than the families and numbers of operations hold; "
                f"{len(problems)} were found"
            )
        problems.append(problem)
        seen.add((problem.text, problem.code))
    return problems


def _draw_problem(
    split: Split, lengths: Sequence[int], families: Sequence[str], seen: set[tuple[str, str]], rng: Rng
) -> _Problem | None:
    for attempt in range(TRIES):
        if attempt % TRIES_OF_A_KIND == 0:
            family, length = rng.choice(families), rng.choice(lengths)
        composition = draw_composition(family, length, rng)
        if composition.split != split:
            continue
        program = composition.instantiate(rng)
        text = describe(program, rng)
        code = source_code(program)
        if (text, code) in seen and not (split == "train" and attempt >= TRIES_FOR_NEW_ROW):
            continue
        cases = draw_cases(program, POOL_SIZE[split], rng)
        if cases is not None:
            return _Problem(composition, program, text, code, cases)
    return None


def _corruptions(problems: Sequence[_Problem], count: int, rng: Rng) -> dict[int, Corruption]:
    """Corrupted solutions for `count` random problems; half use the least used kind, which few programs allow."""
    order = list(range(len(problems)))
    rng.shuffle(order)
    used = dict.fromkeys(KINDS, 0)
    chosen = {}
    for index in order[:count]:
        kinds = list(KINDS)
        rng.shuffle(kinds)
        if rng.below(2):
            kinds.sort(key=used.__getitem__)
        corruption = corrupt(problems[index].program, problems[index].cases, kinds, rng)
        used[corruption.kind] += 1
        chosen[index] = corruption
    return chosen


def _row(task_id: int, problem: _Problem, corruption: Corruption | None) -> Row:
    code = corruption.code if corruption else problem.code
    tests = [str(case) for case in problem.cases]
    return {
        "task_id": task_id,
        "text": problem.text,
        "code": code,
        "test_list": tests,
        "family": problem.composition.family,
        "operations": problem.composition.names,
        "branch": problem.composition.branch,
        "is_correct": _passes(code, tests),
        "curated": False,
        "corruption": corruption.kind if corruption else None,
        "error_spans": corruption.spans if corruption else [],
        "clean_code": problem.code,
    }


def _passes(code: str, tests: Sequence[str]) -> bool:
    try:
        exec("\n".join([code, *tests]), {})
    except Exception:
        return False
    return True


def _mark_curated(rows: Sequence[Row], count: int, rng: Rng) -> None:
    clean = [row for row in rows if row["corruption"] is None]
    rng.shuffle(clean)
    for row in clean[:count]:
        row["curated"] = True
