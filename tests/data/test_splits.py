from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusals import refusal
from wmtp.data.splits import group_numbers, held_out, nearest_sum, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("my_training_set2.json", "train"),
        ("validation.jsonl.gz", "validation"),
        ("val.jsonl", "validation"),
        ("Valid.jsonl", "validation"),
        ("dev2.jsonl", "validation"),
        ("TEST.jsonl", "test"),
        ("main/test-00000-of-00001.parquet", "test"),
        ("test/part-1.jsonl", "test"),
        ("test/deeper/part-1.jsonl", "test"),
        ("test/train.jsonl", "train"),
        ("rows.jsonl", None),
        ("latest.jsonl", None),
        ("contrastive.test1x.jsonl", None),
        ("developers.jsonl", None),
        ("trainer/rows.jsonl", None),
    ],
)
def test_names_tell_splits(name: str, split: str | None) -> None:
    root = Path("a-test-of/train/things")
    assert split_of(root / name, root) == split


def test_a_name_of_two_splits_is_refused() -> None:
    assert refusal(split_of, Path("d/train_val.jsonl"), Path("d")) == (
        "d/train_val.jsonl: 'train_val' names several splits (train, validation); rename it"
    )


sizes = st.lists(st.integers(1, 9), min_size=2, max_size=7)


def best(groups: list[int], wanted: int) -> int:
    """The sum nearest to `wanted` of some but not all of the groups, by trying all choices."""
    choices = product([0, 1], repeat=len(groups))
    sums = {sum(s for s, c in zip(groups, chosen, strict=True) if c) for chosen in choices}
    return min(sums - {0, sum(groups)}, key=lambda n: (abs(n - wanted), n))


@given(sizes, st.integers(1, 70))
def test_the_nearest_sum_is_the_best_of_all_choices(groups: list[int], wanted: int) -> None:
    available = Counter(groups)
    quota = nearest_sum(available, wanted)
    assert sum(size * count for size, count in quota.items()) == best(groups, wanted)
    assert all(0 < count <= available[size] for size, count in quota.items())


@given(sizes, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_groups_are_held_out_whole_and_as_near_to_the_share_as_they_can(
    groups: list[int], share: float, random: object
) -> None:
    rows = [group for group, size in enumerate(groups) for _ in range(size)]
    random.shuffle(rows)  # type: ignore[attr-defined]
    numbers = group_numbers(rows)
    chosen = held_out(numbers, share)
    assert chosen.sum() == best(groups, max(1, round(share * len(rows))))
    assert len({(g, c) for g, c in zip(numbers.tolist(), chosen.tolist(), strict=True)}) == len(groups)
    assert (held_out(numbers, share) == chosen).all()


def test_a_giant_group_does_not_run_away_with_the_share() -> None:
    groups = np.concatenate([np.zeros(600, dtype=np.int64), np.arange(1, 401)])
    for seed in range(20):
        chosen = held_out(groups, 0.1, seed)
        assert chosen.sum() == 100
        assert not chosen[:600].any()


def test_rows_without_copies_are_held_out_by_the_seed() -> None:
    chosen = held_out(np.arange(50), 0.2, 3)
    assert sorted(np.flatnonzero(chosen)) == sorted(np.random.default_rng(3).permutation(50)[:10])


def test_a_million_groups_are_quick_to_divide() -> None:
    groups = np.repeat(np.arange(300_000), 3)
    assert abs(held_out(groups, 0.02).sum() - 18_000) <= 1
