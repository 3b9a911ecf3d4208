"""Next-token generation with head 0: greedy or sampled, in batches."""

from collections.abc import Callable, Collection, Sequence

from wmtp.decode.batch import Batch, Generation, Request, Stop
from wmtp.decode.sampling import Sampling
from wmtp.decode.stopping import StopStrings
from wmtp.model.modeling import MTPForCausalLM


def generate(
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
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    on_end: Callable[[int, list[int], Stop], None] | None = None,
) -> Generation:
    """Continue each prompt token by token with head 0, in the model's dtype and on its device.

    Args:
        model: any number of heads; only the trunk and head 0 run.
        prompts: token ids, at least one each.
        max_new_tokens: tokens to generate at most, the eos counted.
        eos_ids: tokens that end a row.
        temperature: 0 takes the most probable token; above 0 samples from softmax(logits / temperature).
        top_p: sample only among the fewest most probable tokens that together have at least this probability.
        seed: with its stream it fixes the random numbers of a prompt. So neither the batch size nor the other
            prompts change what a prompt gets (but for near-ties within the rounding of the model's dtype).
        streams: a number, not negative, for each prompt; None for its index.
        stop: strings at which a row ends; the tokens that hold one are returned.
        batch_size: prompts decoded together.
        progress: called with the number of prompts that have just come to their end.
        on_end: called with index, tokens and stop of each prompt that comes to its end.

    Raises:
        WMTPError: an empty prompt, more positions than the model has, another number of streams than of prompts,
            or logits that are not finite.
    """
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
    return request.run(_decode)


def _decode(batch: Batch) -> None:
    _, _, logits = batch.read_prompts()
    while True:
        tokens = batch.choice.own(logits, batch.counts)[:, None]
        batch.emit(tokens.tolist())
        order = batch.drop_ended()
        if not batch.indices:
            return
        _, logits = batch.read(tokens if order is None else tokens[order])
        logits = logits[:, 0]
