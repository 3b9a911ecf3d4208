"""Rewards of rows for training: labelled documents for a critic, columns for a scorer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from wmtp.config import Config, Recipe
from wmtp.critic.learner import Labelled
from wmtp.critic.reward_model import reward_model_rewards
from wmtp.critic.rewards import (
    check_rewards,
    field_rewards,
    group_advantages,
    pair_up,
    verifier_rewards,
)
from wmtp.data.corpus import Data, Rows, load_rows
from wmtp.data.dataset import Document, TokenDataset, tokenise
from wmtp.data.documents import documents_from
from wmtp.data.rows import Row
from wmtp.data.splits import group_numbers, held_out
from wmtp.environment import choose_device, choose_dtype
from wmtp.errors import WMTPError


def labelled_documents(
    recipe: Recipe, config: Config, tokenizer: PreTrainedTokenizerFast
) -> tuple[Labelled, Labelled]:
    """Documents to learn values from, and held-out documents for other prompts.

    Args:
        recipe: of stage 1.
    Raises:
        WMTPError: rewards are missing or constant, or there are no pairs where pairs are needed.
    """
    rows = load_rows(recipe)
    documents = documents_from(rows.train, rows.fields)
    rewards = _rewards(recipe, config, rows.train, documents)
    groups = _groups(rows, documents)
    apart = group_numbers([d.prompt or d.completion for d in documents])
    if apart.max() == 0:
        raise WMTPError(
            f"critic.held_out {recipe.critic.held_out}: takes the answers to all prompts, as there is only one; "
            f"nothing is left to learn from"
        )
    is_held_out = held_out(apart, recipe.critic.held_out, recipe.seed)
    learnt, kept_apart = (
        _labelled(recipe, np.flatnonzero(chosen), documents, rewards, tokenizer, name)
        for chosen, name in ((~is_held_out, "not held out"), (is_held_out, "critic.held_out"))
    )
    check_rewards(
        learnt.columns["rewards"].astype(np.float64), "critic.reward: the rows that are not held out"
    )
    if recipe.critic.objective == "pairwise":
        kept = np.flatnonzero(~is_held_out)[learnt.documents.sources]
        learnt = Labelled(
            learnt.documents, learnt.columns, _pairs(recipe, learnt, rewards[kept], groups[kept])
        )
    return learnt, kept_apart


def training_columns(
    recipe: Recipe, config: Config, data: Data, needs: frozenset[str]
) -> dict[str, NDArray[np.float32]]:
    """`rewards` and `advantages` of every training token's document, where the scorer needs them."""
    wanted = needs & {"rewards", "advantages"}
    if not wanted:
        return {}
    documents = documents_from(data.rows.train, data.rows.fields)
    rewards = _rewards(recipe, config, data.rows.train, documents)
    columns = {}
    if "rewards" in wanted:
        columns["rewards"] = _by_token(data.train, rewards)
    if "advantages" in wanted:
        groups = _groups(data.rows, documents)
        columns["advantages"] = _by_token(
            data.train, group_advantages(rewards, groups, [d.place for d in documents])
        )
    return columns


def _rewards(
    recipe: Recipe, config: Config, rows: Sequence[Row], documents: Sequence[Document]
) -> NDArray[np.float64]:
    critic, cache = recipe.critic, Path(config.paths.cache)
    completions = [d.completion for d in documents]
    if critic.reward == "field":
        return field_rewards(rows, critic.field, f"data.source {recipe.data.source}")
    if critic.reward == "verifier":
        return verifier_rewards(rows, completions, recipe.evaluate, cache)
    assert critic.reward_model is not None
    device = choose_device(config.devices)
    return reward_model_rewards(
        [d.prompt for d in documents],
        completions,
        critic.reward_model,
        batch_size=recipe.train.rows_at_once,
        device=device,
        dtype=choose_dtype(config.devices, device),
        cache=cache,
    )


def _groups(rows: Rows, documents: Sequence[Document]) -> NDArray[np.int64]:
    """Which rows answer the same prompt; plain texts answer none."""
    if rows.fields.text is not None:
        return np.arange(len(documents))
    return group_numbers([d.prompt for d in documents])


def _labelled(
    recipe: Recipe,
    rows: NDArray[np.int64],
    documents: Sequence[Document],
    rewards: NDArray[np.float64],
    tokenizer: PreTrainedTokenizerFast,
    name: str,
) -> Labelled:
    data, chosen = recipe.data, [documents[i] for i in rows]
    source = f"data.source {data.source}, {name}"
    dataset = tokenise(chosen, tokenizer, data.sequence_length, data.overlong, source)
    return Labelled(dataset, {"rewards": _by_token(dataset, rewards[rows])})


def _pairs(
    recipe: Recipe, learnt: Labelled, rewards: NDArray[np.float64], groups: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Pairs of documents that fit into a row together."""
    dataset, length = learnt.documents, recipe.data.sequence_length
    if dataset.counts.cut:
        raise WMTPError(
            f"data.overlong {recipe.data.overlong}: cuts answers, and pairwise compares whole ones; use drop"
        )
    pairs = pair_up(rewards, groups, dataset.lengths, recipe.seed)
    fits = dataset.lengths[pairs].sum(1) <= length
    if not fits.all() and (recipe.data.overlong == "error" or not fits.any()):
        raise WMTPError(
            f"data.sequence_length {length}: {int((~fits).sum())} of {len(pairs)} pairs of answers are longer "
            f"together; raise it in critic.overrides, or set data.overlong to drop"
        )
    return [(int(better), int(worse)) for better, worse in pairs[fits]]


def _by_token(dataset: TokenDataset, by_row: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.repeat(by_row[dataset.sources].astype(np.float32), dataset.lengths)
