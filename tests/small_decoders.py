"""Models small enough to be decoded in every way there is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from wmtp.model.modeling import MTPConfig, MTPForCausalLM, initialise

VOCABULARY = 12


def build(
    *,
    architecture: str = "llama",
    trunk_layers: int = 1,
    heads: int = 3,
    attention_heads: int = 2,
    key_value_heads: int = 2,
    tied: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **backbone: Any,
) -> MTPForCausalLM:
    """Random weights, also in what is normally initialised to a constant: norms and biases."""
    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": trunk_layers + heads,
            "num_attention_heads": attention_heads,
            "num_key_value_heads": key_value_heads,
            "head_dim": 16 // attention_heads,
            "tie_word_embeddings": tied,
            "max_position_embeddings": 128,
            "sliding_window": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            **backbone,
        },
    )
    model = MTPForCausalLM(MTPConfig(config, heads=heads))
    initialise(model, seed, 0.4)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.empty(parameter.shape).normal_(generator=generator)
    return model.to(dtype).eval()


@pytest.fixture(scope="session")
def build_model() -> Callable[..., MTPForCausalLM]:
    return build


@pytest.fixture(scope="session")
def recompute() -> Callable[..., torch.Tensor]:
    """Logits [V] of a head after a sequence, everything computed anew."""

    def logits(model: MTPForCausalLM, sequence: list[int], head: int = 0) -> torch.Tensor:
        with torch.inference_mode():
            ids = torch.tensor([sequence], device=model.device)
            return model.lm_head(model.head(model.trunk(ids), head))[0, -1]

    return logits


@pytest.fixture(scope="session")
def count_upwards() -> Callable[[int], MTPForCausalLM]:
    """A model whose heads all know that token t is followed by t + 1, modulo the vocabulary."""

    def construct(heads: int) -> MTPForCausalLM:
        model = build(trunk_layers=0, heads=heads, hidden_size=VOCABULARY, intermediate_size=VOCABULARY)
        one_hot = torch.eye(VOCABULARY, dtype=torch.float64)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
            model.model.embed_tokens.weight.copy_(one_hot)
            model.lm_head.weight.copy_(one_hot.roll(1, 0))
            for h, layer in enumerate(model.model.layers[1:], start=1):
                layer.mlp.gate_proj.weight.copy_(one_hot)
                layer.mlp.up_proj.weight.copy_(one_hot)
                layer.mlp.down_proj.weight.copy_(10 * one_hot.roll(h, 0))
        return model

    return construct


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Twelve tokens for the models above: letters, pairs of them, white space, and the single bytes of é and €."""
    [(bytes_of_two, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
        "é€"
    )
    pieces = ["a", "b", "ab", "ba", "Ġ", "Ċa", "Ċ", *bytes_of_two]
    backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    assert backend.get_vocab_size() == VOCABULARY
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
