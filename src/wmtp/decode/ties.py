"""Whether two ways of greedy decoding differ only where head 0 could not tell two tokens apart."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from wmtp.decode.batch import evaluation_mode
from wmtp.model.modeling import MTPForCausalLM


@dataclass(frozen=True)
class Difference:
    """Where two completions of a prompt part, judged by head 0's logits in float64.

    Attributes:
        prompt: its index.
        place: how many tokens the completions have in common.
        tokens: what each of them has next.
        gap: by how much the worse of the two tokens is below the best of all, in logits.
        error: largest error of a logit in the model's own dtype, over the prompt and the common tokens.
    """

    prompt: int
    place: int
    tokens: tuple[int, int]
    gap: float
    error: float

    @property
    def is_near_tie(self) -> bool:
        """Two evaluations with this error can choose either token: each moves both logits by `error` at most."""
        return self.gap <= 2 * self.error


def first_differences(
    model: MTPForCausalLM,
    prompts: Sequence[list[int]],
    first: Sequence[list[int]],
    second: Sequence[list[int]],
    *,
    eos_ids: Collection[int],
) -> list[Difference]:
    """The first difference of each prompt's two greedy completions, where there is one.

    After it the completions have different contexts and cannot be compared. Each one costs a forward in float64 and
    one in the model's dtype over prompt and common tokens; a float64 copy of the model is made if any is needed.

    Args:
        model: in the dtype that the completions were made in.
        prompts: token ids.
        first: tokens by prompt, as in `Generation.tokens`, for instance of one head.
        second: for instance those of all heads.
        eos_ids: one of them follows a completion that is the beginning of the other one.
    """
    pairs = list(zip(prompts, first, second, strict=True))
    parted = [number for number, (_, one, other) in enumerate(pairs) if one != other]
    exact = copy.deepcopy(model).double() if parted else model
    with evaluation_mode(model), evaluation_mode(exact):
        return [_difference(model, exact, number, *pairs[number], eos_ids) for number in parted]


def _difference(
    model: MTPForCausalLM,
    exact: MTPForCausalLM,
    number: int,
    prompt: list[int],
    first: list[int],
    second: list[int],
    eos_ids: Collection[int],
) -> Difference:
    shorter = min(len(first), len(second))
    place = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    ids = torch.tensor([prompt + first[:place]], device=model.device)
    logits = exact(ids).logits[0]
    error = (model(ids).logits[0].double() - logits).abs().max()
    one, other = (
        tokens[place] if place < len(tokens) else max(eos_ids, key=lambda end: float(logits[-1, end]))
        for tokens in (first, second)
    )
    gap = logits[-1].max() - logits[-1, [one, other]].min()
    return Difference(number, place, (one, other), float(gap), float(error))
