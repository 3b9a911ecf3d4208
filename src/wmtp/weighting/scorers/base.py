"""What a scorer is given, and what it gives."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class ScoreInputs:
    """What is known of a micro-batch when its tokens are scored. Entry [b, s] is about the token at s + 1.

    Attributes:
        learner_ce_bs: [B, S] float32, cross-entropy in nats by the learner's head 0, without gradient; anything
            (usually NaN) where `valid_bs` is false. None if the scorer does not need it.
        reference_ce_bs: the same by the reference.
        valid_bs: [B, S] bool, whether the token at s + 1 is a target of head 0.
    """

    learner_ce_bs: Tensor | None
    reference_ce_bs: Tensor | None
    valid_bs: Tensor


class Scorer(Protocol):
    """Gives tokens importance.

    `needs_learner` and `needs_reference` say which cross-entropies must be there.
    """

    @property
    def needs_learner(self) -> bool: ...

    @property
    def needs_reference(self) -> bool: ...

    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """Importance of the token at s + 1, [B, S], or of every (s, h), [B, S, H]: float32, no gradient.

        Only differences between scores matter, not their level. A score that is not finite gives weight 1.
        """
        ...
