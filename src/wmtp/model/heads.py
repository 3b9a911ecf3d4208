"""Heads on a trunk: where they lie in the backbone, what they compute, and which parameters are theirs."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from wmtp.model.attention import layer_kinds
from wmtp.model.twins import with_layers


@dataclass(frozen=True)
class TrunkOutput:
    """The trunk's hidden states [B, S, D], and what every head needs beside them."""

    hidden_bsd: Tensor
    layer_arguments: dict[str, Any]

    @property
    def position_ids(self) -> Tensor:
        """[B, S], or [1, S] when all rows have the same."""
        found: Tensor = self.layer_arguments["position_ids"]
        return found

    def rows(self, order: Tensor) -> "TrunkOutput":
        """The output for some of the rows, in this order; what all rows share stays as it is."""

        def chosen(each: Tensor) -> Tensor:
            return each if len(each) == 1 else each[order]

        own = {
            "attention_mask": chosen(self.layer_arguments["attention_mask"]),
            "position_ids": chosen(self.position_ids),
            "position_embeddings": tuple(map(chosen, self.layer_arguments["position_embeddings"])),
        }
        return TrunkOutput(self.hidden_bsd[order], self.layer_arguments | own)


class ParallelHeads:
    """H heads of one decoder layer each, all on the trunk's output (arXiv 2404.19737), with one norm.

    The backbone's configuration counts trunk and heads: its last H layers are the heads, in order, and the others the
    trunk. So trunk and head 0, taken together, are a next-token model of the same names.

    Args:
        backbone: the decoder, with `layers` and `norm`.
        count: H.
    """

    def __init__(self, backbone: PreTrainedModel, count: int) -> None:
        self._backbone = backbone
        self._first = len(backbone.layers) - count
        self.attention_kind = layer_kinds(backbone.config)[-1]

    @staticmethod
    def on(base: PreTrainedConfig, count: int, placement: str) -> PreTrainedConfig:
        """The backbone's configuration for heads on a next-token model.

        Args:
            base: the next-token model's.
            count: H.
            placement: `append` takes its last layer for head 0 and appends H-1 like it, `replace` takes its last H.
        """
        return base if placement == "replace" else with_layers(base, base.num_hidden_layers + count - 1)

    @staticmethod
    def next_token(backbone: PreTrainedConfig, count: int) -> PreTrainedConfig:
        """The configuration of trunk and head 0 alone."""
        return with_layers(backbone, backbone.num_hidden_layers - count + 1)

    @property
    def trunk_layers(self) -> nn.ModuleList:
        """The layers below the heads."""
        layers: nn.ModuleList = self._backbone.layers
        return layers[: self._first]

    @property
    def layers(self) -> nn.ModuleList:
        """The layer of each head."""
        layers: nn.ModuleList = self._backbone.layers
        return layers[self._first :]

    def hidden(self, trunk: TrunkOutput, h: int) -> Tensor:
        """Normalised hidden states of head h, [B, S, D]."""
        layer = self._backbone.layers[self._first + h]
        hidden: Tensor = self._backbone.norm(layer(trunk.hidden_bsd, **trunk.layer_arguments))
        return hidden

    def head_of(self, name: str) -> int | None:
        """The head that a parameter or buffer of the causal model belongs to; None for what trunk or all share."""
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        return None if layer is None or int(layer[1]) < self._first else int(layer[1]) - self._first

    @torch.no_grad()
    def copy_head_0(self) -> None:
        """Start heads 1..H-1 as copies of head 0."""
        first, *others = self.layers
        for other in others:
            other.load_state_dict(first.state_dict())
