"""What decoding is asked to do."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from wmtp.decode.stopping import StopStrings
from wmtp.errors import WMTPError


@dataclass(frozen=True)
class DecodeOptions:
    """How far to continue prompts, how to choose tokens, and with how many heads.

    Attributes:
        max_new_tokens: tokens to generate at most, the eos counted.
        eos_ids: tokens that end a row.
        temperature: 0 takes the most probable token; above 0 samples from softmax(logits / temperature).
        top_p: sample only among the fewest most probable tokens that together have at least this probability.
        seed: with its stream it fixes the random numbers of a prompt.
        stop: strings at which a row ends; the tokens that hold one are returned.
        heads: how many heads to use, head 0 included; 1 decodes token by token, None uses all heads.
        batch_size: prompts decoded together.

    Raises:
        WMTPError: a number is out of range.
    """

    max_new_tokens: int
    eos_ids: Collection[int] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: StopStrings | None = None
    heads: int | None = 1
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise WMTPError(f"max_new_tokens {self.max_new_tokens}: should be 1 or more")
        if not 0 <= self.temperature < math.inf:
            raise WMTPError(f"temperature {self.temperature}: should be a number, 0 or more")
        if not 0 < self.top_p <= 1:
            raise WMTPError(f"top_p {self.top_p}: should be above 0 and at most 1")
        if self.seed < 0:
            raise WMTPError(f"seed {self.seed}: should be 0 or more")
        if self.batch_size < 1:
            raise WMTPError(f"batch_size {self.batch_size}: should be 1 or more")
