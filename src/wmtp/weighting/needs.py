"""What a scorer may ask for beside the batch itself, and where it comes from: a new need is one entry of `NEEDS`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

LEARNER = frozenset({"ce", "entropy", "gradient_norm", "alignment"})
"""Sources that are statistics of the learner's head 0; `alignment` takes a batch of clean rows as well."""


@dataclass(frozen=True)
class Sources:
    """What is at hand for a micro-batch: [B, S] each, or flattened, float32 and without gradient.

    Attributes:
        learner: a statistic of the learner's head 0, one of `LEARNER`.
        reference_ce: cross-entropy by the reference.
        values: the critic's.
        column: what is known of every training token beforehand, by name.
    """

    learner: Callable[[str], Tensor]
    reference_ce: Callable[[], Tensor]
    values: Callable[[], Tensor]
    column: Callable[[str], Tensor]


@dataclass(frozen=True)
class Provider:
    """Which sources a need takes: some of `LEARNER`, of the other `Sources`, or columns; and how it reads them."""

    takes: frozenset[str]
    read: Callable[[Sources], Tensor]


def _of_learner(name: str) -> Provider:
    return Provider(frozenset({name}), lambda sources: sources.learner(name))


def _column(name: str) -> Provider:
    return Provider(frozenset({name}), lambda sources: sources.column(name))


NEEDS = {
    "learner_ce": _of_learner("ce"),
    "entropy": _of_learner("entropy"),
    "gradient_norm": _of_learner("gradient_norm"),
    "alignment": _of_learner("alignment"),
    "reference_ce": Provider(frozenset({"reference_ce"}), lambda sources: sources.reference_ce()),
    "values": Provider(frozenset({"values"}), lambda sources: sources.values()),
    "rewards": _column("rewards"),
    "advantages": _column("advantages"),
}


def sources_of(needs: Iterable[str]) -> frozenset[str]:
    """All that these needs take."""
    return frozenset().union(*(NEEDS[name].takes for name in needs))
