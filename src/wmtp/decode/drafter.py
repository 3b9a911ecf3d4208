"""Heads 1..H-1: one by one, or side by side where their layers allow it, all drafts of a block in one pass."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wmtp.errors import WMTPError
from wmtp.model.attention import narrowed
from wmtp.model.cache import PositionCache
from wmtp.model.heads import TrunkOutput
from wmtp.model.modeling import MTPConfig, MTPForCausalLM
from wmtp.model.twins import TWIN_WINDOW, random_model, twin_config


class Drafter(Protocol):
    """The logits of heads 1..H-1, which read the same hidden states of the trunk."""

    def logits(self, trunk: TrunkOutput, cache: PositionCache, columns_b: Tensor) -> Tensor:
        """The logits of heads 1..H-1 at one column of each row.

        Args:
            trunk: for a block of T columns that `cache.write_at` has placed.
            cache: extended by the block's keys and values of these heads.
            columns_b: [B] column in 0..T-1.

        Returns:
            [B, H-1, V].
        """


def make_drafter(model: MTPForCausalLM, heads: int) -> Drafter:
    """Heads 1..heads-1, at least one, of a model."""
    if _can_be_stacked(str(model.config.to_json_string(use_diff=False))):
        return StackedDrafter(model, heads)
    return SerialDrafter(model, heads)


@lru_cache
def _can_be_stacked(config: str) -> bool:
    """Whether on a small twin of a model the stacked heads give the logits that they give one by one."""
    small = twin_config(MTPConfig(**json.loads(config)).next_token())
    twin = random_model(MTPConfig.with_heads(small, 3))
    assert isinstance(twin, MTPForCausalLM)
    expected = _logits_of_a_block(twin, SerialDrafter(twin, 3))
    try:
        found = _logits_of_a_block(twin, StackedDrafter(twin, 3))
    except (AttributeError, RuntimeError, TypeError, WMTPError):  # its layers are built in another way
        return False
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def _logits_of_a_block(model: MTPForCausalLM, drafter: Drafter) -> Tensor:
    """[1, H-1, V] behind as many tokens as are more than a twin's window."""
    ids = torch.arange(TWIN_WINDOW + 3)[None]
    cache = PositionCache(ids.shape[1])
    seen = cache.write_at(ids, 1, ids.shape[1])
    masks = narrowed(model.config.backbone, seen, ids, ids)
    trunk = model.trunk(ids, mask=masks, position_ids=ids, cache=cache)
    return drafter.logits(trunk, cache, ids[0, -1:])


class SerialDrafter:
    """The heads as they are."""

    def __init__(self, model: MTPForCausalLM, heads: int) -> None:
        self._model = model
        self._heads = range(1, heads)

    def logits(self, trunk: TrunkOutput, cache: PositionCache, columns_b: Tensor) -> Tensor:  # noqa: ARG002
        rows = torch.arange(len(columns_b), device=columns_b.device)
        hidden = [self._model.head(trunk, h)[rows, columns_b] for h in self._heads]
        logits: Tensor = self._model.lm_head(torch.stack(hidden, 1))
        return logits


