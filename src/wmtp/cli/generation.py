"""A generation as it comes: which drafts of the extra heads were accepted, and which were refused."""

import sys
from collections.abc import Collection
from dataclasses import replace

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from wmtp.config import Recipe
from wmtp.data.tokenizer import decode_completion, encode_prompts
from wmtp.decode.batch import Generation
from wmtp.decode.ends import end_tokens
from wmtp.decode.generate import Block, generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.stopping import INCOMPLETE
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS, problems_of
from wmtp.run import Run

PROMPT, ACCEPTED, REFUSED, OWN = "dim", "bold green", "strike red", ""


def show_generation(
    console: Console, run: Run, prompt: str | None, problem: int | None, options: DecodeOptions
) -> None:
    """Print the prompt, its continuation as it is decoded, and how many drafts were accepted.

    Args:
        options: the model's end tokens are added.

    Raises:
        WMTPError: neither or both of prompt and problem are given, the task lacks the problem, or the prompt is
            empty or too long.
    """
    text = _prompt(run.recipe, prompt, problem)
    model, tokenizer = run.model, run.tokenizer
    prompts = encode_prompts(tokenizer, [text])
    ends = end_tokens(model, tokenizer)
    stream = BlockStream(console, tokenizer, ends, text)
    options = replace(options, eos_ids=ends)
    found = generate(model, prompts, options, on_block=lambda _, block: stream.add(block))
    console.print()
    if model.config.heads > 1:
        console.print(Text(_summary(found), style="dim"))


class BlockStream:
    """Writes each decoded block to a console: accepted drafts coloured and, on a terminal, refused ones struck out.

    A character of several tokens is written with the last of them.
    """

    def __init__(
        self, console: Console, tokenizer: PreTrainedTokenizerFast, ends: Collection[int], prompt: str = ""
    ) -> None:
        """Write the prompt with the first block, and tokens up to the first that is in `ends`."""
        self._console = console
        self._tokenizer = tokenizer
        self._ends = ends
        self._tokens: list[int] = []
        self._shown = 0
        self._prompt = prompt

    def add(self, block: Block) -> None:
        """Write the block's tokens, with refused drafts before the token that replaced them."""
        self._write(self._prompt, PROMPT)
        self._prompt = ""
        for token in block.drafts[: block.accepted]:
            self._append(token, ACCEPTED)
        if block.token is None:
            return
        refused = block.drafts[block.accepted :]
        if refused and self._console.is_terminal:
            text = decode_completion(self._tokenizer, [*self._tokens, *refused])[self._shown :]
            self._write(text.strip(INCOMPLETE), REFUSED)
        self._append(block.token, OWN)

    def _write(self, text: str, style: str) -> None:
        """Write text without markup, wrapping or highlighting."""
        self._console.out(text, style=style, end="", highlight=False)

    def _append(self, token: int, style: str) -> None:
        if token in self._ends:
            return
        self._tokens.append(token)
        text = decode_completion(self._tokenizer, self._tokens)
        if not text.endswith(INCOMPLETE):
            self._write(text[self._shown :], style)
            self._shown = len(text)


def _summary(found: Generation) -> str:
    shares = " ".join(f"{share:.2f}" for share in found.acceptance) or "none were checked"
    return f"{found.tokens_per_forward:.2f} tokens per forward, drafts accepted by head: {shares}"


def _text(prompt: str) -> str:
    """The prompt; for "-", standard input."""
    try:
        text = sys.stdin.read() if prompt == "-" else prompt
        text.encode()
    except UnicodeError:
        raise WMTPError("--prompt: should be text in UTF-8") from None
    return text


def _prompt(recipe: Recipe, prompt: str | None, problem: int | None) -> str:
    if (prompt is None) == (problem is None):
        raise WMTPError("generate: give either --prompt TEXT or --problem NUMBER")
    if prompt is not None:
        return _text(prompt)
    problems = problems_of(TASKS.create(recipe.evaluate.task, recipe), None)
    assert problem is not None
    if not 0 <= problem < len(problems):
        raise WMTPError(
            f"--problem {problem}: task {recipe.evaluate.task!r} has the problems 0 to {len(problems) - 1}"
        )
    return problems[problem].prompt
