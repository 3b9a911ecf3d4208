"""From logits to tokens: the most probable ones, or ones drawn with random numbers that are fixed beforehand."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wmtp.decode.options import DecodeOptions

OWN, DRAFT, ACCEPT = range(3)
"""What a row's three random numbers for each of its tokens are for."""


class Choice:
    """The most probable token, always. The methods are what every way of choosing has."""

    def own(self, logits_bv: Tensor, counts_b: Tensor) -> Tensor:  # noqa: ARG002
        """Head 0's next token [B] of rows that have `counts_b` tokens so far."""
        return most_probable(logits_bv)

    def drafts(self, logits_bkv: Tensor, counts_b: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Tokens [B, K] of heads 1..K for the places after the next one, and what they were drawn from, if drawn."""
        return most_probable(logits_bkv), None

    def verify(
        self,
        logits_btv: Tensor,
        drafts_bk: Tensor,
        proposal_bkv: Tensor | None,  # noqa: ARG002
        counts_b: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """How many drafts of each row hold [B], and head 0's own token after them [B].

        Args:
            logits_btv: head 0's after the row's last token and after each of the K = T - 1 drafts.
            drafts_bk: what `drafts` gave.
            proposal_bkv: the distributions that they were drawn from.
            counts_b: tokens that the rows have so far, drafts not counted.
        """
        choices = most_probable(logits_btv)
        accepted = (choices[:, :-1] == drafts_bk).cumprod(1).sum(1)
        return accepted, choices.gather(1, accepted[:, None])[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order."""


class SampledChoice(Choice):
    """Tokens drawn from the distributions of `distribution`, drafts by rejection sampling (arXiv 2211.17192).

    A draft d drawn from q holds with probability min(1, p(d) / q(d)); the token that replaces the first one refused
    is drawn from max(0, p - q), normalised. So what a row gets has head 0's distribution p, whatever q is. A number
    that drew a draft which was never verified may draw another one for the same place: nothing depends on the first.
    """

    def __init__(self, temperature: float, top_p: float, numbers_b3n: Tensor) -> None:
        """Numbers are float64 in [0, 1): three for each of the N tokens that a row gets at most."""
        self._temperature = temperature
        self._top_p = top_p
        self._numbers = numbers_b3n

    def own(self, logits_bv: Tensor, counts_b: Tensor) -> Tensor:
        return draw(self._distribution(logits_bv), self._next(OWN, counts_b, 1)[:, 0])

    def drafts(self, logits_bkv: Tensor, counts_b: Tensor) -> tuple[Tensor, Tensor | None]:
        proposal = self._distribution(logits_bkv)
        return draw(proposal, self._next(DRAFT, counts_b, proposal.shape[1])), proposal

    def verify(
        self, logits_btv: Tensor, drafts_bk: Tensor, proposal_bkv: Tensor | None, counts_b: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert proposal_bkv is not None
        wanted = self._distribution(logits_btv)
        uniforms = self._next(ACCEPT, counts_b, drafts_bk.shape[1])
        accepted = count_accepted(wanted[:, :-1], proposal_bkv, drafts_bk, uniforms)
        rows = torch.arange(len(accepted), device=accepted.device)
        nothing_drafted = torch.zeros_like(proposal_bkv[:, :1])
        rest = remainder(
            wanted[rows, accepted], torch.cat([proposal_bkv, nothing_drafted], 1)[rows, accepted]
        )
        return accepted, draw(rest, self._next(OWN, counts_b + accepted, 1)[:, 0])

    def keep(self, rows: Tensor) -> None:
        self._numbers = self._numbers[rows]

    def _distribution(self, logits: Tensor) -> Tensor:
        return distribution(logits, self._temperature, self._top_p)

    def _next(self, purpose: int, counts_b: Tensor, width: int) -> Tensor:
        """[B, width] numbers for the next tokens; places that no row reaches repeat the last one's."""
        places = counts_b[:, None] + torch.arange(width, device=counts_b.device)
        return self._numbers[:, purpose].gather(1, places.clamp(max=self._numbers.shape[2] - 1))


def make_choice(options: DecodeOptions, streams: Sequence[int], device: torch.device) -> Choice:
    """What chooses the tokens of rows with these streams."""
    if options.temperature == 0:
        return Choice()
    generators = [np.random.default_rng([options.seed, stream]) for stream in streams]
    numbers = np.stack([generator.random((3, options.max_new_tokens)) for generator in generators])
    return SampledChoice(options.temperature, options.top_p, torch.from_numpy(numbers).to(device))


def most_probable(logits: Tensor) -> Tensor:
    """The first of the largest along the last dimension. On a CPU by NumPy, ten times as fast there as torch."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.to(torch.promote_types(logits.dtype, torch.float32)).numpy().argmax(-1))


def distribution(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """softmax(logits / temperature) in float64 over the last dimension, cut to its nucleus (arXiv 1904.09751).

    Args:
        logits: [..., V].
        temperature: above 0.
        top_p: the nucleus is the fewest most probable tokens that have at least this probability; 1 keeps all.
    """
    probabilities = torch.softmax(logits.double() / temperature, -1)
    if top_p == 1:
        return probabilities
    ordered, tokens = probabilities.sort(stable=True, dim=-1, descending=True)
    kept = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, tokens, kept / kept.sum(-1, keepdim=True))


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens [...] by the inverse of the distribution function.

    Args:
        probabilities: [..., V], not negative; a sum other than 1 is divided out.
        uniforms: [...] float64 in [0, 1).
    """
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative, uniforms[..., None] * cumulative[..., -1:], right=True)[..., 0]


def count_accepted(
    wanted_bkv: Tensor, proposal_bkv: Tensor, drafts_bk: Tensor, uniforms_bk: Tensor
) -> Tensor:
    """Drafts before a row's first refused one [B]; d is accepted with probability min(1, p(d) / q(d))."""
    wanted = wanted_bkv.gather(2, drafts_bk[..., None])[..., 0]
    proposed = proposal_bkv.gather(2, drafts_bk[..., None])[..., 0]
    return (uniforms_bk * proposed < wanted).cumprod(1).sum(1)


def remainder(wanted_bv: Tensor, proposal_bv: Tensor) -> Tensor:
    """max(0, p - q), [B, V]; p where rounding leaves nothing of it."""
    rest = (wanted_bv - proposal_bv).clamp(min=0)
    return torch.where(rest.sum(-1, keepdim=True) > 0, rest, wanted_bv)
