"""Rewards from a trained reward model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from wmtp.critic.rewards import check_rewards
from wmtp.data.arrays import KeptArray
from wmtp.data.tokenizer import vocabulary_size
from wmtp.environment import dtype_name
from wmtp.errors import WMTPError, one_line
from wmtp.model.loading import load_config, model_fingerprint
from wmtp.progress import progress
from wmtp.storage import sha256_text

KEY = "critic.reward_model"


def reward_model_rewards(
    prompts: Sequence[str],
    completions: Sequence[str],
    location: str,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    cache: Path,
) -> NDArray[np.float64]:
    """[rows] float64: outputs of a sequence classifier with one label for each prompt followed by its completion.

    The texts get the special tokens that the model's own tokenizer adds. The rewards are kept in `cache`, so that the
    same model need not read the same texts again; what is there but damaged is written anew.

    Args:
        location: a folder with model and tokenizer, or a hub name.
        dtype: of the model's weights and computation.

    Raises:
        WMTPError: the model or its tokenizer cannot be used, a text is empty or too long, a reward is not finite, or
            all rewards are equal.
    """
    config = _load_config(location)
    tokenizer = _load_tokenizer(location, config.vocab_size)
    config.pad_token_id = _padding(config, tokenizer, location)
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    tokens: list[list[int]] = tokenizer(texts, split_special_tokens=True)["input_ids"]
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    _check_lengths(tokens, min(positions, tokenizer.model_max_length), location)
    digest = sha256_text(*(" ".join(map(str, ids)) for ids in tokens), f"padding {config.pad_token_id}")
    made_from = {"model": model_fingerprint(location), "dtype": dtype_name(dtype), "tokens": digest}
    directory = cache / "rewards" / sha256_text(*made_from.values())[:16]
    kept = KeptArray(directory, "rewards", "float64", len(tokens), made_from)
    try:
        rewards = kept.read()
    except WMTPError:
        rewards = _score(_load_model(location, config, dtype).to(device), tokens, batch_size)
        broken = np.flatnonzero(~np.isfinite(rewards))
        if len(broken):
            raise WMTPError(
                f"{KEY} {location!r}: {len(broken)} of {len(rewards)} rewards are not finite, the first is "
                f"{rewards[broken[0]]} in row {broken[0]}"
            ) from None
        with kept.writing() as values:
            values[:] = rewards
    check_rewards(rewards, f"{KEY} {location!r}")
    return rewards


def _load_config(location: str) -> PreTrainedConfig:
    config = load_config(location, KEY)
    if config.num_labels != 1:
        raise WMTPError(
            f"{KEY} {location!r}: has {config.num_labels} labels; a reward model has one (num_labels=1)"
        )
    config.use_cache = False
    return config


def _load_tokenizer(location: str, vocab_size: int) -> PreTrainedTokenizerFast:
    folder = Path(location)
    if folder.is_dir() and not (folder / "tokenizer.json").exists():
        raise WMTPError(f"{KEY} {location!r}: no tokenizer in the folder (tokenizer.json)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except Exception as error:  # as of load_tokenizer
        raise WMTPError(f"{KEY} {location!r}: its tokenizer cannot be loaded: {one_line(error)}") from None
    if vocabulary_size(tokenizer) > vocab_size:
        raise WMTPError(
            f"{KEY} {location!r}: with another tokenizer: its {vocabulary_size(tokenizer)} tokens do not fit into "
            f"the model's vocabulary of {vocab_size}"
        )
    return tokenizer


def _padding(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, location: str) -> int:
    """The token to pad with, which the model must know to find where a text ends."""
    for token in (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise WMTPError(f"{KEY} {location!r}: has neither a padding token nor an end-of-text token to pad with")


def _check_lengths(tokens: Sequence[Sequence[int]], limit: int, location: str) -> None:
    lengths = [len(ids) for ids in tokens]
    if 0 in lengths:
        raise WMTPError(f"{KEY} {location!r}: row {lengths.index(0)} has no text that could be rewarded")
    too_long = [row for row, length in enumerate(lengths) if length > limit]
    if too_long:
        worst = max(too_long, key=lengths.__getitem__)
        raise WMTPError(
            f"{KEY} {location!r}: takes at most {limit} tokens; {len(too_long)} of {len(lengths)} texts are longer, "
            f"row {worst} with {lengths[worst]} tokens the longest"
        )


def _load_model(location: str, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Only safetensors are read: other weights are not in the fingerprint."""
    try:
        loaded = AutoModelForSequenceClassification.from_pretrained(
            location, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WMTPError(f"{KEY} {location!r}: cannot be loaded: {one_line(error)}") from None
    model, report = loaded
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise WMTPError(
            f"{KEY} {location!r}: not a reward model: no usable weights for {', '.join(lacking[:3])}"
        )
    assert isinstance(model, PreTrainedModel)
    return model.eval()


@torch.no_grad()
def _score(model: PreTrainedModel, tokens: Sequence[Sequence[int]], batch_size: int) -> NDArray[np.float64]:
    """[rows] float64; texts are padded on the right, where no token sees it.

    Equal texts are scored once: different batches would round them differently, and one would seem better than the
    other.
    """
    numbers: dict[tuple[int, ...], int] = {}
    places = [numbers.setdefault(tuple(ids), len(numbers)) for ids in tokens]
    rewards = np.empty(len(numbers), dtype=np.float64)
    longest_first = sorted(numbers, key=len, reverse=True)
    with progress("reward model", len(numbers)) as update:
        for start in range(0, len(numbers), batch_size):
            texts = longest_first[start : start + batch_size]
            ids = torch.full((len(texts), len(texts[0])), model.config.pad_token_id)
            mask = torch.zeros_like(ids)
            for i, text in enumerate(texts):
                ids[i, : len(text)] = torch.tensor(text)
                mask[i, : len(text)] = 1
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
            rewards[[numbers[text] for text in texts]] = logits[:, 0].double().cpu().numpy()
            update(start + len(texts))
    return rewards[places]
