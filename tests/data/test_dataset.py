import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wmtp.data.dataset as dataset_module
from wmtp.config import FieldsConfig, Recipe
from wmtp.data.corpus import load_rows
from wmtp.data.dataset import Counts, Document, TokenDataset, tokenise
from wmtp.data.documents import documents_from
from wmtp.data.loader import BatchShape, Loader, collate, in_order, pack
from wmtp.data.rows import Row
from wmtp.data.tokenizer import _train, encode, tokenizer_fingerprint
from wmtp.errors import WMTPError

Units = list[tuple[int, ...]] | None
TOKENIZER = _train(["def f(x): return x + 1", "a quick brown fox"] * 3, 300)
LETTERS = _train([], 260)
"""A token a byte."""


def dataset_of(lengths: list[int]) -> TokenDataset:
    """A data set whose token ids are their own keys."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.int32)
    count = len(lengths)
    starts = np.zeros(count, dtype=np.int64)
    return TokenDataset(
        tokens, tokens % 3 > 0, offsets, np.arange(count), starts, "tokenizer", Counts(count, max(lengths))
    )


def test_only_the_completion_and_the_end_are_supervised() -> None:
    documents = [Document("a quick ", "fox"), Document("", "brown fox")]
    dataset = tokenise(documents, TOKENIZER, 64, "error")
    for i, document in enumerate(documents):
        place = slice(dataset.offsets[i], dataset.offsets[i + 1])
        tokens, supervised = dataset.tokens[place].tolist(), dataset.supervised[place]
        prompt, completion = encode(TOKENIZER, [document.prompt, document.completion])
        assert tokens == [*prompt, *completion, TOKENIZER.eos_token_id]
        assert supervised.tolist() == [False] * len(prompt) + [True] * (len(completion) + 1)
        assert TOKENIZER.decode(tokens[:-1]) == document.prompt + document.completion


def test_overlong_documents() -> None:
    documents = [Document("", "fox"), Document("a", "z" * 50, "f.jsonl, line 3")]
    with pytest.raises(
        WMTPError, match=r"data\.sequence_length 16: 1 of 2 documents are longer, f.jsonl, line 3 with"
    ):
        tokenise(documents, TOKENIZER, 16, "error")
    assert len(tokenise(documents, TOKENIZER, 16, "drop")) == 1
    split = tokenise(documents, TOKENIZER, 16, "split")
    assert split.lengths.max() <= 16
    assert split.sources.tolist() == [0, 1, 1, 1, 1]
    assert (~split.supervised).sum() == 1
    with pytest.raises(
        WMTPError,
        match=r"data: nothing to learn: left out 1 of 1 documents \(100\.0%\): 1 longer than data\.sequence_length 2",
    ):
        tokenise(documents[1:], TOKENIZER, 2, "drop")


@given(
    st.lists(st.tuples(st.text("ab ", max_size=9), st.text("xy ", max_size=9)), min_size=1, max_size=8),
    st.integers(2, 6),
    st.sampled_from(["split", "truncate", "drop"]),
)
def test_what_teaches_nothing_is_left_out_and_counted(
    texts: list[tuple[str, str]], length: int, overlong: Literal["split", "truncate", "drop"]
) -> None:
    """Against a loop over every token of every row, one byte each."""
    letters = {letter: encode(LETTERS, [letter])[0][0] for letter in "abxy "}
    kept, blank, long, silent, lost, cut, empty = [], 0, 0, 0, 0, 0, 0
    for row, (prompt, completion) in enumerate(texts):
        tokens = [(letters[c], False) for c in prompt] + [(letters[c], True) for c in completion]
        tokens.append((LETTERS.eos_token_id, True))
        if (prompt + completion).isspace() or not prompt + completion:
            blank += 1
            continue
        if len(tokens) > length and overlong == "drop":
            long += 1
            continue
        starts = [0] if overlong == "truncate" else list(range(0, len(tokens), length))
        parts = [(row, s, tokens[s : s + length]) for s in starts]
        useful = [part for part in parts if any(supervised for _, supervised in part[2][1:])]
        silent += not useful
        lost += len(parts) - len(useful) if useful else 0
        cut += bool(useful) and len(tokens) > length
        empty += bool(useful) and not completion.strip()
        kept += useful
    documents = [Document(prompt, completion) for prompt, completion in texts]
    if not kept:
        with pytest.raises(
            WMTPError, match=rf"rows: nothing to learn: left out {len(texts)} of {len(texts)} "
        ):
            tokenise(documents, LETTERS, length, overlong, "rows")
        return
    found = tokenise(documents, LETTERS, length, overlong)
    assert found.counts == Counts(len(texts), length, blank, long, silent, lost, cut, empty)
    assert found.sources.tolist() == [row for row, _, _ in kept]
    assert found.starts.tolist() == [start for _, start, _ in kept]
    assert found.lengths.tolist() == [len(part) for _, _, part in kept]
    assert found.tokens.tolist() == [token for _, _, part in kept for token, _ in part]
    assert found.supervised.tolist() == [supervised for _, _, part in kept for _, supervised in part]


def test_a_truncated_document_keeps_its_beginning_and_teaches_no_end() -> None:
    documents = [
        Document("", "a quick brown fox " * 4),
        Document("a quick brown fox " * 4, "x"),
        Document("", "fox"),
    ]
    dataset = tokenise(documents, TOKENIZER, 8, "truncate")
    whole = encode(TOKENIZER, [documents[0].completion])[0]
    assert dataset.tokens[:8].tolist() == whole[:8]
    assert (dataset.tokens[:8] != TOKENIZER.eos_token_id).all()
    assert dataset.sources.tolist() == [0, 2]
    assert dataset.counts.describe() == [
        "left out 1 of 3 documents (33.3%): 1 without a supervised token within data.sequence_length 8",
        "cut 1 of 3 documents at data.sequence_length 8",
    ]


def test_the_fingerprint_is_computed_once_for_all_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def watched() -> Any:
        hashed.append(True)
        return hashlib.sha256()

    monkeypatch.setattr(dataset_module, "hashlib", SimpleNamespace(sha256=watched))
    loader = Loader(dataset_of([3, 4, 5]), BatchShape(8, 2, 2), seed=0)
    states = [loader.state_dict() for _ in range(3)]
    loader.load_state_dict(states[0])
    assert len(hashed) == 1
    assert len({state["data"] for state in states}) == 1


def test_fingerprints_tell_apart_what_matters() -> None:
    a, b = Document("a", "b c"), Document("a b", " c")
    prints = {tokenise([d], TOKENIZER, 16, "error").fingerprint for d in (a, b)}
    assert len(prints) == 2
    other = _train(["entirely different text"], 300)
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(TOKENIZER)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            FieldsConfig(text="code"),
            r"f\.jsonl, line 9: no field 'code' \(data\.fields\.text\); it has text",
        ),
        (
            FieldsConfig(text="text"),
            r"f\.jsonl, line 7: field 'text' \(data\.fields\.text\) should be text, not int",
        ),
        (FieldsConfig(prompt="code", completion="gone"), r"line 7: no field 'gone'"),
    ],
)
def test_a_row_without_the_field_is_named(fields: FieldsConfig, expected: str) -> None:
    rows = [Row({"text": 3, "code": "x"}, "f.jsonl, line 7"), Row({"text": "y"}, "f.jsonl, line 9")]
    with pytest.raises(WMTPError, match=expected):
        documents_from(rows, fields)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_packing_keeps_every_document_once_and_no_row_overflows(lengths: list[int], random: object) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = pack(lengths, order, 16)
    assert sorted(d for row in rows for d in row) == sorted(order)
    assert all(sum(lengths[d] for d in row) <= 16 for row in rows)


def test_a_packed_row_holds_its_documents() -> None:
    dataset = dataset_of([3, 2, 4])
    ce = np.arange(9, dtype=np.float16) / 2
    batch = collate(dataset, [[2, 0], [1]], 8, {"reference_ce": ce})
    assert batch.ids.tolist() == [[5, 6, 7, 8, 0, 1, 2, 0], [3, 4, 0, 0, 0, 0, 0, 0]]
    assert batch.document_ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert batch.token_keys[0].tolist() == [5, 6, 7, 8, 0, 1, 2, -1]
    assert batch.columns["reference_ce"][0, :7].tolist() == [2.5, 3.0, 3.5, 4.0, 0.0, 0.5, 1.0]
    assert batch.columns["reference_ce"][0, 7].isnan()
    assert batch.tokens == 9
    assert batch.supervised[0].tolist() == [k % 3 > 0 for k in [5, 6, 7, 8, 0, 1, 2]] + [False]


def loader(world_size: int = 1, rank: int = 0, micro: int = 2, seed: int = 5, units: Units = None) -> Loader:
    dataset = dataset_of([1 + i % 9 for i in range(100)])
    return Loader(
        dataset,
        BatchShape(16, 8, micro),
        seed=seed,
        rank=rank,
        world_size=world_size,
        units=units,
    )


def rows_of(batches: list) -> list[list[int]]:  # type: ignore[type-arg]
    return [row for batch in batches for row in batch.token_keys.tolist()]


def test_ranks_and_micro_batches_share_one_order_without_overlap_or_omission() -> None:
    single, alone = loader(micro=8), loader(micro=1)
    pair = [loader(2, rank) for rank in range(2)]
    for _ in range(20):
        whole = rows_of(next(single))
        assert rows_of(next(alone)) == whole
        assert rows_of(next(pair[0])) + rows_of(next(pair[1])) == whole


def test_every_epoch_has_every_token_once_in_another_order() -> None:
    one = loader()
    seen: list[list[int]] = []
    while one.epoch < 2 or one.next_row:
        rows = one._take(1)
        seen.append(rows[0])
    order = [document for row in seen for document in row]
    assert sorted(order[:100]) == sorted(order[100:]) == list(range(100))
    assert order[:100] != order[100:]
    assert order[:100] != sorted(order[:100])


def test_resuming_continues_where_it_stopped_even_with_other_ranks() -> None:
    whole, stopped = loader(), loader()
    for _ in range(7):
        next(whole)
        next(stopped)
    pair = [loader(2, rank, seed=5) for rank in range(2)]
    for part in pair:
        part.load_state_dict(stopped.state_dict())
    for _ in range(9):
        assert rows_of(next(pair[0])) + rows_of(next(pair[1])) == rows_of(next(whole))


def random_units() -> list[tuple[int, ...]]:
    """Pairs and threes that fit a row, in which a document may come several times, and others not at all."""
    chance = random.Random(3)
    units = [tuple(chance.sample(range(100), chance.choice((2, 2, 3)))) for _ in range(90)]
    return [unit for unit in units if sum(1 + document % 9 for document in unit) <= 16]


def documents_of(row: list[int]) -> list[int]:
    """The documents of a row of token keys, in their order."""
    offsets = dataset_of([1 + i % 9 for i in range(100)]).offsets
    return [int(np.flatnonzero(offsets == key)[0]) for key in row if key in offsets[:-1]]


def epochs_of_rows(one: Loader, epochs: int) -> list[list[list[int]]]:
    """The documents of every row of some epochs."""
    found: list[list[list[int]]] = [[] for _ in range(epochs)]
    while one.epoch < epochs:
        epoch = one.epoch
        found[epoch] += one._take(1)
    return found


def test_a_units_documents_stand_one_behind_the_other_in_one_row() -> None:
    units = random_units()
    one, starts = loader(micro=8, units=units), {unit[0] for unit in units}
    assert len(units) > 20
    for _ in range(20):
        (batch,) = next(one)
        for row, numbers in zip(batch.token_keys.tolist(), batch.document_ids.tolist(), strict=True):
            documents = documents_of(row)
            assert max(numbers) == len(documents)
            while documents:  # the row is a chain of units
                assert documents[0] in starts
                unit = next(
                    u for u in sorted(units, key=len, reverse=True) if tuple(documents[: len(u)]) == u
                )
                documents = documents[len(unit) :]


def test_every_unit_comes_once_an_epoch_in_another_order() -> None:
    units = [(i, (7 * i + 3) % 100) for i in range(0, 100, 3)]  # no two begin with the same
    units = [unit for unit in units if sum(1 + document % 9 for document in unit) <= 16]
    one = loader(units=units)
    assert one.rows_per_epoch < len(units)
    found = [[d for row in rows for d in row] for rows in epochs_of_rows(one, 3)]
    pairs = [list(zip(documents[::2], documents[1::2], strict=True)) for documents in found]
    assert all(sorted(epoch) == sorted(units) for epoch in pairs)
    assert len({tuple(epoch) for epoch in pairs}) == 3
    assert pairs[0] != units


def test_units_of_one_document_are_no_units() -> None:
    alone, whole = loader(units=[(i,) for i in range(100)]), loader()
    for _ in range(30):
        assert rows_of(next(alone)) == rows_of(next(whole))


def test_ranks_and_micro_batches_share_one_order_of_units() -> None:
    units = random_units()
    single, alone = loader(micro=8, units=units), loader(micro=1, units=units)
    pair = [loader(2, rank, units=units) for rank in range(2)]
    for _ in range(20):
        whole = rows_of(next(single))
        assert rows_of(next(alone)) == whole
        assert rows_of(next(pair[0])) + rows_of(next(pair[1])) == whole


def test_resuming_continues_the_order_of_units() -> None:
    units = random_units()
    whole, stopped = loader(units=units), loader(units=units)
    for _ in range(12):
        next(whole)
        next(stopped)
    assert stopped.epoch > 0
    pair = [loader(2, rank, units=units) for rank in range(2)]
    for part in pair:
        part.load_state_dict(stopped.state_dict())
    for _ in range(9):
        assert rows_of(next(pair[0])) + rows_of(next(pair[1])) == rows_of(next(whole))


def test_changed_data_is_refused() -> None:
    state = loader().state_dict()
    changed = Loader(dataset_of([3, 4]), BatchShape(16, 1, 1), seed=0)
    with pytest.raises(WMTPError, match=r"data\.source: the training data changed .* now, .* then"):
        changed.load_state_dict(state)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    expected = r"train\.batch_size 8 does not divide among 3 processes; use a multiple of 3"
    with pytest.raises(WMTPError, match=expected):
        loader(world_size=3)


@pytest.mark.parametrize(("world_size", "micro", "sizes"), [(2, 3, [3, 1]), (4, 8, [2]), (8, 2, [1])])
def test_micro_batches_fit_into_a_ranks_share(world_size: int, micro: int, sizes: list[int]) -> None:
    parts = [next(loader(world_size, rank, micro)) for rank in range(world_size)]
    assert all([len(batch.ids) for batch in part] == sizes for part in parts)
    assert [row for part in parts for row in rows_of(part)] == rows_of(next(loader(micro=8)))


def test_in_order_reads_every_document_once() -> None:
    dataset = dataset_of([4, 7, 2, 9])
    keys = [
        k for batch in in_order(dataset, 16, 1) for row in batch.token_keys.tolist() for k in row if k >= 0
    ]
    assert sorted(keys) == list(range(22))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_in_order_gives_ranks_equally_many_batches_and_each_document_once(world_size: int) -> None:
    dataset = dataset_of([4, 7, 2, 9, 12, 3, 16, 5])
    parts = [list(in_order(dataset, 16, 1, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    keys = [k for part in parts for row in rows_of(part) for k in row if k >= 0]
    assert sorted(keys) == list(range(58))


def test_prompts_are_held_out_whole(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}: ", "completion": f"answer {k}"} for k in range(3) for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_rows(make_recipe(**{"data.source": str(tmp_path / "rows.jsonl"), "data.validation": 0.2}))
    held_out, learnt = ({row["prompt"] for row in split} for split in (found.validation, found.train))
    assert len(held_out) == 4
    assert not held_out & learnt
    assert len(found.validation) == 12
    assert len(found.train) == 48
