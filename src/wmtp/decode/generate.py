"""Generation in batches, greedy or sampled: token by token with head 0, or with drafts that head 0 verifies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wmtp.decode.batch import DecodingBatch, Generation, OnEnd, Request
from wmtp.decode.drafter import Drafter, make_drafter
from wmtp.decode.options import DecodeOptions
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


OnBlock = Callable[[int, Block], None]


def generate(
    model: MTPForCausalLM,
    prompts: Sequence[list[int]],
    options: DecodeOptions,
    *,
    streams: Sequence[int] | None = None,
    on_end: OnEnd | None = None,
    on_block: OnBlock | None = None,
) -> Generation:
    """Continue each prompt, in the model's dtype and on its device.

    With one head, a forward reads a row's last token and gives the next one. With H heads it reads the last confirmed
    token and the H-1 drafts after it (self-speculative decoding, arXiv 2404.19737, section 3.2): head 0 confirms the
    longest prefix of drafts that hold and adds one token; heads 1..H-1 at the last confirmed position draft the next
    block.

    Greedy: a draft holds if it is head 0's choice, so in exact arithmetic the tokens are the same for any number of
    heads; in floating point a near-tie may fall differently (`ties`), because matrix products of other shapes round
    differently. Sampled: drafts are drawn from their heads' distributions q at the same temperature and top_p, and
    hold with probability min(1, p / q), so the tokens have the same joint distribution for any number of heads, but
    the same seed gives others (`SampledChoice`).

    Neither the batch size nor the other prompts change what a prompt gets, but for near-ties.

    Args:
        model: its trunk and the heads that `options` asks for run.
        prompts: token ids, at least one each.
        options: how far to go, how to choose tokens, and with how many heads.
        streams: a number, not negative, for each prompt, which with the seed fixes its random numbers; None for its
            index.
        on_end: called with index, tokens and stop of each prompt that comes to its end.
        on_block: called with a prompt's index and each of its blocks, as they come.

    Returns:
        With `checked` and `accepted` for each head but head 0.

    Raises:
        WMTPError: more heads than the model has, an empty prompt, more positions than the model has, another number
            of streams than of prompts, or logits that are not finite.
    """
    heads = model.config.heads if options.heads is None else options.heads
    if not 1 <= heads <= model.config.heads:
        raise WMTPError(f"heads {heads}: the model has {model.config.heads}, of which 1 or more can be used")
    request = Request(model, prompts, options, range(len(prompts)) if streams is None else streams, on_end)
    drafter = make_drafter(model, heads) if heads > 1 else None
    return request.run(lambda batch: _decode(batch, drafter, on_block), drafts=heads - 1)


def _decode(batch: DecodingBatch, drafter: Drafter | None, on_block: OnBlock | None) -> None:
    trunk, columns, logits = batch.read_prompts()
    own = batch.choice.own(logits, batch.counts)
    drafts, accepted = _no_drafts(own)
    while True:
        _emit(batch, drafts, accepted, own, on_block)
        order = batch.drop_ended()
        if not batch.indices:
            return
        if order is not None:
            own = own[order]
        if drafter is None:
            _, logits = batch.read(own[:, None])
            own = batch.choice.own(logits[:, 0], batch.counts)
            drafts, accepted = _no_drafts(own)
            continue
        if order is not None:
            trunk, columns = batch.select(trunk, order), columns[order]
        drafts, proposal = batch.choice.drafts(drafter.logits(trunk, batch.cache, columns), batch.counts)
        trunk, logits = batch.read(torch.cat([own[:, None], drafts], 1))
        accepted, own = batch.choice.verify(logits, drafts, proposal, batch.counts)
        columns = accepted


def _no_drafts(own_b: Tensor) -> tuple[Tensor, Tensor]:
    """Drafts [B, 0], and how many of each row hold [B]."""
    return own_b.new_empty(len(own_b), 0), torch.zeros_like(own_b)


def _emit(
    batch: DecodingBatch, drafts: Tensor, accepted: Tensor, own: Tensor, on_block: OnBlock | None
) -> None:
    """Give each row its accepted drafts and head 0's own token; count the drafts that were compared."""
    blocks = torch.cat([accepted[:, None], own[:, None], drafts], 1).tolist()
    confirmed = [[*drafted[:count], token] for count, token, *drafted in blocks]
    kept = batch.emit(confirmed)
    for index, (count, token, *drafted), n in zip(batch.indices, blocks, kept, strict=True):
        for place in range(min(n, len(drafted))):
            batch.result.checked[place] += 1
            batch.result.accepted[place] += place < count
        if on_block is not None:
            on_block(index, Block(drafted, min(n, count), token if n > count else None))
