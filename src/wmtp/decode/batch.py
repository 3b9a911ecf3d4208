"""What every way of decoding shares: the request, rows that come to an end, and the result."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from wmtp.decode.options import DecodeOptions
from wmtp.decode.sampling import make_choice
from wmtp.errors import WMTPError
from wmtp.model.attention import narrowed
from wmtp.model.cache import PositionCache
from wmtp.model.heads import TrunkOutput
from wmtp.model.modeling import MTPForCausalLM

Stop = Literal["eos", "stop", "length"]
OnEnd = Callable[[int, list[int], Stop], None]


@dataclass
class Generation:
    """What was generated, in the order of the prompts, and what it took.

    Attributes:
        tokens: per prompt, without the prompt and without the eos; with the tokens that hold a stop string.
        stops: per prompt, what ended it: an end token, a stop string, or its length, max_new_tokens.
        generated: tokens generated, each eos included.
        forwards: forward passes summed over rows: one call of the model for n rows counts n. A prompt's own pass,
            which yields its first token, counts as one.
        seconds: wall-clock time.
        checked: drafts of heads 1..H-1 that were compared with head 0's choice, because all drafts before them in
            their block were accepted and the row had not come to its end. Empty without speculation.
        accepted: how many of them were head 0's choice.
    """

    tokens: list[list[int]]
    stops: list[Stop]
    generated: int = 0
    forwards: int = 0
    seconds: float = 0.0
    checked: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    @property
    def finished(self) -> list[bool]:
        """Per prompt, whether it came to an end of its own, and was not cut at max_new_tokens."""
        return [stop != "length" for stop in self.stops]

    @property
    def tokens_per_forward(self) -> float:
        """`generated` by `forwards`: 1 for next-token generation, at most H for H heads."""
        return self.generated / self.forwards

    @property
    def acceptance(self) -> list[float]:
        """Accepted share of the checked drafts by head, 1 first; up to the last head that had drafts checked."""
        counts = zip(self.accepted, self.checked, strict=True)
        return [accepted / checked for accepted, checked in counts if checked]


@dataclass(frozen=True)
class Request:
    """What to decode with which model.

    Attributes:
        model: the model; its dtype and device are used.
        prompts: token ids, at least one each.
        options: how far to go and how to choose tokens.
        streams: per prompt, the number that with the seed fixes its random numbers.
        on_end: called with index, tokens and stop of each prompt that comes to its end.

    Raises:
        WMTPError: an empty prompt, more positions than the model has, or another number of streams than of prompts.
    """

    model: MTPForCausalLM
    prompts: Sequence[list[int]]
    options: DecodeOptions
    streams: Sequence[int]
    on_end: OnEnd | None

    def __post_init__(self) -> None:
        if len(self.streams) != len(self.prompts):
            raise WMTPError(f"streams: {len(self.streams)} numbers for {len(self.prompts)} prompts")
        limit = self.model.config.backbone.max_position_embeddings
        wanted = self.options.max_new_tokens
        for index, prompt in enumerate(self.prompts):
            if not prompt:
                raise WMTPError(f"prompt {index}: has no tokens; at least one is needed")
            if len(prompt) + wanted > limit:
                raise WMTPError(
                    f"max_new_tokens {wanted}: prompt {index} of {len(prompt)} tokens leaves "
                    f"{max(0, limit - len(prompt))} of the model's {limit} positions (max_position_embeddings)"
                )

    def run(self, decode: Callable[["DecodingBatch"], None], drafts: int = 0) -> Generation:
        """Decode all prompts in batches of about equal length.

        Args:
            decode: reads the prompts of a batch, then emits tokens until no row is left.
            drafts: how many unconfirmed tokens a forward of `decode` holds at most.
        """
        result = Generation(
            tokens=[[] for _ in self.prompts],
            stops=["length"] * len(self.prompts),
            checked=[0] * drafts,
            accepted=[0] * drafts,
        )
        order = sorted(range(len(self.prompts)), key=lambda index: len(self.prompts[index]), reverse=True)
        start = time.perf_counter()
        with evaluation_mode(self.model):
            for first in range(0, len(order), self.options.batch_size):
                decode(DecodingBatch(self, order[first : first + self.options.batch_size], result, drafts))
        result.seconds = time.perf_counter() - start
        return result


class DecodingBatch:
    """Prompts that are decoded together. Rows that have ended leave it.

    Attributes:
        indices: for each row, which prompt of the request it is.
        result: where tokens and counts go.
        cache: keys and values of the rows.
        choice: how the rows' tokens are chosen.
    """

    def __init__(self, request: Request, indices: list[int], result: Generation, drafts: int) -> None:
        self.request = request
        self.indices = indices
        self.result = result
        self._lengths = [len(request.prompts[index]) for index in indices]
        self._ended: list[int] = []
        self._device = request.model.unembedding.device
        self.cache = PositionCache(max(self._lengths) + request.options.max_new_tokens + drafts)
        self._seen, self._hidden = torch.tensor(
            [0.0, -math.inf], dtype=request.model.dtype, device=self._device
        )
        self.choice = make_choice(
            request.options, [request.streams[index] for index in indices], self._device
        )

    def read_prompts(self) -> tuple[TrunkOutput, Tensor, Tensor]:
        """The trunk for the prompts, each one's last column [B], and head 0's logits [B, V] there.

        Raises:
            WMTPError: they are not finite.
        """
        width = max(self._lengths)
        prompts = [self.request.prompts[index] for index in self.indices]
        padded = [[*prompt, *[0] * (width - len(prompt))] for prompt in prompts]
        positions = torch.arange(width, device=self._device)[None]
        trunk = self._trunk(torch.tensor(padded, device=self._device), positions, width)
        last = self._last_positions()
        rows = torch.arange(len(last), device=self._device)
        model = self.request.model
        logits = model.lm_head(model.head(trunk, 0)[rows, last])
        if not bool(logits.isfinite().all()):
            raise WMTPError(
                "the model's logits are not finite: its weights are damaged, or its training diverged"
            )
        return trunk, last, logits

    def read(self, block_bt: Tensor) -> tuple[TrunkOutput, Tensor]:
        """The trunk and head 0's logits [B, T, V] for T tokens a row, the first its last confirmed one."""
        width = block_bt.shape[1]
        positions = self._last_positions()[:, None] + torch.arange(width, device=self._device)
        trunk = self._trunk(block_bt, positions, max(self._lengths) - 1 + width)
        model = self.request.model
        return trunk, model.lm_head(model.head(trunk, 0))

    def select(self, trunk: TrunkOutput, order: Tensor) -> TrunkOutput:
        """What was read, for the rows that `drop_ended` left."""
        left = trunk.rows(order)
        self.cache.write_at(left.position_ids, len(order), self.cache.get_seq_length())
        return left

    @property
    def counts(self) -> Tensor:
        """Tokens [B] that the rows have so far, prompts not counted."""
        return torch.tensor([len(self.result.tokens[index]) for index in self.indices], device=self._device)

    def _last_positions(self) -> Tensor:
        return torch.tensor(self._lengths, device=self._device) - 1

    def _trunk(self, ids_bt: Tensor, positions_bt: Tensor, length: int) -> TrunkOutput:
        self.result.forwards += len(self.indices)
        masks = self._masks(positions_bt, len(self.indices), length)
        return self.request.model.trunk(ids_bt, mask=masks, position_ids=positions_bt, cache=self.cache)

    def _masks(self, positions_bt: Tensor, rows: int, length: int) -> dict[str, Tensor]:
        """By kind of layer, what attention adds to its scores [B or 1, 1, T, length].

        Made once, not from a bool one in every layer.
        """
        seen = self.cache.write_at(positions_bt, rows, length)
        keys = torch.arange(length, device=self._device)[None]
        masks = narrowed(self.request.model.config.backbone, seen, positions_bt, keys)
        return {kind: torch.where(mask, self._seen, self._hidden) for kind, mask in masks.items()}

    def emit(self, tokens: list[list[int]]) -> list[int]:
        """Append each row's next tokens as far as the row goes; return how many that were, the eos counted."""
        kept = []
        for row, (index, new) in enumerate(zip(self.indices, tokens, strict=True)):
            count, is_end = self._append(index, new)
            if is_end:
                self._ended.append(row)
            self._lengths[row] += count
            self.result.generated += count
            kept.append(count)
        return kept

    def _append(self, index: int, new: list[int]) -> tuple[int, bool]:
        """How many of the new tokens a prompt takes, and whether it has come to its end with them."""
        options, output = self.request.options, self.result.tokens[index]
        known = len(output)
        new = new[: options.max_new_tokens - known]
        before_eos = list(itertools.takewhile(lambda token: token not in options.eos_ids, new))
        ends_with_eos = len(before_eos) < len(new)
        output += before_eos
        end = None if options.stop is None else options.stop.end(output, known)
        if end is not None:
            del output[end:]
            ends_with_eos = False
        if ends_with_eos or end is not None:
            self.result.stops[index] = "eos" if ends_with_eos else "stop"
        is_end = self.result.stops[index] != "length" or len(output) == options.max_new_tokens
        return len(output) - known + ends_with_eos, is_end

    def drop_ended(self) -> Tensor | None:
        """Remove the rows that have ended; the last rows take their places.

        Returns:
            For each row that is left, the place it had before; None when none was removed.
        """
        if not self._ended:
            return None
        order = list(range(len(self.indices)))
        for row in reversed(self._ended):
            last = order.pop()
            if row < len(order):
                order[row] = last
        if self.request.on_end is not None:
            for row in self._ended:
                index = self.indices[row]
                self.request.on_end(index, self.result.tokens[index], self.result.stops[index])
        self._ended = []
        self.indices = [self.indices[row] for row in order]
        self._lengths = [self._lengths[row] for row in order]
        self.cache.move_rows({old: new for new, old in enumerate(order) if old != new})
        left = torch.tensor(order, dtype=torch.long, device=self._device)
        self.choice.keep(left)
        return left


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation behaviour and no gradients inside; afterwards every module's training flag as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
