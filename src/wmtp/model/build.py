"""Models from a recipe: the learner, and reference models of any kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from wmtp.config import ModelConfig, Recipe
from wmtp.data.loader import Batch
from wmtp.data.tokenizer import load_tokenizer, tokenizer_fingerprint, vocabulary_size
from wmtp.errors import WMTPError, one_line
from wmtp.model.ends import keep_ends
from wmtp.model.modeling import MTPConfig, MTPForCausalLM, TrunkOutput, copy_head_0, document_mask, initialise
from wmtp.storage import sha256_file, sha256_text
from wmtp.train.checkpoint import digests, is_checkpoint, load_tensors, tensor_names

transformers_logging.disable_progress_bar()


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> MTPForCausalLM:
    """The learner, in float32: from `model.base_id`, or initialised from the recipe's seed."""
    if recipe.model.base_id is not None:
        return _from_base(recipe.model, vocabulary_size(tokenizer), recipe.data.sequence_length)
    model = MTPForCausalLM(learner_config(recipe, tokenizer))
    initialise(model, recipe.seed, recipe.model.init_std)
    if recipe.model.head_init == "copy":
        copy_head_0(model)
    return model


def count_parameters(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Parameters of the learner: all, and of its next-token part (trunk, head 0, embeddings); nothing is loaded."""
    model = empty_model(learner_config(recipe, tokenizer))
    assert isinstance(model, MTPForCausalLM)
    extra = sum(
        p.numel() for layer in model.model.layers[model.trunk_layers + 1 :] for p in layer.parameters()
    )
    total = sum(p.numel() for p in model.parameters())
    return total, total - extra


def learner_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> MTPConfig:
    """The learner's configuration; of `model.base_id` only the configuration is read."""
    if recipe.model.base_id is not None:
        config = _with_heads(load_config(recipe.model.base_id, "model.base_id"), recipe.model.heads)
        return keep_ends(config, recipe.model.base_id)
    return MTPConfig(_backbone_config(recipe, tokenizer), heads=recipe.model.heads, dtype="float32")


def _with_heads(base: PreTrainedConfig, heads: int) -> MTPConfig:
    layers = base.num_hidden_layers + heads - 1
    return MTPConfig(_with_layers(base, layers), heads=heads, dtype="float32")


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A causal language model whose parameters have shapes but no storage; its buffers are real."""
    with _parameters_on_meta():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    assert isinstance(model, PreTrainedModel)
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is tied stays the same object
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _backbone_config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    model = recipe.model
    extra = model.heads - 1 if model.placement == "append" else 0
    return AutoConfig.for_model(
        model.architecture,
        vocab_size=vocabulary_size(tokenizer),
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size or _round_up(model.hidden_size * 8 / 3, 32),
        num_hidden_layers=model.layers + extra,
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


def _from_base(model: ModelConfig, vocab_size: int, sequence_length: int) -> MTPForCausalLM:
    base = load_causal_lm(str(model.base_id), "model.base_id")
    if isinstance(base, MTPForCausalLM):
        raise WMTPError(f"model.base_id {model.base_id!r}: has heads already; give a next-token model")
    if base.get_input_embeddings().num_embeddings < vocab_size:
        raise WMTPError(
            f"model.base_id {model.base_id!r}: its vocabulary of {base.get_input_embeddings().num_embeddings} "
            f"is smaller than the tokenizer's {vocab_size} (data.tokenizer)"
        )
    window = getattr(base.config, "sliding_window", None)
    if window is not None and window < sequence_length:
        raise WMTPError(
            f"model.base_id {model.base_id!r}: attends over a window of {window}; "
            f"data.sequence_length {sequence_length} must not exceed it"
        )
    learner = MTPForCausalLM(keep_ends(_with_heads(base.config, model.heads), str(model.base_id)))
    missing, unexpected = learner.load_state_dict(base.state_dict(), strict=False)
    extra = tuple(f"model.layers.{learner.trunk_layers + h}." for h in range(1, model.heads))
    if unexpected or any(not name.startswith(extra) for name in missing):
        raise WMTPError(f"model.base_id {model.base_id!r}: {type(base).__name__} is not Llama-shaped")
    if model.head_init == "copy":
        copy_head_0(learner)
    return learner


def _with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    values = config.to_dict() | {"num_hidden_layers": layers, "layer_types": None}
    return type(config).from_dict(values)


def load_config(location: str, key: str) -> PreTrainedConfig:
    """The configuration of a model in a folder or on the hub; `key` names the setting in errors."""
    try:
        return AutoConfig.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise WMTPError(f"{key} {location!r}: cannot be loaded: {one_line(error)}") from None


def load_causal_lm(location: str, key: str) -> PreTrainedModel:
    """A causal language model in float32 from a checkpoint, a model folder or a hub name, whole, on the CPU.

    Checksums are not compared. `key` names the setting in errors.
    """
    config = load_config(location, key)
    options = {"dtype": torch.float32, "attn_implementation": "sdpa", "output_loading_info": True}
    try:
        if is_checkpoint(Path(location)):
            saved = _saved_parameters(Path(location))
            model = MTPForCausalLM.from_pretrained(None, config=config, state_dict=saved, **options)
        else:
            model = AutoModelForCausalLM.from_pretrained(location, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WMTPError(f"{key} {location!r}: cannot be loaded: {one_line(error)}") from None
    loaded, report = model
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise WMTPError(f"{key} {location!r}: damaged: no usable weights for {', '.join(lacking[:3])}")
    assert isinstance(loaded, PreTrainedModel)
    return loaded


def _saved_parameters(folder: Path) -> dict[str, Tensor]:
    parameters = {name: torch.empty(size) for name, size in tensor_names(folder, "model").items()}
    load_tensors(folder, "model", parameters)
    return parameters


def load_reference(
    location: str, tokenizer: PreTrainedTokenizerFast, key: str = "model.ref_id"
) -> PreTrainedModel:
    """A frozen model that judges the learner's tokens; `key` names the setting in errors.

    Raises:
        WMTPError: it cannot be loaded, or its vocabulary is not the learner's.
    """
    reference = load_causal_lm(location, key).eval().requires_grad_(False)
    rows = reference.get_output_embeddings().weight.shape[0]
    if rows < vocabulary_size(tokenizer):
        raise WMTPError(
            f"{key} {location!r}: its vocabulary of {rows} is not the learner's of {vocabulary_size(tokenizer)}"
        )
    if (Path(location) / "tokenizer.json").exists():
        theirs = tokenizer_fingerprint(load_tokenizer(location))
        ours = tokenizer_fingerprint(tokenizer)
        if theirs != ours:
            raise WMTPError(
                f"{key} {location!r}: its tokenizer {theirs[:16]} is not the learner's {ours[:16]}; "
                f"set data.tokenizer to its own"
            )
    return reference


def model_fingerprint(location: str) -> str:
    """Hex digest of the weights and configuration in a folder; of the name itself for a hub model.

    A checkpoint's is of its files: the same weights saved by another number of processes have another.
    """
    folder = Path(location)
    if not folder.is_dir():
        return sha256_text(location)
    if is_checkpoint(folder):
        saved = {n: d for n, d in digests(folder).items() if n == "config.json" or n.startswith("model/")}
    else:
        saved = {f.name: sha256_file(f) for f in [*folder.glob("*.safetensors"), folder / "config.json"]}
    return sha256_text(*(f"{name} {digest}" for name, digest in sorted(saved.items())))


def packed_trunk(model: MTPForCausalLM, batch: Batch) -> TrunkOutput:
    """The trunk's output for packed documents, each of which sees itself only."""
    return model.trunk(batch.ids, mask=document_mask(batch.document_ids), position_ids=batch.position_ids)


def next_token_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[B, S, D]: what, times the output embedding, are the next-token logits of packed documents."""
    if isinstance(model, MTPForCausalLM):
        return model.head(packed_trunk(model, batch), 0)
    output = model.base_model(
        input_ids=batch.ids,
        attention_mask=document_mask(batch.document_ids),
        position_ids=batch.position_ids,
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
