"""MTPForCausalLM: a trunk, H heads, one shared unembedding."""

import inspect
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from wmtp.errors import WMTPError
from wmtp.model.attention import CACHE, Masks, for_implementation, layer_kinds, unpacked_masks
from wmtp.model.heads import ParallelHeads, TrunkOutput


class MTPConfig(PreTrainedConfig):
    """A backbone configuration (Llama-shaped) that counts trunk and heads, and the number of heads."""

    model_type = "wmtp"
    keys_to_ignore_at_inference = [CACHE]  # noqa: RUF012

    def __init__(
        self, backbone: dict[str, Any] | PreTrainedConfig | None = None, heads: int = 1, **kwargs: Any
    ):
        if not isinstance(backbone, PreTrainedConfig):
            backbone = AutoConfig.for_model(**(backbone or {"model_type": "llama"}))
        _check_rotation(backbone)
        self.backbone: PreTrainedConfig = backbone
        self.heads = heads
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
            kwargs.setdefault(name, getattr(backbone, name))
        super().__init__(**kwargs)

    @classmethod
    def with_heads(cls, base: PreTrainedConfig, heads: int, placement: str = "append") -> "MTPConfig":
        """A learner's configuration: a next-token model's, with heads in place of its last layers or behind them."""
        return cls(ParallelHeads.on(base, heads, placement), heads=heads, dtype="float32")

    def next_token(self) -> PreTrainedConfig:
        """The configuration of trunk and head 0, a model of the backbone's own class."""
        return ParallelHeads.next_token(self.backbone, self.heads)

    def get_text_config(self, *_: Any, **__: Any) -> PreTrainedConfig:
        """What transformers asks for layer counts and cache sizes: the backbone's."""
        return self.backbone

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = super().to_dict()
        return values | {"backbone": self.backbone.to_dict()}


def rotations(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """What the configuration says of rotary positions: once, or for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    by_kind = [each for each in found.values() if isinstance(each, dict)]
    return by_kind or [found]


def depends_on_length(rotation: dict[str, Any]) -> bool:
    """Whether a position's rotation depends on how far a forward reads."""
    return rotation.get("rope_type") in ("dynamic", "longrope")


def _check_rotation(backbone: PreTrainedConfig) -> None:
    """Refuse positions whose rotation depends on how far a batch reads: a draft would change its own verification."""
    for rotation in filter(depends_on_length, rotations(backbone)):
        raise WMTPError(
            f"its config.json has rope_type {rotation['rope_type']!r} (rope_parameters), with which a token's "
            f"logits depend on what else is read; take a model whose rope_type is default, linear, llama3 or yarn"
        )


class MTPForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model whose head h predicts token s + h + 1 from position s (arXiv 2404.19737).

    `forward` is the next-token model (head 0), so `generate` and every tool for causal models work.
    `trunk` and `head` give the hidden states that, times `unembedding`, are the logits of each head.
    """

    config_class = MTPConfig
    config: MTPConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: MTPConfig):
        super().__init__(config)
        config.backbone._attn_implementation = config._attn_implementation
        self.model = AutoModel.from_config(config.backbone)
        self.lm_head = nn.Linear(config.backbone.hidden_size, config.backbone.vocab_size, bias=False)
        self._no_split_modules = list(self.model._no_split_modules)
        self._kinds = layer_kinds(config.backbone)
        for part in ("embed_tokens", "layers", "norm", "rotary_emb"):
            if not hasattr(self.model, part):
                raise WMTPError(f"its {type(self.model).__name__} has no {part}")
        self._rotates_by_kind = "layer_type" in inspect.signature(self.model.rotary_emb.forward).parameters
        self.heads = ParallelHeads(self.model, config.heads)
        self.embedding_scale = float(getattr(config.backbone, "embedding_multiplier", 1.0))
        self.logits_scale = logits_scale(config.backbone)
        self.post_init()

    @property
    def unembedding(self) -> Tensor:
        """[V, D], shared by all heads."""
        weight: Tensor = self.lm_head.weight
        return weight

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Choose the attention implementation, as in transformers.

        Some versions leave a mark in the backbone's configuration; saved with it, it would keep a loaded model
        from changing.
        """
        super().set_attn_implementation(*args, **kwargs)
        vars(self.config.backbone).pop("_attn_was_changed", None)

    def enable_checkpointing(self) -> None:
        """Recompute each layer's activations in the backward pass instead of keeping them."""
        name = "activation_checkpointing_enable"  # gradient_checkpointing_enable in older versions
        getattr(self, name if hasattr(self, name) else "gradient_checkpointing_enable")()

    def trunk(
        self,
        ids_bs: Tensor,
        *,
        mask: Tensor | Masks | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> TrunkOutput:
        """Embedding and all layers below the heads.

        Args:
            ids_bs: [B, S] tokens.
            mask: [B, S] 1 for tokens and 0 for padding; or [B, 1, S, keys], true where attended, by kind of layer
                (`packed_masks`) or for all layers alike.
            position_ids: [B, S].
            cache: keys and values of earlier positions, extended in place.
        """
        hidden = self.model.embed_tokens(ids_bs)
        if self.embedding_scale != 1.0:
            hidden = hidden * self.embedding_scale
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(seen, seen + ids_bs.shape[1], device=ids_bs.device)[None]
        if not isinstance(mask, Mapping):
            mask = unpacked_masks(self.config.backbone, hidden, mask, cache, position_ids)
        common = {"position_ids": position_ids, CACHE: cache, "use_cache": cache is not None}
        arguments = {
            kind: common
            | {
                "attention_mask": for_implementation(each, hidden, self.config._attn_implementation),
                "position_embeddings": self._rotation(hidden, position_ids, kind),
            }
            for kind, each in mask.items()
        }
        for kind, layer in zip(self._kinds, self.heads.trunk_layers, strict=False):
            hidden = layer(hidden, **arguments[kind])
        return TrunkOutput(hidden, arguments[self.heads.attention_kind])

    def _rotation(self, hidden_bsd: Tensor, position_ids: Tensor, kind: str) -> Any:
        if self._rotates_by_kind:
            return self.model.rotary_emb(hidden_bsd, position_ids, kind)
        return self.model.rotary_emb(hidden_bsd, position_ids=position_ids)

    def head(self, trunk: TrunkOutput, h: int) -> Tensor:
        """Normalised hidden states of head h, [B, S, D]; times the unembedding they are its logits."""
        hidden = self.heads.hidden(trunk, h)
        return hidden if self.logits_scale == 1.0 else hidden * self.logits_scale

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Masks | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        labels: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Next-token logits [B, S, V] of head 0; `labels` (unshifted) as in every causal model of transformers.

        `cache` is the newer name of `past_key_values`.
        """
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        trunk = self.trunk(input_ids, mask=attention_mask, position_ids=position_ids, cache=cache)
        hidden = self.head(trunk, 0)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})


AutoConfig.register("wmtp", MTPConfig)
AutoModelForCausalLM.register(MTPConfig, MTPForCausalLM)


def logits_scale(config: PreTrainedConfig) -> float:
    """What a model of this configuration multiplies its logits by, beside the output embedding."""
    return float(getattr(config, "logit_scale", 1.0)) / float(getattr(config, "logits_scaling", 1.0))


@torch.no_grad()
def initialise(model: MTPForCausalLM, seed: int, std: float) -> None:
    """Give every parameter its initial value, drawn from a stream of its own: N(0, std²), norms 1, biases 0.

    A parameter's value depends on the seed and its name alone, so models that differ only in the number of heads
    start with the same trunk, head 0 and embeddings.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
