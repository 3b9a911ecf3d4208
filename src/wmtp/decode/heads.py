"""Heads at one position of each row, from a trunk that has seen a block of positions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import rotate_half

from wmtp.decode.cache import PositionCache
from wmtp.model.modeling import MTPForCausalLM, TrunkOutput


def heads_at(
    model: MTPForCausalLM, trunk: TrunkOutput, cache: PositionCache, columns_b: Tensor, heads: Sequence[int]
) -> Tensor:
    """Normalised hidden states of some heads at one column of each row.

    A head needs the keys and values of every column, its query, output and feed-forward part only where it is asked.

    Args:
        model: the model whose trunk it was.
        trunk: the trunk's output for a block of T columns, after `cache.write_at` for the same block.
        cache: extended by the block's entries of each head.
        columns_b: [B] column in 0..T-1.
        heads: which heads.

    Returns:
        [B, len(heads), D]; times the unembedding they are the heads' logits.
    """
    layers = [model.model.layers[model.trunk_layers + h] for h in heads]
    for layer in layers:
        _write_keys_values(layer, trunk, cache)
    column = _at_columns(trunk, cache, columns_b)
    hidden_bhd = trunk.hidden_bsd.new_empty(len(columns_b), len(heads), trunk.hidden_bsd.shape[-1])
    for place, h in enumerate(heads):
        hidden_bhd[:, place] = model.head(column, h)[:, 0]
    return hidden_bhd


def _write_keys_values(layer: nn.Module, trunk: TrunkOutput, cache: PositionCache) -> None:
    attention = layer.self_attn
    hidden = layer.input_layernorm(trunk.hidden_bsd)
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(hidden).view(shape)
    if hasattr(attention, "k_norm"):
        keys = attention.k_norm(keys)
    cos, sin = (each[:, None] for each in trunk.layer_arguments["position_embeddings"])
    keys = keys.transpose(1, 2)
    keys = keys * cos + rotate_half(keys) * sin
    cache.update(keys, attention.v_proj(hidden).view(shape).transpose(1, 2), attention.layer_idx)


def _at_columns(trunk: TrunkOutput, cache: PositionCache, columns_b: Tensor) -> TrunkOutput:
    rows = torch.arange(len(columns_b), device=columns_b.device)

    def pick(each_bt: Tensor) -> Tensor:
        return each_bt.expand(len(rows), *each_bt.shape[1:])[rows, columns_b][:, None]

    positions = pick(trunk.layer_arguments["position_ids"])
    arguments = trunk.layer_arguments | {
        "attention_mask": cache.write_at(positions, len(rows), cache.get_seq_length()),
        "position_ids": positions,
        "position_embeddings": tuple(pick(each) for each in trunk.layer_arguments["position_embeddings"]),
    }
    return TrunkOutput(pick(trunk.hidden_bsd), arguments)
