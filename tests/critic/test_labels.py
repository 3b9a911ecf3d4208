"""Rewards of rows as a critic and scorers read them, and rewards that nothing can be learnt from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from answers import answers, reading, write_rows
from refusals import refusal
from wmtp.config import Config, Recipe
from wmtp.critic.labels import labelled_documents
from wmtp.critic.learner import Labelled
from wmtp.data.corpus import Data, load_data
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Columns
from wmtp.distributed.world import World
from wmtp.train.assemble import known_columns
from wmtp.train.resume import make_loader

Make = Callable[..., Recipe]
PAIRWISE = {"critic.objective": "pairwise"}
NO_PAIRS = (
    "no prompt has answers of different reward: "
    "pairwise needs a correct and an incorrect answer to the same prompt"
)


@pytest.fixture
def label(
    make_recipe: Make, config: Config, tmp_path: Path
) -> Callable[..., tuple[Data, Labelled, Labelled]]:
    """The data, then what stage 1 learns from and holds out, of some rows and a recipe with changes."""

    def read(rows: Any = None, **changes: Any) -> tuple[Data, Labelled, Labelled]:
        recipe = make_recipe(**(reading(tmp_path, rows) | changes))
        data = load_data(recipe, Path(config.paths.cache))
        return data, *labelled_documents(recipe, config, data.tokenizer)

    return read


@pytest.fixture
def columns(make_recipe: Make, config: Config, tmp_path: Path) -> Callable[..., tuple[Data, Columns]]:
    """The data, and what is known of its tokens."""

    def read(rows: Any = None, **changes: Any) -> tuple[Data, Columns]:
        recipe = make_recipe(**(reading(tmp_path, rows) | changes))
        data = load_data(recipe, Path(config.paths.cache))
        return data, known_columns(recipe, config, data)

    return read


def texts(data: Data, documents: TokenDataset) -> list[tuple[str, str]]:
    """Prompt and completion of each document."""
    found = []
    for start, end in zip(documents.offsets[:-1], documents.offsets[1:], strict=True):
        tokens, supervised = documents.tokens[start:end], documents.supervised[start:end]
        assert tokens[-1] == data.tokenizer.eos_token_id
        prompt, completion = data.tokenizer.decode(tokens[~supervised]), tokens[supervised][:-1]
        found.append((prompt, data.tokenizer.decode(completion)))
    return found


def by_document(documents: TokenDataset, values: Any) -> list[float]:
    """The value of each document, which all of its tokens have."""
    found = []
    for start, end in zip(documents.offsets[:-1], documents.offsets[1:], strict=True):
        (value,) = set(values[start:end].tolist())
        found.append(value)
    return found


# --- learnt and held out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["gae", "monte-carlo", "pairwise"])
def test_held_out_prompts_are_not_learnt_from(objective: str, label: Any) -> None:
    data, learnt, held_out = label(**{"critic.objective": objective, "critic.held_out": 0.2})
    mine, others = texts(data, learnt.documents), texts(data, held_out.documents)
    prompts = {prompt for prompt, _ in others}
    assert len(prompts) == 6  # of 30
    assert not prompts & {prompt for prompt, _ in mine}
    assert sorted(mine + others) == sorted((row["prompt"], row["completion"]) for row in answers())
    assert (learnt.pairs is None) == (objective != "pairwise")
    assert held_out.pairs is None


def test_what_is_held_out_is_decided_by_the_seed_alone(label: Any) -> None:
    for changes in ({}, PAIRWISE):
        data, *first = label(**changes)
        _, *again = label(**changes)
        _, *other = label(seed=1, **changes)
        for one, same in zip(first, again, strict=True):
            assert one.documents.fingerprint == same.documents.fingerprint
            assert (one.columns["rewards"] == same.columns["rewards"]).all()
            assert one.pairs == same.pairs
        assert texts(data, other[1].documents) != texts(data, first[1].documents)


def test_at_least_one_prompt_is_held_out(label: Any) -> None:
    data, _, held_out = label(**{"critic.held_out": 0.001})
    assert len({prompt for prompt, _ in texts(data, held_out.documents)}) == 1


def test_every_token_has_the_reward_of_its_row(label: Any) -> None:
    rows = answers()
    rewards = {(row["prompt"], row["completion"]): row["number"] - 7.5 for row in rows}
    for row in rows:
        row["score"] = row["number"] - 7.5
    data, *parts = label(rows, **{"critic.field": "score"})
    for part in parts:
        assert part.columns.keys() == {"rewards"}
        assert part.columns["rewards"].dtype == np.float32
        wanted = [rewards[text] for text in texts(data, part.documents)]
        assert by_document(part.documents, part.columns["rewards"]) == wanted


def test_plain_texts_are_held_out_one_by_one(label: Any) -> None:
    rows = [{"text": f"a {'good' if i % 2 else 'bad'} text {i}", "ok": i % 2} for i in range(20)]
    fields = {"text": "text", "prompt": None, "completion": None}
    changes = {"data.fields": fields, "data.validation": 0.1, "critic.field": "ok"}
    found = label(rows, **changes)
    assert [len(part.documents) for part in found[1:]] == [16, 2]  # of 18
    assert refusal(label, rows, **PAIRWISE, **changes) == NO_PAIRS


def test_a_split_answer_has_its_reward_in_every_piece(label: Any) -> None:
    rows = answers()
    for row in rows:
        row["completion"] += " and so on" * (row["number"] % 3)
    _, learnt, _ = label(rows, **{"data.sequence_length": 12, "data.overlong": "split"})
    rewards = by_document(learnt.documents, learnt.columns["rewards"])
    sources = learnt.documents.sources
    assert len(set(sources.tolist())) < len(sources)
    assert len({(s, r) for s, r in zip(sources.tolist(), rewards, strict=True)}) == len(set(sources.tolist()))


# --- pairs -------------------------------------------------------------------------------------------------


def pairs_of(label: Any, rows: Any = None, **changes: Any) -> list[tuple[tuple[str, str, bool], ...]]:
    """Prompt, completion and correctness of both sides, where each pair was checked to fit a row together."""
    rows = answers() if rows is None else rows
    right = {(row["prompt"], row["completion"]): row["is_correct"] for row in rows}
    data, learnt, _ = label(rows, **PAIRWISE, **changes)
    known = texts(data, learnt.documents)
    lengths = learnt.documents.lengths
    for better, worse in learnt.pairs:
        assert lengths[better] + lengths[worse] <= changes.get("data.sequence_length", 64)
    return [tuple((*known[i], right[known[i]]) for i in pair) for pair in learnt.pairs]


def test_pairs_are_a_right_and_a_wrong_answer_to_one_prompt(label: Any) -> None:
    pairs = pairs_of(label)
    assert all(better[0] == worse[0] for better, worse in pairs)
    assert all(better[2] and not worse[2] for better, worse in pairs)
    used = {side[:2] for pair in pairs for side in pair}
    learnt_prompts = {prompt for prompt, _ in used}
    assert len(learnt_prompts) == 27  # of 30, 3 are held out
    assert used == {
        (row["prompt"], row["completion"]) for row in answers() if row["prompt"] in learnt_prompts
    }


def test_a_row_of_a_batch_holds_whole_pairs(label: Any, make_recipe: Make, tmp_path: Path) -> None:
    _, learnt, _ = label(**PAIRWISE)
    recipe = make_recipe(**reading(tmp_path), **PAIRWISE)
    world = World(torch.device("cpu"))
    (batch,) = next(make_loader(recipe, learnt.documents, world, learnt.columns, learnt.pairs))
    for ids, rewards in zip(batch.document_ids, batch.columns["rewards"], strict=True):
        by_number = [float(rewards[ids == number][0]) for number in range(1, int(ids.max()) + 1)]
        assert by_number == [1.0, 0.0] * (len(by_number) // 2)


def long_rows() -> list[dict[str, Any]]:
    """Every answer fits a row of 30 tokens, but two long ones do not."""
    rows = answers()
    for row in rows[:8]:
        row["completion"] += " so" * 8
    return rows


def test_pairs_longer_than_a_row_are_an_error_or_left_out(label: Any) -> None:
    rows, everywhere = long_rows(), {"data.sequence_length": 64, "seed": 2}
    whole = pairs_of(label, rows, **everywhere)
    short = everywhere | {"data.sequence_length": 30}
    message = refusal(label, rows, **PAIRWISE, **short)
    assert message.startswith("data.sequence_length 30: ")
    assert f" of {len(whole)} pairs of answers are longer together; raise it in critic.overrides, " in message
    assert message.endswith("or set data.overlong to drop")
    kept = pairs_of(label, rows, **short, **{"data.overlong": "drop"})
    count = int(message.split()[2])
    assert 0 < len(kept) == len(whole) - count
    assert set(kept) < set(whole)


def test_when_no_pair_fits_a_row_dropping_is_no_way_out(label: Any) -> None:
    for overlong in ("error", "drop"):
        changes = {"data.sequence_length": 16, "data.overlong": overlong, "data.validation": 0.1}
        rows = [row | {"completion": f"{row['number'] % 10} so so far"} for row in answers()]
        message = refusal(label, rows, **PAIRWISE, **changes)
        count = message.split()[2]
        assert f"{count} of {count} pairs of answers are longer together" in message


def test_answers_that_are_cut_cannot_be_compared(label: Any) -> None:
    rows = long_rows()
    changes = {"data.overlong": "split", **PAIRWISE}
    assert refusal(label, rows, **changes, **{"data.sequence_length": 15}) == (
        "data.overlong split: cuts answers, and pairwise compares whole ones; use drop"
    )
    assert label(rows, **changes)[1].pairs  # where none is longer than a row, none is cut


# --- what cannot be learnt from ----------------------------------------------------------------------------


def test_rewards_that_are_missing(label: Any, columns: Any, tmp_path: Path) -> None:
    expected = (
        f"{tmp_path / 'answers.jsonl'}, line 1: no field 'reward' (critic.field); "
        f"it has prompt, completion, is_correct, number"
    )
    assert refusal(label, **{"critic.field": "reward"}) == expected
    for scorer in ("critic-gae-v1", "grpo-v1"):
        assert refusal(columns, **{"critic.field": "reward", "train.scorer": scorer}) == expected
    rows = answers()
    del rows[5]["is_correct"]
    assert "answers.jsonl, line 6: no field 'is_correct' (critic.field)" in refusal(label, rows)
    rows = answers()
    rows[5]["is_correct"] = "yes"
    assert (
        "answers.jsonl, line 6: field 'is_correct' (critic.field) should be a number or a bool, not str"
        in refusal(label, rows)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rewards_that_are_not_finite(value: float, label: Any, columns: Any) -> None:
    rows = answers()
    rows[7]["is_correct"] = value
    expected = f"answers.jsonl, line 8: field 'is_correct' (critic.field) should be finite, not {value}"
    assert expected in refusal(label, rows)
    assert expected in refusal(columns, rows, **{"train.scorer": "critic-gae-v1"})


def test_rewards_that_are_constant(label: Any, columns: Any) -> None:
    rows = [row | {"is_correct": True} for row in answers()]
    expected = (
        "field 'is_correct' (critic.field): constant: a critic has nothing to learn from; "
        "every row's reward is 1.0"
    )
    assert refusal(label, rows).endswith(expected)
    assert refusal(columns, rows, **{"train.scorer": "grpo-v1"}).endswith(expected)


def test_rewards_that_are_constant_but_for_held_out_rows(label: Any) -> None:
    data, _, held_out = label()
    prompts = {prompt for prompt, _ in texts(data, held_out.documents)}
    rows = [row | {"is_correct": row["prompt"] in prompts} for row in answers()]
    assert refusal(label, rows) == (
        "critic.reward: the rows that are not held out: constant: a critic has nothing to learn from; "
        "every row's reward is 0.0"
    )


@pytest.mark.parametrize("is_right", [lambda i: i % 2 == 0, lambda i: i == 3])
def test_pairs_need_a_right_and_a_wrong_answer(is_right: Callable[[int], bool], label: Any) -> None:
    rows = [row | {"is_correct": is_right(row["number"] // 4)} for row in answers()]
    assert refusal(label, rows, **PAIRWISE) == NO_PAIRS
    assert label(rows)[1].pairs is None


def test_prompts_without_a_wrong_answer_are_passed_over(label: Any) -> None:
    rows = [row | {"is_correct": row["is_correct"] or row["number"] // 4 % 2 == 0} for row in answers()]
    pairs = pairs_of(label, rows)
    assert pairs
    assert {int(better[0].split()[1]) % 2 for better, _ in pairs} == {1}


@pytest.mark.parametrize(("prompts", "share", "learnt"), [(2, 0.9, 1), (30, 0.99, 1), (30, 0.001, 29)])
def test_something_is_left_to_learn_from(prompts: int, share: float, learnt: int, label: Any) -> None:
    data, mine, _ = label(answers(prompts), **{"critic.held_out": share})
    assert len({prompt for prompt, _ in texts(data, mine.documents)}) == learnt


def test_answers_to_one_prompt_cannot_be_held_out(label: Any) -> None:
    rows = [*answers(1)]
    changes = {"data.validation": str(write_rows(Path("v.jsonl"), answers(2)[4:]))}
    assert refusal(label, rows, **changes) == (
        "critic.held_out 0.1: takes the answers to all prompts, as there is only one; nothing is left to learn from"
    )


def test_equal_texts_are_held_out_together(label: Any) -> None:
    rows = [{"text": f"a {'good' if i % 2 else 'bad'} text {i % 10}", "ok": i % 2} for i in range(100)]
    validation = write_rows(Path("v.jsonl"), [{"text": "another text"}])
    fields = {"text": "text", "prompt": None, "completion": None}
    changes = {"data.fields": fields, "data.validation": str(validation), "critic.field": "ok"}
    data, learnt, held_out = label(rows, **changes)
    assert [len(part.documents) for part in (learnt, held_out)] == [90, 10]
    assert not set(texts(data, learnt.documents)) & set(texts(data, held_out.documents))


def test_held_out_answers_that_all_are_too_long(label: Any) -> None:
    data, _, held_out = label()
    prompts = {prompt for prompt, _ in texts(data, held_out.documents)}
    rows = [
        row | {"completion": row["completion"] + " so" * 60 * (row["prompt"] in prompts)} for row in answers()
    ]
    assert refusal(label, rows, **{"data.overlong": "drop"}) == (
        f"data.source {Path('answers.jsonl').resolve()}, critic.held_out: nothing to learn: "
        "left out 12 of 12 documents (100.0%): 12 longer than data.sequence_length 64"
    )


# --- columns of stage 2 ------------------------------------------------------------------------------------


def test_a_scorer_gets_the_columns_that_it_asks_for(columns: Any) -> None:
    wanted = {
        "uniform": set(),
        "entropy-v1": set(),
        "critic-delta-v1": set(),
        "critic-gae-v1": {"rewards"},
        "grpo-v1": {"advantages"},
    }
    for scorer, names in wanted.items():
        data, found = columns(**{"train.scorer": scorer, "critic.path": "somewhere"})
        assert found.keys() == names
        assert all(len(values) == len(data.train.tokens) for values in found.values())


def test_columns_are_the_rewards_and_what_they_are_in_their_group(columns: Any) -> None:
    rows = answers()
    data, found = columns(rows, **{"train.scorer": "critic-gae-v1"})
    right = {(row["prompt"], row["completion"]): float(row["is_correct"]) for row in rows}
    known = texts(data, data.train)
    assert by_document(data.train, found["rewards"]) == [right[text] for text in known]
    data, found = columns(rows, **{"train.scorer": "grpo-v1"})
    for (prompt, completion), advantage in zip(
        known, by_document(data.train, found["advantages"]), strict=True
    ):
        group = [float(row["is_correct"]) for row in rows if row["prompt"] == prompt]
        mean = sum(group) / len(group)
        std = (sum((r - mean) ** 2 for r in group) / len(group)) ** 0.5
        assert advantage == pytest.approx((right[prompt, completion] - mean) / std, rel=1e-6)


def test_a_group_of_one_answer(columns: Any, tmp_path: Path) -> None:
    rows = answers()
    alone = [{**rows[0], "prompt": f"add {i} to nothing: "} for i in range(2)]
    assert refusal(columns, [*rows, *alone], **{"train.scorer": "grpo-v1"}) == (
        f"grpo-v1 needs several completions per prompt: 2 of 32 prompts have one, the first in "
        f"{tmp_path / 'answers.jsonl'}, line 121"
    )


def test_groups_whose_answers_are_all_equal(columns: Any) -> None:
    rows = [row | {"is_correct": row["number"] // 4 % 2 == 0} for row in answers()]
    assert refusal(columns, rows, **{"train.scorer": "grpo-v1"}) == (
        "grpo-v1: every group's rewards are equal, so that no completion is better than another"
    )
    some = [row | {"is_correct": row["is_correct"] and row["number"] < 40} for row in answers()]
    data, found = columns(some, **{"train.scorer": "grpo-v1"})
    advantages = by_document(data.train, found["advantages"])
    assert not any(advantages[40:])
    assert all(advantages[:40])
