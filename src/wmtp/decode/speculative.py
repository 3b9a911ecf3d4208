"""Self-speculative decoding, greedy or sampled: heads 1..H-1 draft, head 0 verifies."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wmtp.decode.batch import Batch, Generation, Request, Stop
from wmtp.decode.drafter import Drafter, make_drafter
from wmtp.decode.sampling import Sampling
from wmtp.decode.stopping import StopStrings
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
    eos_ids: Collection[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    stop: StopStrings | None = None,
    heads: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    on_end: Callable[[int, list[int], Stop], None] | None = None,
    on_block: Callable[[int, Block], None] | None = None,
) -> Generation:
    """What `generate` gives, in fewer forwards (arXiv 2404.19737, section 3.2).

    A forward reads the last confirmed token and the H-1 drafts after it. Head 0 confirms the longest prefix of drafts
    that hold and adds one token; heads 1..H-1 at the last confirmed position draft the next block.

    Greedy: a draft holds if it is head 0's choice, so in exact arithmetic the tokens are those of `generate`, token
    for token; in floating point a near-tie may fall differently (`ties`), because matrix products of other shapes
    round differently. Sampled: drafts are drawn from their heads' distributions q at the same temperature and top_p,
    and hold with probability min(1, p / q), so the tokens have the joint distribution of those of `generate`, which
    for the same seed are others (`SampledChoice`).

    Args:
        model: its heads 0..heads-1 run, in its dtype and on its device.
        prompts: token ids, at least one each.
        max_new_tokens: tokens to generate at most, the eos counted.
        eos_ids: tokens that end a row.
        temperature: 0 is greedy; above 0 samples.
        top_p: as in `generate`.
        seed: with its stream it fixes the random numbers of a prompt, whatever batch it is in.
        streams: a number, not negative, for each prompt; None for its index.
        stop: strings at which a row ends; the tokens that hold one are returned.
        heads: how many heads to use, head 0 included; None for all.
        batch_size: prompts decoded together.
        progress: called with the number of prompts that have just come to their end.
        on_end: called with index, tokens and stop of each prompt that comes to its end.
        on_block: called with a prompt's index and each of its blocks, as they come.

    Returns:
        With `checked` and `accepted` for heads 1..heads-1.

    Raises:
        WMTPError: `heads` that the model lacks, a temperature, top_p or seed out of range, an empty prompt, more
            positions than the model has, another number of streams than of prompts, or logits that are not finite.
    """
    used = model.config.heads if heads is None else heads
    if not 1 <= used <= model.config.heads:
        raise WMTPError(f"heads {used}: the model has {model.config.heads}, of which 1 or more can be used")
    sampling = Sampling(temperature, top_p, seed)
    request = Request(
        model,
        prompts,
        max_new_tokens,
        frozenset(eos_ids),
        batch_size,
        sampling,
        streams,
        stop,
        progress,
        on_end,
    )
    drafter = make_drafter(model, used) if used > 1 else None
    return request.run(lambda batch: _decode(batch, drafter, on_block), drafts=used - 1)


def _decode(batch: Batch, drafter: Drafter | None, on_block: Callable[[int, Block], None] | None) -> None:
    trunk, columns, logits = batch.read_prompts()
    own = batch.choice.own(logits, batch.counts)
    drafts, accepted = _no_drafts(own)
    while True:
        _emit(batch, drafts, accepted, own, on_block)
        order = batch.drop_ended()
        if not batch.indices:
            return
        if order is not None:
            trunk, columns, own = batch.select(trunk, order), columns[order], own[order]
        if drafter is None:
            _, logits = batch.read(own[:, None])
            own = batch.choice.own(logits[:, 0], batch.counts)
            drafts, accepted = _no_drafts(own)
            continue
        drafts, proposal = batch.choice.drafts(drafter.logits(trunk, batch.cache, columns), batch.counts)
        trunk, logits = batch.read(torch.cat([own[:, None], drafts], 1))
        accepted, own = batch.choice.verify(logits, drafts, proposal, batch.counts)
        columns = accepted


def _no_drafts(own_b: Tensor) -> tuple[Tensor, Tensor]:
    """Drafts [B, 0], and how many of each row hold [B]."""
    return own_b.new_empty(len(own_b), 0), torch.zeros_like(own_b)


def _emit(
    batch: Batch, drafts: Tensor, accepted: Tensor, own: Tensor, on_block: Callable[[int, Block], None] | None
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