class StackedDrafter:
    """All heads at once.

    A head needs keys and values at every position, but its query, and all that comes after, at one position of each
    row only. The heads' projections are stacked into copies that live as long as the drafter; the scale of a norm is
    folded into the projections that follow it.
    """

    @torch.no_grad()
    def __init__(self, model: MTPForCausalLM, heads: int) -> None:
        """Stack heads 1..heads-1, at least one.

        Raises:
            WMTPError: a projection is not a plain linear layer, but an adapter's or a quantised one.
        """
        layers: list[Any] = list(model.heads.layers[1:heads])
        attentions = [layer.self_attn for layer in layers]
        self._model = model
        self._epsilon: float = model.config.backbone.rms_norm_eps
        self._activation = layers[0].mlp.act_fn
        self._head_dim: int = attentions[0].head_dim
        self._scaling: float = attentions[0].scaling
        self._layer_idx: int = attentions[0].layer_idx
        self._key_heads = attentions[0].k_proj.out_features // self._head_dim * len(layers)

        scales = [layer.input_layernorm.weight for layer in layers]
        queries = _Stack([each.q_proj for each in attentions], scales)
        keys = _Stack([each.k_proj for each in attentions], scales)
        values = _Stack([each.v_proj for each in attentions], scales)
        self._queries = queries.joined()
        self._keys, self._values = keys.joined(), values.joined()
        self._query_scales = _head_scales(attentions, "q_norm", queries)
        self._key_scales = _head_scales(attentions, "k_norm", keys)
        self._output = _Stack([each.o_proj for each in attentions])
        scales = [layer.post_attention_layernorm.weight for layer in layers]
        self._gate = _Stack([layer.mlp.gate_proj for layer in layers], scales)
        self._up = _Stack([layer.mlp.up_proj for layer in layers], scales)
        self._down = _Stack([layer.mlp.down_proj for layer in layers])

    def logits(self, trunk: TrunkOutput, cache: PositionCache, columns_b: Tensor) -> Tensor:
        rows = torch.arange(len(columns_b), device=columns_b.device)

        def at_columns(each_bt: Tensor) -> Tensor:
            return each_bt.expand(len(rows), *each_bt.shape[1:])[rows, columns_b]

        rotation = [each[:, :, None] for each in trunk.layer_arguments["position_embeddings"]]
        mask = trunk.layer_arguments["attention_mask"][:, 0]
        normed = self._norm(trunk.hidden_bsd)
        keys = F.linear(normed, *self._keys).unflatten(-1, (-1, self._head_dim))
        keys = self._rotate(keys, self._key_scales, *rotation).transpose(1, 2)
        values = F.linear(normed, *self._values).unflatten(-1, (-1, self._head_dim)).transpose(1, 2)
        keys, values = cache.update(keys, values, self._layer_idx)

        queries = F.linear(at_columns(normed), *self._queries).unflatten(-1, (-1, self._head_dim))
        queries = self._rotate(queries, self._query_scales, *map(at_columns, rotation))
        grouped = queries.unflatten(1, (self._key_heads, -1))
        attention = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=at_columns(mask)[:, None, None], scale=self._scaling
        )
        by_head = attention.flatten(1).unflatten(1, (len(self._output.weight), -1)).transpose(0, 1)
        return self._above_attention(at_columns(trunk.hidden_bsd) + self._output(by_head))

    def _above_attention(self, hidden_hbd: Tensor) -> Tensor:
        normed = self._norm(hidden_hbd)
        activated: Tensor = self._activation(self._gate(normed)) * self._up(normed)
        hidden_hbd = hidden_hbd + self._down(activated)
        logits: Tensor = self._model.lm_head(self._model.model.norm(hidden_hbd))
        return logits.transpose(0, 1)

    def _norm(self, hidden: Tensor) -> Tensor:
        normed: Tensor = F.rms_norm(hidden, hidden.shape[-1:], eps=self._epsilon)
        return normed

    def _rotate(self, states: Tensor, scales: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        if scales is not None:
            states = self._norm(states) * scales
        half = states.shape[-1] // 2
        rotated = states * cos
        rotated[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
        rotated[..., half:].addcmul_(states[..., :half], sin[..., half:])
        return rotated


class _Stack:
    """The same projection of each head."""

    def __init__(self, modules: list[nn.Module], scales: Sequence[Tensor] | None = None) -> None:
        """Stack `modules`; each with the scale [in] of the norm before it folded in."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for place, module in enumerate(modules):
            if type(module) is not nn.Linear:
                raise WMTPError(
                    f"speculative decoding: the heads have {type(module).__name__} projections; "
                    f"merge adapters into plain linear layers first"
                )
            weights.append(module.weight if scales is None else module.weight * scales[place])
            biases.append(
                module.weight.new_zeros(module.out_features) if module.bias is None else module.bias
            )
        self.weight = torch.stack(weights)
        self.bias = torch.stack(biases)
        self.has_bias = any(module.bias is not None for module in modules)

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """Weight [heads * out, in] and bias [heads * out], for an input that all heads share."""
        return self.weight.flatten(0, 1), self.bias.flatten() if self.has_bias else None

    def __call__(self, input_hbi: Tensor) -> Tensor:
        """[heads, B, in] to [heads, B, out]: each head its own input."""
        if not self.has_bias:
            return torch.bmm(input_hbi, self.weight.mT)
        return torch.baddbmm(self.bias[:, None], input_hbi, self.weight.mT)


def _head_scales(attentions: list[Any], name: str, stack: _Stack) -> Tensor | None:
    """Scales [attention heads of all, size] of a norm within attention heads; None for a model without."""
    if not hasattr(attentions[0], name):
        return None
    scales = torch.stack([getattr(attention, name).weight for attention in attentions])
    return scales.repeat_interleave(stack.weight.shape[1] // scales.shape[1], 0)
