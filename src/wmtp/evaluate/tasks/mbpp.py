"""MBPP (Austin et al. 2021, arXiv 2108.07732): short functions, each from one sentence."""

from dataclasses import replace
from typing import Any

from wmtp.config import Recipe
from wmtp.data.templates import task_message
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import BIGCODE, CHAT, LM_EVAL, META_MTP, Protocol, TaskSettings
from wmtp.evaluate.rows import EvaluationRow
from wmtp.evaluate.tasks import settings_of, takes
from wmtp.evaluate.tasks.base import ListedTask, Problem, check_unique, data_rows, is_mbpp_plus
from wmtp.evaluate.tasks.texts import demanded_names, needs_candidate, packages_imported
from wmtp.sandbox import Program

SOURCE = "mbpp.jsonl, or sanitized-mbpp.json, of github.com/google-research/google-research (folder mbpp)"
SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""Problem numbers by split, as in the paper; `all` is every row of the file."""
SHOTS = (2, 3, 4)
"""Problems that the 3-shot prompt shows solved."""

_SHOWN: dict[str, Any] = {"prompt": "3-shot", "stop": ("[DONE]",)}
_SECONDS: dict[str, Any] = {"cpu_seconds": 6.0}
"""The published solution of problem 123 takes 2 to 3 s, by how busy the machine is."""
PROTOCOLS = (
    replace(LM_EVAL, **_SHOWN, **_SECONDS),
    replace(
        BIGCODE,
        prompt="docstring",
        temperatures={1: (0.1,)},
        samples=15,
        stop=("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
        **_SECONDS,
    ),
    replace(CHAT, **_SECONDS),
    # sections 2.1 and 4
    Protocol(
        "mbpp-paper",
        temperatures={1: (0.5,), 80: (0.5,)},
        samples=80,
        max_new_tokens=512,
        about="Austin et al. 2021: 80 samples at temperature 0.5, from three solved problems",
        **_SHOWN,
        **_SECONDS,
    ),
    replace(META_MTP, **_SHOWN, **_SECONDS),
)


@takes(TaskSettings(PROTOCOLS, splits=(*SPLITS, "all")))
def mbpp(recipe: Recipe) -> ListedTask:
    """974 functions (427 sanitized) of which a split of 500 is evaluated; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    settings = settings_of(recipe.evaluate)
    rows = [(row, _number(row)) for row in data_rows(recipe.evaluate, SOURCE)]
    check_unique((row, str(number)) for row, number in rows)
    shots = _shots({number: row for row, number in rows}) if settings.prompt == "3-shot" else ""
    chosen = [row for row, number in rows if settings.split == "all" or number in SPLITS[settings.split]]
    if not chosen:
        raise WMTPError(f"evaluate.data {recipe.evaluate.data}: has no problem of the {settings.split} split")
    return ListedTask("mbpp", settings.stop, [_problem(row, settings.prompt, shots) for row in chosen])


def _number(row: EvaluationRow) -> int:
    if is_mbpp_plus(row):
        raise WMTPError(f"{row.place}: is a problem of MBPP+; use --task mbppplus")
    number = row.values.get("task_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise WMTPError(f"{row.place}: 'task_id' should be a whole number")
    return number


def _problem(row: EvaluationRow, kind: str, shots: str) -> Problem:
    reference, tests = row.text("code"), _tests(row)
    setup = row.text("test_setup_code", default="\n".join(row.texts("test_imports", ())))
    facts: dict[str, Any] = {
        "tests_inside": needs_candidate(reference, setup, tests),
        "defines": demanded_names(reference, setup, tests),
        "packages": packages_imported(reference, setup, *tests),
    }
    task_id = str(row.values["task_id"])
    return Problem(
        task_id,
        _prompt(row, kind, shots),
        lambda completion: Program(task_id, completion, tests, setup, **facts),
        reference,
        solution=reference,
        entry_points=facts["defines"],
    )


def _prompt(row: EvaluationRow, kind: str, shots: str) -> str:
    if kind == "instruct":
        return task_message(row.text("text", "prompt"), _tests(row))
    return shots + _question(row) if kind == "3-shot" else _docstring(row)


def _tests(row: EvaluationRow) -> tuple[str, ...]:
    tests = row.texts("test_list")
    if not tests:
        raise WMTPError(f"{row.place}: 'test_list' has no tests")
    return tests


def _shots(rows: dict[int, EvaluationRow]) -> str:
    """The solved problems before the question (Austin et al., section 2.1, and lm-evaluation-harness)."""
    missing = [number for number in SHOTS if number not in rows]
    if missing:
        raise WMTPError(
            f"evaluate.data: the 3-shot prompt shows problems 2, 3 and 4; the file lacks {missing[0]}"
        )
    return "".join(f"{_question(rows[n])}{rows[n].text('code')}\n[DONE]\n\n" for n in SHOTS)


def _question(row: EvaluationRow) -> str:
    tests = "\n".join(_tests(row))
    return (
        f"You are an expert Python programmer, and here is your task: {row.text('text', 'prompt')} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _docstring(row: EvaluationRow) -> str:
    """The description and the first test as a docstring (bigcode-evaluation-harness, after InCoder)."""
    return f'"""\n{row.text("text", "prompt")}\n{_tests(row)[0]}\n"""\n'
