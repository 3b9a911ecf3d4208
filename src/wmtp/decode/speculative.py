"""Self-speculative greedy decoding: heads 1..H-1 draft, head 0 verifies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wmtp.decode.batch import Batch, Generation, Request
from wmtp.decode.drafter import Drafter
from wmtp.errors import WMTPError
from wmtp.model.modeling import MTPForCausalLM


@dataclass(frozen=True)
class Block:
    """One forward of one row; `drafts[:accepted]` and `token` of all its blocks are what a row got, its eos included.

    Attributes:
        drafts: tokens that heads 1..H-1 proposed; none in the prompt's own forward.
        accepted: how many of them were kept.
        token: head 0's own token after them; None when the row ended with an accepted draft.
    """

    drafts: list[int]
    accepted: int
    token: int | None


def generate_speculative(
    model: MTPForCausalLM,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int | None,
    heads: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    on_block: Callable[[int, Block], None] | None = None,
) -> Generation:
    """What greedy `generate` gives, token for token, in fewer forwards (arXiv 2404.19737, section 3.2).

    A forward reads the last confirmed token and the H-1 drafts after it. Head 0's choices confirm the longest prefix
    of drafts that equals them and add one token; heads 1..H-1 at the last confirmed position draft the next block.
    In exact arithmetic the tokens equal those of `generate`; in floating point a near-tie may fall differently,
    because matrix products of other shapes round differently.

    Args:
        model: its heads 0..heads-1 run, in its dtype and on its device.
        prompts: token ids, at least one each.
        max_new_tokens: tokens to generate at most, the eos counted.
        eos_id: token that ends a row; None for no such token.
        heads: how many heads to use, head 0 included; None for all.
        batch_size: prompts decoded together.
        progress: called with the number of prompts that have just come to their end.
        on_block: called with a prompt's index and each of its blocks, as they come.

    Returns:
        With `checked` and `accepted` for heads 1..heads-1.

    Raises:
        WMTPError: `heads` that the model lacks, an empty prompt, more positions than the model has, or logits that
            are not finite.
    """
    used = model.config.heads if heads is None else heads
    if not 1 <= used <= model.config.heads:
        raise WMTPError(f"heads {used}: the model has {model.config.heads}, of which 1 or more can be used")
    request = Request(model, prompts, max_new_tokens, eos_id, batch_size, progress)
    return request.run(lambda batch: _decode(batch, used, on_block), drafts=used - 1)


def _decode(batch: Batch, heads: int, on_block: Callable[[int, Block], None] | None) -> None:
    drafter = Drafter(batch.request.model, heads) if heads > 1 else None
    trunk, columns, logits = batch.read_prompts()
    own = logits.argmax(-1, keepdim=True)
    batch.emit(own.tolist())
    if on_block is not None:
        for index, (token,) in zip(batch.indices, own.tolist(), strict=True):
            on_block(index, Block([], 0, token))
    while True:
        order = batch.drop_ended()
        if not batch.indices:
            return
        if order is not None:
            trunk, columns, own = batch.select(trunk, order), columns[order], own[order]
        block = own if drafter is None else torch.cat([own, drafter.propose(trunk, batch.cache, columns)], 1)
        trunk, logits = batch.read(block)
        choices = logits.argmax(-1)
        columns = (choices[:, :-1] == block[:, 1:]).cumprod(1).sum(1)
        own = choices.gather(1, columns[:, None])
        verdicts = torch.cat([columns[:, None], choices], 1).tolist()
        confirmed = [tokens[: agreed + 1] for agreed, *tokens in verdicts]
        kept = batch.emit(confirmed)
        _count(batch.result, kept, confirmed)
        if on_block is not None:
            for index, (_, *drafts), new, n in zip(
                batch.indices, block.tolist(), confirmed, kept, strict=True
            ):
                on_block(index, Block(drafts, min(n, len(new) - 1), new[-1] if n == len(new) else None))


def _count(result: Generation, kept: list[int], confirmed: list[list[int]]) -> None:
    """Of a row that kept n tokens, drafts 1..n were checked; all but the last of the confirmed are drafts."""
    for n, tokens in zip(kept, confirmed, strict=True):
        for draft in range(min(n, len(result.checked))):
            result.checked[draft] += 1
            result.accepted[draft] += draft < len(tokens) - 1
