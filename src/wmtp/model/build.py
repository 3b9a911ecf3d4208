"""Models from a recipe: the learner, and reference models of any kind."""

from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from wmtp.checkpoint.store import resolve_model
from wmtp.config import Recipe
from wmtp.data.tokenizer import vocabulary_size
from wmtp.errors import WMTPError
from wmtp.model.ends import keep_ends
from wmtp.model.families import check_judge, check_learner, check_reference, take_weights
from wmtp.model.loading import load_causal_config, load_causal_lm
from wmtp.model.modeling import (
    MTPConfig,
    MTPForCausalLM,
    depends_on_length,
    initialise,
    rotations,
)
from wmtp.model.tokens import check_tokenizer


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> MTPForCausalLM:
    """The learner, in float32: from `model.base_id`, or initialised from the recipe's seed."""
    if recipe.model.base_id is not None:
        return _from_base(recipe, tokenizer)
    model = MTPForCausalLM(learner_config(recipe, tokenizer))
    initialise(model, recipe.seed, recipe.model.init_std)
    if recipe.model.head_init == "copy":
        model.heads.copy_head_0()
    return model


def count_parameters(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Parameters of the learner: all, and of its next-token part (trunk, head 0, embeddings); nothing is loaded."""
    model = empty_model(learner_config(recipe, tokenizer))
    assert isinstance(model, MTPForCausalLM)
    total = sum(p.numel() for p in model.parameters())
    extra = sum(p.numel() for name, p in model.named_parameters() if model.heads.head_of(name))
    return total, total - extra


def learner_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> MTPConfig:
    """The learner's configuration; of `model.base_id` only the configuration is read.

    Raises:
        WMTPError: it cannot be, has another number of extra heads, too few positions, or a forward that is not ours.
    """
    heads = recipe.model.heads
    if recipe.model.base_id is None:
        return MTPConfig.with_heads(_base_config(recipe, tokenizer), heads, recipe.model.placement)
    called = f"model.base_id {recipe.model.base_id!r}"
    location = str(resolve_model(recipe.model.base_id, "model.base_id"))
    base = load_causal_config(location, "model.base_id")
    if isinstance(base, MTPConfig):
        if base.heads not in (1, heads):
            raise WMTPError(
                f"{called}: has {base.heads} heads; set model.heads={base.heads} to keep them, or give its "
                f"next-token model to start with others (wmtp export --next-token-only makes one)"
            )
        base = base.next_token()
    check_positions(base, recipe.data.sequence_length, called)
    check_learner(base, called)
    return keep_ends(MTPConfig.with_heads(base, heads), location)


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A causal language model whose parameters have shapes but no storage; its buffers are real."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    assert isinstance(model, PreTrainedModel)
    model.tie_weights()  # each place got a parameter of its own
    return model


def _base_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    model = recipe.model
    return AutoConfig.for_model(
        model.architecture,
        vocab_size=vocabulary_size(tokenizer),
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size or _round_up(model.hidden_size * 8 / 3, 32),
        num_hidden_layers=model.layers,
        num_attention_heads=model.attention_heads,
        num_key_value_heads=model.key_value_heads or model.attention_heads,
        head_dim=model.hidden_size // model.attention_heads,
        max_position_embeddings=max(2048, 2 * recipe.data.sequence_length),
        tie_word_embeddings=model.tie_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        sliding_window=None,
    )


def _round_up(size: float, multiple: int) -> int:
    return -(-int(size) // multiple) * multiple


def _from_base(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> MTPForCausalLM:
    config = learner_config(recipe, tokenizer)
    called = f"model.base_id {recipe.model.base_id!r}"
    location = str(resolve_model(str(recipe.model.base_id), "model.base_id"))
    base = load_causal_lm(location, "model.base_id")
    rows = base.get_input_embeddings().num_embeddings
    if rows < vocabulary_size(tokenizer):
        raise WMTPError(
            f"{called}: its vocabulary of {rows} is smaller than the tokenizer's {vocabulary_size(tokenizer)} "
            f"(data.tokenizer)"
        )
    learner = MTPForCausalLM(config)
    take_weights(learner, base, called)
    has_heads = isinstance(base, MTPForCausalLM) and base.config.heads > 1
    if recipe.model.head_init == "copy" and not has_heads:
        learner.heads.copy_head_0()
    return learner


def load_reference(
    location: str, tokenizer: PreTrainedTokenizerFast, sequence_length: int, key: str = "model.ref_id"
) -> PreTrainedModel:
    """A frozen model that judges the learner's tokens; `key` names the setting in errors.

    Raises:
        WMTPError: it cannot be loaded or read rows of packed documents, has fewer than `sequence_length` positions,
            or does not speak the learner's tokens.
    """
    called = f"{key} {location!r}"
    reference = load_causal_lm(location, key).eval().requires_grad_(False)
    rows = reference.get_output_embeddings().weight.shape[0]
    if rows < vocabulary_size(tokenizer):
        raise WMTPError(
            f"{called}: its vocabulary of {rows} is not the learner's of {vocabulary_size(tokenizer)}"
        )
    check_positions(reference.config, sequence_length, called)
    check_tokenizer(location, tokenizer, called)
    if not isinstance(reference, MTPForCausalLM):
        check_reference(reference.config, called)
    check_judge(reference, called)
    return reference


def check_positions(config: PreTrainedConfig, sequence_length: int, called: str) -> None:
    """Refuse documents that are longer than what a model was made for, its scaled rotation included.

    Raises:
        WMTPError: there can be such documents.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return
    limit = min(_positions(positions, rotation) for rotation in rotations(config))
    if sequence_length > limit:
        raise WMTPError(
            f"{called}: reads documents of up to {limit} tokens (max_position_embeddings and rope_parameters in "
            f"config.json); data.sequence_length {sequence_length} must not exceed that"
        )


def _positions(stated: int, rotation: dict[str, Any]) -> int:
    original = rotation.get("original_max_position_embeddings") or stated
    if depends_on_length(rotation):  # beyond that, a document's logits depend on the others in its row
        return int(original)
    return max(stated, int(original * (rotation.get("factor") or 1)))
