"""Draws that are the same on every machine and Python version."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Rng:
    """Random choices from `random.Random(seed).random()`.

    The stream of `random()` for a string seed is part of Python's reproducibility promise;
    `choice`, `shuffle` and `sample` may change from one version to the next.
    """

    def __init__(self, seed: str) -> None:
        self._random = Random(seed).random

    def below(self, n: int) -> int:
        """A uniform integer in [0, n)."""
        return int(self._random() * n)

    def choice(self, items: Sequence[T]) -> T:
        """A uniform item of a non-empty sequence."""
        return items[self.below(len(items))]

    def shuffle(self, items: list[T]) -> None:
        """Put the items into a uniformly random order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
