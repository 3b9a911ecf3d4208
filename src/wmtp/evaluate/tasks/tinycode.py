"""tinycode: unseen problems of the generated benchmark."""

from wmtp.config import Recipe
from wmtp.data.templates import mbpp_style_prompt
from wmtp.data.tinycode import Row
from wmtp.evaluate.protocols import Protocol, TaskSettings
from wmtp.evaluate.tasks import takes
from wmtp.evaluate.tasks.base import ListedTask, Problem
from wmtp.sandbox import Program

GREEDY = Protocol(
    "tinycode-greedy", about="one greedy completion, from the one-line prompt of the training data"
)


@takes(TaskSettings((GREEDY,), reads_data=False))
def tinycode(recipe: Recipe) -> ListedTask:
    """The test split of the recipe's `data.tinycode`; the prompt is one line, the completion the whole program."""
    from wmtp.data.corpus import tinycode_corpus  # and torch with it, which protocols do not need

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
