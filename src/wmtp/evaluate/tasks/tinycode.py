"""tinycode: unseen problems of the generated benchmark."""

from wmtp.config import Recipe
from wmtp.data.corpus import tinycode_corpus
from wmtp.data.templates import mbpp_style_prompt
from wmtp.data.tinycode import Row
from wmtp.evaluate.tasks.base import ListedTask, Problem
from wmtp.sandbox import Program


def tinycode(recipe: Recipe) -> ListedTask:
    """The test split of the recipe's `data.tinycode`; the prompt is one line, the completion the whole program."""
    return ListedTask("tinycode", (), [_problem(row) for row in tinycode_corpus(recipe.data.tinycode).test])


def _problem(row: Row) -> Problem:
    task_id, tests = str(row["task_id"]), tuple(row["test_list"])
    return Problem(
        task_id,
        mbpp_style_prompt(row["text"]),
        lambda completion: Program(task_id, completion, tests),
        metadata={"family": row["family"], "operations": len(row["operations"])},
        solution=row["clean_code"],
    )
