"""Prompt templates, shared by training and evaluation."""

from collections.abc import Sequence


def mbpp_style_prompt(text: str) -> str:
    """A description as a comment line; the code follows on the next line.

    Args:
        text: natural-language description; line breaks in it become spaces, so that it stays one comment.
    """
    return f"# {' '.join(text.splitlines())}\n"


def function_message(code: str) -> str:
    """A message that asks an instruct model for a function.

    Args:
        code: its signature and docstring, with what stands before them.
    """
    return (
        "Complete this Python function. Answer with one Markdown code block that holds the whole function, "
        f"with every import and helper that it needs.\n\n```python\n{code.strip()}\n```"
    )


def task_message(text: str, tests: Sequence[str]) -> str:
    """A message that asks an instruct model for code that passes tests.

    Args:
        text: natural-language description.
        tests: statements that the code has to pass; they show names and arguments.
    """
    shown = "\n".join(tests)
    return (
        f"{text.strip()}\n\nThe code has to pass these tests:\n\n```python\n{shown}\n```\n\n"
        "Answer with one Markdown code block of Python that holds all of the code, without the tests."
    )
