"""Configurations with other numbers of layers, and small twins of models, to try things with.

A twin has the same configuration but for its sizes, random weights, and windows that are shorter than a few words.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from wmtp.errors import WMTPError

TWIN_VOCABULARY, TWIN_WINDOW = 64, 5
LARGEST_TWIN = 5_000_000
"""Parameters."""

_TWIN_SIZES = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), TWIN_VOCABULARY),
    **dict.fromkeys(("hidden_size", "intermediate_size", "ffn_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_size"), 16),
    "num_attention_heads": 4,
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 8),
    "qk_head_dim": 16,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), TWIN_WINDOW),
}


def with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same configuration with its first layers only, or with more like its last one."""
    found = {name: (each + each[-1:] * layers)[:layers] for name, each in _by_layer(config).items()}
    values = config.to_dict() | {_own_name(config, "num_hidden_layers"): layers} | found
    return type(config).from_dict(values)


def twin_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same configuration with small sizes, and a layer of each kind that it has."""
    by_layer = _by_layer(config)
    kinds = list(zip(*by_layer.values(), strict=True)) if by_layer else [()] * config.num_hidden_layers
    kept = sorted({0, *(kinds.index(kind) for kind in kinds), len(kinds) - 1})
    values = config.to_dict() | {name: [each[i] for i in kept] for name, each in by_layer.items()}
    values[_own_name(config, "num_hidden_layers")] = len(kept)
    for name, size in _TWIN_SIZES.items():
        own = _own_name(config, name)
        if isinstance(values.get(own), int) and not isinstance(values[own], bool):
            values[own] = size
    if "head_dim" in values:  # also where it follows from the others
        values["head_dim"] = _TWIN_SIZES["head_dim"]
    keys = _own_name(config, "num_key_value_heads")
    if isinstance(values.get(keys), int):
        same = config.num_key_value_heads == config.num_attention_heads
        values[keys] = 4 if same else min(2, values[keys])
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        values[name] = _small_ids(values.get(name))
    values["dtype"] = "float32"
    return type(config).from_dict(values)


def _by_layer(config: PreTrainedConfig) -> dict[str, list[Any]]:
    """What the configuration says of each layer."""
    return {
        name: each
        for name, each in config.to_dict().items()
        if "layer" in name and isinstance(each, list) and len(each) == config.num_hidden_layers
    }


def _small_ids(ids: Any) -> Any:
    if isinstance(ids, list):
        return [_small_ids(each) for each in ids]
    return ids % TWIN_VOCABULARY if isinstance(ids, int) else ids


def _own_name(config: PreTrainedConfig, name: str) -> str:
    return str(config.attribute_map.get(name, name))


def make_twin(config: PreTrainedConfig) -> PreTrainedModel:
    """A small twin of a model, ready for evaluation.

    Raises:
        WMTPError: it would not be small.
    """
    small = twin_config(config)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(small).parameters())
    if parameters > LARGEST_TWIN:
        raise WMTPError(f"no small twin can be made of it: {parameters} parameters are left")
    return random_model(small)


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model with weights with which everything matters, in float32, ready for evaluation."""
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    assert isinstance(model, PreTrainedModel)
    _randomise(model)
    return model.eval()


@torch.no_grad()
def _randomise(model: PreTrainedModel) -> None:
    """Weights with which everything matters, windows and biases too."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.empty(parameter.shape).normal_(0.0, 0.3, generator=generator)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.copy_(noise + 1.0 if is_scale else noise)
