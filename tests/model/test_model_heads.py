"""The heads against a forward in plain arithmetic, and nobody else knows where they lie."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig

import wmtp
from small_models import mtp_model
from wmtp.config import Recipe
from wmtp.data.dataset import Counts, TokenDataset
from wmtp.data.loader import Batch
from wmtp.decode.generate import Block, generate
from wmtp.decode.options import DecodeOptions
from wmtp.evaluate.heads import measure_heads
from wmtp.model import modeling
from wmtp.model.heads import ParallelHeads, TrunkOutput
from wmtp.model.modeling import MTPConfig, MTPForCausalLM
from wmtp.model.packed import packed_trunk
from wmtp.train.module import WeightedMTP

LENGTHS = ((4, 6, 3), (7, 5))
"""Of the documents in each row; what is left of a row is padding."""
WIDTH, HEADS, LAYERS = 13, 3, 5


def packed_rows() -> Batch:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 50, (len(LENGTHS), WIDTH), generator=generator)
    documents, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths, start=1):
            documents[row, start : start + length] = number
            positions[row, start : start + length] = torch.arange(length)
            start += length
    return Batch(ids, documents, positions, documents > 0, torch.arange(ids.numel()).view_as(ids))


def one_document() -> TokenDataset:
    tokens, start = np.arange(2, 12, dtype=np.int32), np.zeros(1, np.int64)
    return TokenDataset(
        tokens, tokens > 0, np.array([0, len(tokens)]), start, start, "none", Counts(1, len(tokens))
    )


def norm(x_sd: Tensor, scale_d: Tensor, epsilon: float) -> Tensor:
    return x_sd / (x_sd.square().mean(-1, keepdim=True) + epsilon).sqrt() * scale_d


def turned(x_sa: Tensor, theta: float) -> Tensor:
    """Each pair (i, i + half) of a vector as a complex number, turned by position * theta^(-2i/size)."""
    size = x_sa.shape[-1]
    angles = torch.arange(len(x_sa)).double()[:, None] * theta ** (-torch.arange(0, size, 2).double() / size)
    pairs = torch.complex(*x_sa.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], -1)


def layer(weights: dict[str, Tensor], number: int, x_sd: Tensor, config: Any) -> Tensor:
    """One layer of a Llama on one document, head by head and position by position."""

    def of(name: str) -> Tensor:
        return weights[f"model.layers.{number}.{name}.weight"]

    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    theta, epsilon = config.rope_parameters["rope_theta"], config.rms_norm_eps
    normed = norm(x_sd, of("input_layernorm"), epsilon)
    queries, keys, values = (
        (normed @ of(f"self_attn.{part}_proj").T).split(size, -1) for part in ("q", "k", "v")
    )
    mixed = []
    for head in range(heads):
        group = head * groups // heads
        q, k = turned(queries[head], theta), turned(keys[group], theta)
        rows = [
            torch.softmax(k[: s + 1] @ q[s] / size**0.5, 0) @ values[group][: s + 1] for s in range(len(q))
        ]
        mixed.append(torch.stack(rows))
    x_sd = x_sd + torch.cat(mixed, -1) @ of("self_attn.o_proj").T
    normed = norm(x_sd, of("post_attention_layernorm"), epsilon)
    gate, up = normed @ of("mlp.gate_proj").T, normed @ of("mlp.up_proj").T
    return x_sd + (F.silu(gate) * up) @ of("mlp.down_proj").T


@torch.no_grad()
def test_heads_are_one_layer_each_on_the_trunk_of_each_packed_document() -> None:
    model = mtp_model(heads=HEADS, layers=LAYERS).double()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += torch.linspace(-0.3, 0.3, len(parameter)).double()
    config, weights, batch = model.config.backbone, model.state_dict(), packed_rows()
    trunk = packed_trunk(model, batch)
    found = [model.head(trunk, h) for h in range(HEADS)]
    for row, lengths in enumerate(LENGTHS):
        for number, length in enumerate(lengths, start=1):
            own = batch.document_ids[row] == number
            hidden = weights["model.embed_tokens.weight"][batch.ids[row, own]]
            for below in range(LAYERS - HEADS):
                hidden = layer(weights, below, hidden, config)
            assert len(hidden) == length
            for h in range(HEADS):
                above = layer(weights, LAYERS - HEADS + h, hidden, config)
                expected = norm(above, weights["model.norm.weight"], config.rms_norm_eps)
                # Angles are float32 in transformers.
                torch.testing.assert_close(found[h][row, own], expected, rtol=0, atol=2e-6)


def test_head_of_names_exactly_the_parameters_that_a_head_alone_learns_through() -> None:
    model, ids = mtp_model(heads=HEADS, layers=LAYERS), torch.arange(2, 9)[None]
    alone = dict.fromkeys(range(HEADS), 0)
    for h in range(HEADS):
        model.zero_grad(set_to_none=True)
        model.head(model.trunk(ids), h).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == (model.heads.head_of(name) in (None, h)), name
            alone[h] += parameter.numel() * (model.heads.head_of(name) == h)
    assert alone == {h: sum(p.numel() for p in own.parameters()) for h, own in enumerate(model.heads.layers)}


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_next_token_models_configuration_comes_back_from_that_of_its_heads(heads: int) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    base = AutoConfig.for_model("qwen3", num_hidden_layers=3, layer_types=kinds, sliding_window=4)
    config = MTPConfig.with_heads(base, heads)
    assert config.backbone.layer_types == kinds + ["sliding_attention"] * (heads - 1)
    assert config.next_token().to_dict() == base.to_dict()


def test_heads_in_place_of_layers_leave_their_number() -> None:
    base = AutoConfig.for_model("llama", num_hidden_layers=5)
    config = MTPConfig.with_heads(base, 3, "replace")
    assert config.backbone.num_hidden_layers == 5
    assert config.next_token().num_hidden_layers == 3


def test_some_rows_of_the_trunk_are_the_trunk_of_those_rows() -> None:
    model, batch = mtp_model(heads=2).double(), packed_rows()
    order = torch.tensor([1, 0])
    chosen = packed_trunk(model, batch).rows(order)
    alone = packed_trunk(model, Batch(*(each[order] for each in vars(batch).values() if len(each))))
    assert torch.equal(chosen.position_ids, alone.position_ids)
    for h in range(2):
        torch.testing.assert_close(model.head(chosen, h), model.head(alone, h), rtol=0, atol=1e-12)


class OtherOrder(ParallelHeads):
    """Heads 1 and 2 lie in each other's places."""

    places = (0, 2, 1)

    @property
    def layers(self) -> Any:
        return [super(OtherOrder, self).layers[place] for place in self.places]

    def hidden(self, trunk: TrunkOutput, h: int) -> Tensor:
        return super().hidden(trunk, self.places[h])

    def head_of(self, name: str) -> int | None:
        place = super().head_of(name)
        return None if place is None else self.places.index(place)


