"""MBPP (Austin et al. 2021, arXiv 2108.07732): short functions, each from one sentence."""

import ast
import builtins
import warnings
from collections.abc import Sequence

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.rows import Row
from wmtp.evaluate.sandbox import Program
from wmtp.evaluate.tasks.base import ListedTask, Problem, check_unique, data_rows

SOURCE = "mbpp.jsonl, or sanitized-mbpp.json, of github.com/google-research/google-research (folder mbpp)"
SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""Problem numbers by split, as in the paper; `all` is every row of the file."""
SHOTS = (2, 3, 4)
"""Problems that the 3-shot prompt shows solved."""


def mbpp(recipe: Recipe) -> ListedTask:
    """974 functions (427 sanitized) of which a split of 500 is evaluated; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    settings = recipe.evaluate.settings
    rows = [(row, _number(row)) for row in data_rows(recipe.evaluate, SOURCE)]
    check_unique((row, str(number)) for row, number in rows)
    shots = _shots({number: row for row, number in rows}) if settings.prompt == "3-shot" else ""
    chosen = [row for row, number in rows if settings.split == "all" or number in SPLITS[settings.split]]
    if not chosen:
        raise WMTPError(f"evaluate.data {recipe.evaluate.data}: has no problem of the {settings.split} split")
    return ListedTask("mbpp", settings.stop, [_problem(row, shots) for row in chosen])


def _number(row: Row) -> int:
    number = row.values.get("task_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise WMTPError(f"{row.place}: 'task_id' should be a whole number")
    return number


def _problem(row: Row, shots: str) -> Problem:
    reference, tests = row.text("code"), _tests(row)
    setup = row.text("test_setup_code", default="\n".join(row.texts("test_imports", ())))
    inside, overrides = needs_candidate(reference, setup, tests), overridden_builtins(reference, tests)
    task_id = str(row.values["task_id"])
    return Problem(
        task_id,
        shots + _question(row) if shots else _docstring(row),
        lambda completion: Program(task_id, completion, tests, setup, inside, overrides),
        reference,
    )


def _tests(row: Row) -> tuple[str, ...]:
    tests = row.texts("test_list")
    if not tests:
        raise WMTPError(f"{row.place}: 'test_list' has no tests")
    return tests


def _shots(rows: dict[int, Row]) -> str:
    """The solved problems before the question (Austin et al., section 2.1, and lm-evaluation-harness)."""
    missing = [number for number in SHOTS if number not in rows]
    if missing:
        raise WMTPError(
            f"evaluate.data: the 3-shot prompt shows problems 2, 3 and 4; the file lacks {missing[0]}"
        )
    return "".join(f"{_question(rows[n])}{rows[n].text('code')}\n[DONE]\n\n" for n in SHOTS)


def _question(row: Row) -> str:
    tests = "\n".join(_tests(row))
    return (
        f"You are an expert Python programmer, and here is your task: {row.text('text', 'prompt')} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _docstring(row: Row) -> str:
    """The description and the first test as a docstring (bigcode-evaluation-harness, after InCoder)."""
    return f'"""\n{row.text("text", "prompt")}\n{_tests(row)[0]}\n"""\n'


def overridden_builtins(reference: str, tests: Sequence[str]) -> tuple[str, ...]:
    """The built-ins that a problem's function is called like.

    Args:
        reference: a right solution; what cannot be parsed overrides nothing.
        tests: where they use another of its functions, it overrides nothing either: what is called like a built-in is
            then a helper of its own.
    """
    if (parsed := _parsed(reference, *tests)) is None:
        return ()
    solution, use = parsed
    used = sorted(_functions(solution) & {node.id for node in ast.walk(use) if isinstance(node, ast.Name)})
    return tuple(used) if all(hasattr(builtins, name) for name in used) else ()


def needs_candidate(reference: str, setup: str, tests: Sequence[str]) -> bool:
    """Whether tests need something of the program itself that is no plain data: its class, its module, a type.

    That is so where they use a class or an import of the reference solution that the setup does not provide, or pass
    a built-in type or function to one of its functions.

    Args:
        reference: a right solution; what cannot be parsed needs nothing.
    """
    if (parsed := _parsed(reference, setup, *tests)) is None:
        return False
    solution, use = parsed
    functions = _functions(solution)
    own = _classes_and_imports(solution) - _classes_and_imports(use)
    for node in ast.walk(use):
        if isinstance(node, ast.Name) and node.id in own:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            given = {argument.id for argument in node.args if isinstance(argument, ast.Name)}
            if any(callable(getattr(builtins, name, None)) for name in given):
                return True
    return False


def _parsed(reference: str, *use: str) -> tuple[ast.Module, ast.Module] | None:
    """A solution, and what uses it, as syntax trees; None if one of them is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(reference), ast.parse("\n".join(use))
        except (SyntaxError, ValueError):
            return None


def _functions(module: ast.Module) -> set[str]:
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def _classes_and_imports(module: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names
