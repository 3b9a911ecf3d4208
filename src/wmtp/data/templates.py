"""Prompts, written once: a model is asked in the words that it was trained on."""


def mbpp_style_prompt(text: str) -> str:
    """A description as a comment line; the code follows on the next line.

    Args:
        text: natural-language description; line breaks in it become spaces, so that it stays one comment.
    """
    return f"# {' '.join(text.splitlines())}\n"
