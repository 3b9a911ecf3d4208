"""What each layer may attend to: its own document's past, whole, within a window or within a chunk."""

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
)

from wmtp.errors import WMTPError

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
"""What transformers calls the keys and values of earlier positions, in arguments and outputs; 5.24 renamed them."""

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
_MAKERS: dict[str, Callable[..., Tensor | None]] = {
    FULL: create_causal_mask,
    SLIDING: create_sliding_window_causal_mask,
    CHUNKED: create_chunked_causal_mask,
}


Masks = Mapping[str, Tensor | None]
"""By kind of layer, what its attention takes."""


def layer_kinds(config: PreTrainedConfig) -> list[str]:
    """The kind of attention of each layer, found as transformers finds it when it generates.

    Raises:
        WMTPError: a layer is of a kind whose memory is not one key and value for every token.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        if getattr(config, "sliding_window", None) is not None:
            kind = SLIDING
        elif getattr(config, "attention_chunk_size", None) is not None:
            kind = CHUNKED
        else:
            kind = FULL
        kinds = [kind] * config.num_hidden_layers
    if unknown := sorted(set(kinds) - _MAKERS.keys()):
        raise WMTPError(
            f"has layers of the kind {unknown[0]!r} (layer_types in config.json), and {', '.join(_MAKERS)} are known"
        )
    return list(kinds)


def document_mask(document_ids_bs: Tensor) -> Tensor:
    """[B, 1, S, S] bool: a position sees itself and earlier ones of its own document; padding sees itself."""
    positions = torch.arange(document_ids_bs.shape[1], device=document_ids_bs.device)
    causal = positions[:, None] >= positions[None, :]
    same = document_ids_bs[:, :, None] == document_ids_bs[:, None, :]
    return (causal & same)[:, None]


def packed_masks(
    config: PreTrainedConfig, document_ids_bs: Tensor, position_ids_bs: Tensor
) -> dict[str, Tensor]:
    """By kind of layer, [B, 1, S, S] bool, true where attended: documents in a row do not see each other.

    Args:
        config: of the backbone.
        document_ids_bs: 0 is padding.
        position_ids_bs: restart with each document.
    """
    return narrowed(config, document_mask(document_ids_bs), position_ids_bs, position_ids_bs)


def narrowed(
    config: PreTrainedConfig, seen: Tensor, queries_bt: Tensor, keys_bk: Tensor
) -> dict[str, Tensor]:
    """By kind of layer, what of `seen` is within its window or chunk.

    Args:
        config: of the backbone.
        seen: [B, 1, T, K] bool, what a layer attends to that sees all of a document's past.
        queries_bt, keys_bk: positions within the document.
    """
    masks = {}
    for kind in set(layer_kinds(config)):
        masks[kind] = seen
        if kind == SLIDING:
            masks[kind] = seen & (_pairs(torch.sub, queries_bt, keys_bk) < config.sliding_window)
        elif kind == CHUNKED:
            size = config.attention_chunk_size
            masks[kind] = seen & _pairs(torch.eq, queries_bt // size, keys_bk // size)
    return masks


def _pairs(operation: Callable[[Tensor, Tensor], Tensor], queries_bt: Tensor, keys_bk: Tensor) -> Tensor:
    """[B, 1, T, K]."""
    return operation(queries_bt[:, None, :, None], keys_bk[:, None, None, :])


def unpacked_masks(
    config: PreTrainedConfig,
    embeddings_bsd: Tensor,
    padding_bs: Tensor | None,
    cache: Cache | None,
    position_ids_bs: Tensor,
) -> Masks:
    """By kind of layer, the mask for rows that hold one document each, made by transformers.

    Args:
        config: of the backbone.
        embeddings_bsd: what the first layer reads.
        padding_bs: 1 for tokens and 0 for padding, those in the cache included, or a [B, 1, S, keys] mask, which is
            taken as it is; None for no padding.
        cache: keys and values of earlier positions.
        position_ids_bs: of the tokens.
    """
    return {
        kind: _MAKERS[kind](
            config=config,
            inputs_embeds=embeddings_bsd,
            attention_mask=padding_bs,
            position_ids=position_ids_bs,
            **{CACHE: cache},
        )
        for kind in set(layer_kinds(config))
    }


def for_implementation(mask: Tensor | None, hidden_bsd: Tensor, implementation: str) -> Tensor | None:
    """A 4-D bool mask as transformers' `implementation` takes it: eager attention adds it to the scores.

    Any other mask stays as it is. `hidden_bsd`, which attention reads, decides the dtype.
    """
    if mask is None or mask.ndim != 4 or mask.dtype != torch.bool or implementation != "eager":
        return mask
    device = hidden_bsd.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else hidden_bsd.dtype
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)
