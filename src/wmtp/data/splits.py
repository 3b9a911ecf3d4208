"""Chooses rows to train on and to hold out: by names of files, or in groups of equal rows."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wmtp.errors import WMTPError

Split = Literal["train", "validation", "test"]

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of splits in file and folder names."""


def split_of(path: Path, root: Path) -> Split | None:
    """The split that a file below `root` belongs to by its own name or, without one, by its nearest folder's.

    A name counts between characters that are no letters: `test.jsonl`, `my-train_2.jsonl`,
    `data/dev/a.jsonl`, `train-00000-of-00002.parquet`.

    Raises:
        WMTPError: a name speaks of several splits.
    """
    *folders, file = path.relative_to(root).parts
    for name in (file.partition(".")[0], *reversed(folders)):
        found = {SPLIT_NAMES[word] for word in re.findall(r"[a-z]+", name.lower()) if word in SPLIT_NAMES}
        if len(found) > 1:
            raise WMTPError(f"{path}: {name!r} names several splits ({', '.join(sorted(found))}); rename it")
        if found:
            return found.pop()
    return None


def group_numbers(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """[rows] int64: the same number for the same key, counted in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def held_out(groups: NDArray[np.int64], share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Whole groups whose share of the rows is as near to `share` as possible; never none or all of them.

    Groups are taken in a fixed random order as long as they fit; where that misses the share, the sizes that come
    nearest decide.

    Args:
        groups: [rows] int64, numbers from 0 without gaps, of two groups or more.
        seed: another one takes other groups.
    Returns:
        [rows] bool.
    """
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    wanted = max(1, round(share * len(groups)))
    chosen: list[int] = []
    room = min(wanted, len(groups) - 1)
    for group in order:
        if sizes[group] <= room:
            chosen.append(int(group))
            room -= int(sizes[group])
    if room or wanted == len(groups):
        quota = nearest_sum(Counter(sizes.tolist()), wanted)
        chosen = [g for size, count in quota.items() for g in order[sizes[order] == size][:count]]
    return np.isin(groups, chosen)


def nearest_sum(available: Mapping[int, int], wanted: int) -> dict[int, int]:
    """How many of each size add up most nearly to `wanted`, but not to 0 or all; the smaller of two equally near.

    Args:
        available: how many there are of each size, two or more altogether.
    """
    total = sum(size * count for size, count in available.items())
    limit = min(total - 1, max(2 * wanted, min(available)))
    items = [(size, part) for size, count in sorted(available.items()) for part in _binary_parts(count)]
    reachable = [1]  # bit n: whether the items so far can add up to n
    for size, part in items:
        reachable.append((reachable[-1] | reachable[-1] << size * part) & ((1 << limit + 1) - 1))
    sums = (n for distance in range(max(limit, wanted) + 1) for n in (wanted - distance, wanted + distance))
    left = next(n for n in sums if 0 < n <= limit and reachable[-1] >> n & 1)
    quota: dict[int, int] = {}
    for (size, part), before in zip(reversed(items), reversed(reachable[:-1]), strict=True):
        if not before >> left & 1:
            quota[size] = quota.get(size, 0) + part
            left -= size * part
    return quota


def _binary_parts(count: int) -> list[int]:
    """Numbers whose subsets add up to every number from 0 to `count`."""
    parts = []
    part = 1
    while count > part:
        parts.append(part)
        count -= part
        part *= 2
    return [*parts, count]
