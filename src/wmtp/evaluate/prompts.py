"""Builds the prompts for a model, and says where its answers end."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from wmtp.data.chat import Chat
from wmtp.data.tokenizer import encode_prompts
from wmtp.decode.ends import end_tokens
from wmtp.decode.stopping import StopStrings
from wmtp.evaluate.protocols import Protocol
from wmtp.evaluate.tasks import Problem
from wmtp.model.modeling import MTPForCausalLM


@dataclass(frozen=True)
class Prompts:
    """The problems as a model reads them.

    Attributes:
        texts: in the problems' order; with the chat template's own text where the protocol has a chat.
        ids: tokens of each, by problem.
        ends: tokens that end an answer.
        stop: strings that end an answer and are no part of it.
    """

    texts: list[str]
    ids: dict[str, list[int]]
    ends: frozenset[int]
    stop: StopStrings


def prompts_of(
    problems: Sequence[Problem],
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: Protocol,
    stop: Sequence[str],
) -> Prompts:
    """The prompts of a protocol.

    Args:
        stop: the task's own strings.

    Raises:
        WMTPError: a chat, and the tokenizer has no template for it, or one without a place for its messages.
    """
    names, texts = [problem.task_id for problem in problems], [problem.prompt for problem in problems]
    ends = end_tokens(model, tokenizer)
    if not settings.chat:
        found = encode_prompts(tokenizer, texts)
        return Prompts(texts, dict(zip(names, found, strict=True)), ends, StopStrings(tokenizer, stop))
    chat = Chat(tokenizer, settings.system)
    return Prompts(
        [chat.text(text) for text in texts],
        {name: chat.ids(text) for name, text in zip(names, texts, strict=True)},
        ends if chat.end is None else ends | {chat.end},
        StopStrings(tokenizer, [*stop, *([chat.end_text] if chat.end_text else [])]),
    )
