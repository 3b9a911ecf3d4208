"""HumanEval (Chen et al. 2021, arXiv 2107.03374): complete a function from its signature and docstring."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wmtp.config import Recipe
from wmtp.data.templates import function_message
from wmtp.errors import WMTPError
from wmtp.evaluate.entry_points import as_function, is_entry_point
from wmtp.evaluate.protocols import BIGCODE, CHAT, LM_EVAL, META_MTP, Protocol, TaskSettings
from wmtp.evaluate.rows import EvaluationRow
from wmtp.evaluate.tasks import settings_of, takes
from wmtp.evaluate.tasks.base import ListedTask, Problem, check_unique, data_rows, is_humaneval_plus
from wmtp.evaluate.tasks.texts import helpers, packages_imported
from wmtp.sandbox import ENTRY_POINT, Program

SOURCE = "HumanEval.jsonl.gz of github.com/openai/human-eval (folder data)"
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion ends (section 2.1)."""
PROTOCOLS = (
    replace(LM_EVAL, prompt="published", stop=STOPS, max_new_tokens=1024),
    replace(
        BIGCODE,
        prompt="stripped",
        temperatures={1: (0.2,), 10: (0.2,), 100: (0.2,)},
        samples=200,
        stop=("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
    ),
    CHAT,
    # sections 2.1 and 3.2 to 3.4
    Protocol(
        "humaneval-paper",
        "published",
        {1: (0.2,), 10: (0.8,), 100: (0.8,)},
        samples=200,
        stop=STOPS,
        top_p=0.95,
        max_new_tokens=512,
        about="Chen et al. 2021: pass@1 at temperature 0.2, pass@10 and pass@100 at 0.8, of 200 samples",
    ),
    replace(META_MTP, prompt="published", stop=STOPS),
)


@takes(TaskSettings(PROTOCOLS))
def humaneval(recipe: Recipe) -> ListedTask:
    """164 functions to complete; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    settings = settings_of(recipe.evaluate)
    rows = data_rows(recipe.evaluate, SOURCE)
    problems = [_problem(row, settings.prompt) for row in rows]
    check_unique((row, problem.task_id) for row, problem in zip(rows, problems, strict=True))
    return ListedTask("humaneval", settings.stop, problems)


def _problem(row: EvaluationRow, kind: str) -> Problem:
    task_id = row.identifier("task_id")
    published, test, name = row.text("prompt"), row.text("test"), row.text("entry_point")
    if is_humaneval_plus(row):
        raise WMTPError(f"{row.place}: is a problem of HumanEval+; use --task humanevalplus")
    if "def check(" not in test:
        raise WMTPError(f"{row.place}: 'test' should define check(candidate)")
    if not is_entry_point(name):
        raise WMTPError(f"{row.place}: 'entry_point' should name a function or a method, not {name!r}")
    prefix = published.strip() if kind == "stripped" else published
    return Problem(
        task_id,
        function_message(published) if kind == "instruct" else prefix,
        checked_program(task_id, prefix, test, name),
        solution=_solution(row, published, prefix),
        prefix=prefix,
        entry_points=(name.partition(".")[0],),
    )


def checked_program(task_id: str, prompt: str, test: str, entry_point: str) -> Callable[[str], Program]:
    """What makes a program of a completion.

    What the tests use of the prompt is the prompt's, whatever the completion makes of it; the function that they
    check is the completion's, even when it is called like a built-in.

    Args:
        task_id: the problem's.
        prompt: goes before the completion.
        test: defines `check(candidate)`.
        entry_point: name of the function to complete, or of a method (`Solution.two_sum`).
    """
    function, definition = as_function(entry_point)
    facts: dict[str, Any] = {
        "setup": helpers(prompt, entry_point.partition(".")[0], test),
        "entry_point": function,
        "packages": packages_imported(prompt, test),
    }
    tests = (test, f"check({ENTRY_POINT})")
    return lambda completion: Program(task_id, prompt + completion + definition, tests, **facts)


def _solution(row: EvaluationRow, published: str, prompt: str) -> str | None:
    """The row's own solution, as a completion of the prompt."""
    if "canonical_solution" not in row.values:
        return None
    whole = published + row.text("canonical_solution")
    return whole[whole.index(prompt) + len(prompt) :]
