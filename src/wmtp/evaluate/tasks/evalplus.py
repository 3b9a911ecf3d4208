"""HumanEval+ and MBPP+ (Liu et al. 2023, arXiv 2305.01210): their problems with many more inputs.

Files come in two shapes: EvalPlus's own, with inputs from which the reference solution makes the expected results,
and that of the hub's data sets, whose field `test` holds inputs, results and comparison as one program.
"""

import importlib.resources
from dataclasses import replace
from typing import Any, Literal

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import Protocol, TaskSettings
from wmtp.evaluate.rows import EvaluationRow
from wmtp.evaluate.tasks import evalplus_oracle, settings_of, takes
from wmtp.evaluate.tasks.base import (
    ListedTask,
    Problem,
    check_unique,
    data_rows,
    is_humaneval_plus,
    is_mbpp_plus,
)
from wmtp.evaluate.tasks.evalplus_inputs import mbpp_arguments
from wmtp.evaluate.tasks.humaneval import checked_program
from wmtp.evaluate.tasks.texts import demanded_names, needs_candidate, packages_imported
from wmtp.sandbox import ENTRY_POINT, Program

HUMANEVAL = "HumanEvalPlus.jsonl.gz of github.com/evalplus/humanevalplus_release"
MBPP = "MbppPlus.jsonl.gz of github.com/evalplus/mbppplus_release"
INPUTS = ("base_input", "plus_input")
PACKAGES = ("numpy",)
"""What candidates may import, as in EvalPlus."""

STOPS = ("\nif __name__", "\ndef main(", "\nprint(")
# evalplus/evalplus, evalplus/provider/{base,utility}.py. The seconds are for all inputs together: several published
# solutions take 2 to 4. The results of three problems of HumanEval+ are larger than 1 MiB.
HUMANEVAL_PROTOCOL = Protocol(
    "evalplus",
    "published",
    stop=(*STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "),
    max_new_tokens=768,
    cpu_seconds=20.0,
    wall_seconds=60.0,
    memory_mib=1024,
    output_mib=64,
    about="EvalPlus: one greedy completion of the prompt in its file",
)
MBPP_PROTOCOL = replace(HUMANEVAL_PROTOCOL, prompt="docstring", stop=(*STOPS, '\n"""', "\nassert"))


@takes(TaskSettings((HUMANEVAL_PROTOCOL,)))
def humanevalplus(recipe: Recipe) -> ListedTask:
    """164 functions to complete; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    return _task(recipe, "humaneval", HUMANEVAL)


@takes(TaskSettings((MBPP_PROTOCOL,)))
def mbppplus(recipe: Recipe) -> ListedTask:
    """378 functions, each from one sentence and one test; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    return _task(recipe, "mbpp", MBPP)


def _task(recipe: Recipe, benchmark: Literal["humaneval", "mbpp"], source: str) -> ListedTask:
    rows = data_rows(recipe.evaluate, source)
    from_hub = _humaneval_of_hub if benchmark == "humaneval" else _mbpp_of_hub
    problems = [_problem(row, benchmark) if "plus_input" in row.values else from_hub(row) for row in rows]
    check_unique((row, problem.task_id) for row, problem in zip(rows, problems, strict=True))
    return ListedTask(f"{benchmark}plus", settings_of(recipe.evaluate).stop, problems)


def _problem(row: EvaluationRow, benchmark: Literal["humaneval", "mbpp"]) -> Problem:
    """A problem in EvalPlus's own format."""
    task_id, prompt, name = row.identifier("task_id"), row.text("prompt"), row.text("entry_point")
    reference = row.text("canonical_solution")
    prefix = {"humaneval": "HumanEval/", "mbpp": "Mbpp/"}[benchmark]
    if not task_id.startswith(prefix) or not task_id.removeprefix(prefix).isdecimal():
        raise WMTPError(
            f"{row.place}: task_id {task_id!r} should be {prefix} and a number; "
            f"HumanEval+ is task humanevalplus, MBPP+ is task mbppplus"
        )
    number = int(task_id.removeprefix(prefix)) if benchmark == "mbpp" else None
    inputs = {field: _inputs(row, field, number) for field in INPUTS}
    rules = (benchmark, name, _tolerance(row))
    setup = "\n".join(
        [
            importlib.resources.files("wmtp.evaluate.tasks")
            .joinpath("evalplus_oracle.py")
            .read_text("utf-8"),
            "inf, nan = math.inf, math.nan",
            f"REFERENCE = {{'__name__': 'reference'}}\nexec({prompt + reference!r}, REFERENCE)",
            *(f"{field.upper()} = {values!r}" for field, values in inputs.items()),
        ]
    )
    tests = tuple(
        f"check_results({ENTRY_POINT}, REFERENCE[{name!r}], {field.upper()}, {rules!r})" for field in INPUTS
    )
    facts: dict[str, Any] = {
        "entry_point": name,
        "packages": PACKAGES,
        "public_tests": 1,
        "tests_inside": benchmark == "mbpp" and name in evalplus_oracle.ONLY_WHETHER_NONE,
    }
    return Problem(
        task_id,
        prompt,
        lambda completion: Program(task_id, prompt + completion, tests, setup, **facts),
        solution=reference,
        prefix=prompt,
        entry_points=(name,),
        has_base=True,
    )


def _inputs(row: EvaluationRow, field: str, number: int | None) -> list[Any]:
    value = row.values.get(field)
    if value == {}:  # so in MBPP+ where there are none
        value = []
    if not isinstance(value, list) or not all(isinstance(each, list) for each in value):
        raise WMTPError(f"{row.place}: {field!r} should be a list of lists of arguments")
    if number is None:
        return value
    try:
        return mbpp_arguments(number, value)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WMTPError(f"{row.place}: {field!r} does not fit problem {number} of MBPP+ ({error})") from None


def _tolerance(row: EvaluationRow) -> float:
    value = row.values.get("atol")
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise WMTPError(f"{row.place}: 'atol' should be a number from 0")
    return float(value)


def _humaneval_of_hub(row: EvaluationRow) -> Problem:
    task_id, prompt, test = row.identifier("task_id"), row.text("prompt"), row.text("test")
    name, solution = row.text("entry_point"), row.text("canonical_solution")
    if not is_humaneval_plus(row):
        raise WMTPError(
            f"{row.place}: has neither 'plus_input' nor tests of HumanEval+; use --task humaneval"
        )
    return Problem(task_id, prompt, checked_program(task_id, prompt, test, name), solution=solution)


def _mbpp_of_hub(row: EvaluationRow) -> Problem:
    if not is_mbpp_plus(row):
        raise WMTPError(f"{row.place}: has neither 'plus_input' nor 'test'; use --task mbpp")
    task_id, code, test = row.identifier("task_id"), row.text("code"), row.text("test")
    shown, setup = row.texts("test_list"), "\n".join(row.texts("test_imports", ()))
    if not shown:
        raise WMTPError(f"{row.place}: 'test_list' has no tests")
    used = demanded_names(code, setup, (test,))
    any_object = not evalplus_oracle.ONLY_WHETHER_NONE.isdisjoint(used)
    facts: dict[str, Any] = {
        "tests_inside": any_object or needs_candidate(code, setup, (test,)),
        "defines": used,
        "packages": tuple(sorted({*PACKAGES, *packages_imported(code, setup, test)})),
    }
    prompt = f'"""\n{row.text("prompt")}\n{shown[0]}\n"""\n'
    return Problem(
        task_id, prompt, lambda text: Program(task_id, prompt + text, (test,), setup, **facts), solution=code
    )