def test_training_measuring_and_drafting_find_the_heads_wherever_they_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = mtp_model(heads=HEADS, layers=LAYERS).double()
    monkeypatch.setattr(modeling, "ParallelHeads", OtherOrder)
    other = MTPForCausalLM(model.config).double().eval()
    other.load_state_dict({_exchanged(name): value for name, value in model.state_dict().items()})

    assert _used(other) == pytest.approx(_used(model), rel=1e-12)
    expected = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[_exchanged(name)], rtol=0, atol=1e-12)
    for heads in (2, 3):
        assert _drafts(other, heads) == _drafts(model, heads)


def _drafts(model: MTPForCausalLM, heads: int) -> list[tuple[int, Block]]:
    blocks: list[tuple[int, Block]] = []
    prompts = [[3, 4, 5], [7] * 9, [9, 8]]
    generate(model, prompts, DecodeOptions(9, heads=heads), on_block=lambda *each: blocks.append(each))
    assert len({block.drafts[-1] for _, block in blocks if block.drafts}) > 2
    return blocks


def _exchanged(name: str) -> str:
    """The name where heads 1 and 2, layers 3 and 4, are in each other's places."""
    return name.translate(str.maketrans("34", "43"))


def _used(model: MTPForCausalLM) -> list[float]:
    """The loss of a step, whose gradients are kept, and what is measured of each head."""
    recipe = Recipe.model_validate({"model": {"heads": HEADS}, "data": {"sequence_length": WIDTH}})
    module, batch = WeightedMTP(model, recipe, compute_dtype=torch.float64), packed_rows()
    loss = module(batch, **module.prepare([batch], 0)[0]).loss
    loss.backward()
    measured = measure_heads(model, one_document(), sequence_length=WIDTH, batch_size=1)
    return [loss.item(), *(each.ce or 0.0 for each in measured)]


def _places_of_heads(tree: ast.AST) -> list[str]:
    """Where a module picks layers by number, counts with their number, or spells their names."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="layers", value=owner)):
                is_known = isinstance(owner, ast.Attribute) and owner.attr == "heads"
                found += [] if is_known else [ast.unparse(node)]
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                text = ast.unparse(node)
                found += [text] if "num_hidden_layers" in text or ".layers" in text else []
            case ast.Constant(value=str(text)) if "layers." in text.split(" ")[0]:
                found.append(text)
    return found


def test_no_other_file_knows_which_layers_the_heads_are() -> None:
    source = Path(wmtp.__file__).parent
    found = {
        str(path.relative_to(source)): places
        for path in source.rglob("*.py")
        if (places := _places_of_heads(ast.parse(path.read_text())))
    }
    assert found.keys() == {"model/heads.py"}
