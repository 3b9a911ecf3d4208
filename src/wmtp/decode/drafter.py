"""Heads 1..H-1 as one wide layer: all drafts of a block in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import rotate_half

from wmtp.decode.cache import PositionCache
from wmtp.errors import WMTPError
from wmtp.model.modeling import MTPForCausalLM, TrunkOutput


class Drafter:
    """Greedy choices of heads 1..H-1, which all read the same hidden states of the trunk.

    The heads' projections are put side by side, in a copy that lives as long as the drafter, and each norm's scale is
    folded into the projection that follows it. A head needs keys and values at every position, but a query, and all
    that comes after it, at one position of each row only.
    """

    def __init__(self, model: MTPForCausalLM, heads: int) -> None:
        """Stack heads 1..heads-1; at least one.

        Raises:
            WMTPError: their projections are not plain linear layers.
        """
        layers: list[Any] = list(model.model.layers[model.trunk_layers + 1 : model.trunk_layers + heads])
        attentions = [layer.self_attn for layer in layers]
        first = attentions[0]
        self._model = model
        self._heads = len(layers)
        self._layer_idx = first.layer_idx
        self._head_dim = first.head_dim
        self._groups = first.num_key_value_groups
        self._scaling = first.scaling
        self._activation = layers[0].mlp.act_fn
        self._epsilon = layers[0].input_layernorm.variance_epsilon
        scales = [layer.input_layernorm.weight for layer in layers]
        keys = _stack([each.k_proj for each in attentions], scales)
        values = _stack([each.v_proj for each in attentions], scales)
        self._keys_values = _side_by_side(keys, values)
        self._queries = _side_by_side(_stack([each.q_proj for each in attentions], scales))
        self._output = _stack([each.o_proj for each in attentions])
        scales = [layer.post_attention_layernorm.weight for layer in layers]
        gates = _stack([layer.mlp.gate_proj for layer in layers], scales)
        ups = _stack([layer.mlp.up_proj for layer in layers], scales)
        self._gates_ups = torch.cat([gates[0], ups[0]], 1), _cat_biases(gates[1], ups[1], 1)
        self._down = _stack([layer.mlp.down_proj for layer in layers])
        self._key_scales = self._head_scales([getattr(each, "k_norm", None) for each in attentions])

    def propose(self, trunk: TrunkOutput, cache: PositionCache, columns_b: Tensor) -> Tensor:
        """..."""
