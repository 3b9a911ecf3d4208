"""Next-token generation with head 0: greedy or sampled, in batches."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from wmtp.decode.batch import Batch, Generation, Request
from wmtp.model.modeling import MTPForCausalLM


def generate(
    model: MTPForCausalLM,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int | None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Generation:
    """Continue each prompt token by token with head 0, in the model's dtype and on its device.

    Args:
        model: any number of heads; only the trunk and head 0 run.
        prompts: token ids, at least one each.
        max_new_tokens: tokens to generate at most, the eos counted.
        eos_id: token that ends a row; None for no such token.
        temperature: 0 takes the most probable token; above 0 samples from softmax(logits / temperature).
        top_p: sample only among the fewest most probable tokens that together have at least this probability.
        seed: with its index it fixes the random numbers of a prompt. So neither the batch size nor the other
            prompts change what a prompt gets (but for near-ties within the rounding of the model's dtype).
        batch_size: prompts decoded together.
        progress: called with the number of prompts that have just come to their end.

    Raises:
        WMTPError: an empty prompt, more positions than the model has, or logits that are not finite.
    """
    assert temperature >= 0
    assert 0 < top_p <= 1
    request = Request(model, prompts, max_new_tokens, eos_id, batch_size, progress)
    if temperature == 0:
        return request.run(_decode_greedily)
    return request.run(lambda batch: _decode_sampling(batch, temperature, top_p, seed))


def _decode_greedily(batch: Batch) -> None:
    _, _, logits = batch.read_prompts()
    while True:
        tokens = logits.argmax(-1, keepdim=True)
        batch.emit(tokens.tolist())
        order = batch.drop_ended()
        if not batch.indices:
            return
        _, logits = batch.read(tokens if order is None else tokens[order])
        logits = logits[:, 0]


def _decode_sampling(batch: Batch, temperature: float, top_p: float, seed: int) -> None:
    streams = [np.random.default_rng([seed, index]) for index in batch.indices]
    numbers = np.stack([stream.random(batch.request.max_new_tokens) for stream in streams])
    uniforms = torch.from_numpy(numbers).to(batch.request.model.unembedding.device)
    _, _, logits = batch.read_prompts()
    for step in range(batch.request.max_new_tokens):
        tokens = sample(logits, temperature, top_p, uniforms[:, step])[:, None]
        batch.emit(tokens.tolist())
        order = batch.drop_ended()
        if not batch.indices:
            return
        if order is not None:
            tokens, uniforms = tokens[order], uniforms[order]
        _, logits = batch.read(tokens)
        logits = logits[:, 0]


def sample(logits_bv: Tensor, temperature: float, top_p: float, uniforms_b: Tensor) -> Tensor:
    """One token [B] a row from softmax(logits / temperature), cut to its nucleus (arXiv 1904.09751).

    Args:
        logits_bv: [B, V].
        temperature: above 0.
        top_p: the nucleus is the fewest most probable tokens that have at least this probability; 1 keeps all.
        uniforms_b: [B] float64 in [0, 1), turned into a token by the inverse of the distribution function.
    """
    probabilities = torch.softmax(logits_bv.double() / temperature, -1)
    if top_p < 1:
        ordered, tokens = probabilities.sort(stable=True, dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.scatter(-1, tokens, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative, uniforms_b[:, None] * cumulative[:, -1:], right=True)[:, 0]
