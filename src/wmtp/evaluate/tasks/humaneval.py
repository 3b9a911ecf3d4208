"""HumanEval (Chen et al. 2021, arXiv 2107.03374): complete a function from its signature and docstring."""

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.protocols import Prompt
from wmtp.evaluate.rows import Row
from wmtp.evaluate.sandbox import Program
from wmtp.evaluate.tasks.base import ListedTask, Problem, check_unique, data_rows

SOURCE = "HumanEval.jsonl.gz of github.com/openai/human-eval (folder data)"


def humaneval(recipe: Recipe) -> ListedTask:
    """164 functions to complete; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, or a row of it is not a problem.
    """
    settings = recipe.evaluate.settings
    rows = data_rows(recipe.evaluate, SOURCE)
    problems = [_problem(row, settings.prompt) for row in rows]
    check_unique((row, problem.task_id) for row, problem in zip(rows, problems, strict=True))
    return ListedTask("humaneval", settings.stop, problems)


def _problem(row: Row, kind: Prompt) -> Problem:
    task_id = row.identifier("task_id")
    published, test, name = row.text("prompt"), row.text("test"), row.text("entry_point")
    if "def check(" not in test:
        raise WMTPError(f"{row.place}: 'test' should define check(candidate)")
    prompt = published.strip() if kind == "stripped" else published
    tests = (test, f"check({name})")
    return Problem(
        task_id,
        prompt,
        lambda completion: Program(task_id, prompt + completion, tests),
    )
