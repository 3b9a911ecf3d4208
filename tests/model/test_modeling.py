from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from small_models import mtp_model
from wmtp.config import Recipe
from wmtp.data.tokenizer import _train
from wmtp.errors import WMTPError
from wmtp.model.attention import document_mask
from wmtp.model.build import build_model, empty_model, learner_config
from wmtp.model.modeling import MTPConfig, MTPForCausalLM, initialise

SMALL = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "eos_token_id": 0,
}
KINDS = ("llama", "mistral", "qwen2", "qwen3")


def make(kind: str = "llama", **options: Any) -> MTPForCausalLM:
    return mtp_model(kind, **options).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_by_transformers_is_the_same(kind: str, tied: bool, tmp_path: Path) -> None:
    model, ids = make(kind, tied=tied), torch.randint(2, 50, (2, 9))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(again, MTPForCausalLM)
    assert again.config.heads == 3
    assert (again.unembedding.data_ptr() == again.model.embed_tokens.weight.data_ptr()) == tied
    for h in range(3):
        assert torch.equal(model.head(model.trunk(ids), h), again.head(again.trunk(ids), h))


@pytest.mark.parametrize("kind", KINDS)
def test_trunk_and_head_0_are_the_next_token_model_of_transformers(kind: str) -> None:
    model, ids = make(kind, heads=3, layers=5), torch.randint(2, 50, (2, 9))
    config = type(model.config.backbone).from_dict(
        model.config.backbone.to_dict() | {"num_hidden_layers": 3, "layer_types": None}
    )
    plain = AutoModelForCausalLM.from_config(config).double().eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=0, atol=1e-12)


def test_head_h_is_its_own_layer_on_the_same_trunk() -> None:
    model, ids = make(heads=3, layers=4), torch.randint(2, 50, (2, 9))
    logits = [model.head(model.trunk(ids), h) @ model.unembedding.T for h in range(3)]
    model.heads.layers[2].mlp.down_proj.weight.data.mul_(2)
    after = [model.head(model.trunk(ids), h) @ model.unembedding.T for h in range(3)]
    assert torch.equal(logits[0], after[0])
    assert torch.equal(logits[1], after[1])
    assert not torch.equal(logits[2], after[2])


def test_generate_with_and_without_cache_and_with_padding() -> None:
    model, ids = make(), torch.randint(2, 50, (1, 6))
    options = {"max_new_tokens": 8, "do_sample": False}
    cached = model.generate(ids, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    padded = torch.cat([torch.ones(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    assert torch.equal(cached, model.generate(padded, attention_mask=mask, **options)[:, 3:])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_do_not_see_each_other(attention: str, device: str) -> None:
    model = make().to(device)
    model.set_attn_implementation(attention)
    documents = [torch.randint(2, 50, (1, n), device=device) for n in (4, 6, 3)]
    ids = torch.cat([*documents, torch.ones(1, 2, dtype=torch.long, device=device)], 1)
    document_ids = torch.tensor([[1] * 4 + [2] * 6 + [3] * 3 + [0] * 2], device=device)
    position_ids = torch.tensor([[*range(4), *range(6), *range(3), 0, 0]], device=device)
    packed = model.trunk(ids, mask=document_mask(document_ids), position_ids=position_ids)
    for h in range(3):
        hidden = model.head(packed, h)
        assert hidden.isfinite().all()
        parts = hidden[:, :13].split([4, 6, 3], 1)
        for part, document in zip(parts, documents, strict=True):
            alone = model.head(model.trunk(document), h)
            # transformers' eager attention takes its softmax in float32, whatever the dtype: a few roundings a layer.
            float32 = 32 * torch.finfo(torch.float32).eps * float(alone.detach().abs().max())
            torch.testing.assert_close(part, alone, rtol=0, atol=float32 if attention == "eager" else 1e-12)


def test_a_loaded_model_changes_its_attention_whatever_it_was_saved_with(tmp_path: Path) -> None:
    model = make()
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    again.set_attn_implementation("eager")
    assert again.config.backbone._attn_implementation == "eager"


def test_packed_rows_in_bf16_stay_close_to_float64(device: str) -> None:
    model = make("qwen3").to(device)
    ids = torch.randint(2, 50, (2, 128), device=device)
    document_ids = (torch.arange(128, device=device) // 40 + 1).expand(2, -1)
    position_ids = (torch.arange(128, device=device) % 40).expand(2, -1)
    packed = {"mask": document_mask(document_ids), "position_ids": position_ids}
    with torch.no_grad():
        exact = [model.head(model.trunk(ids, **packed), h) for h in range(3)]
        model.float()
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            trunk = model.trunk(ids, **packed)
            low = [model.head(trunk, h) for h in range(3)]
    for found, expected in zip(low, exact, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 3e-2


def test_models_of_one_seed_share_trunk_and_head_0_whatever_the_heads() -> None:
    one, four = make(heads=1, layers=3).state_dict(), make(heads=4, layers=6).state_dict()
    assert all(torch.equal(value, four[name]) for name, value in one.items())
    other = make(heads=1, layers=3)
    initialise(other, seed=2, std=0.2)
    assert not torch.equal(other.state_dict()["lm_head.weight"], one["lm_head.weight"])


def test_copy_head_0() -> None:
    model, ids = make(heads=3), torch.randint(2, 50, (1, 5))
    model.heads.copy_head_0()
    trunk = model.trunk(ids)
    assert torch.equal(model.head(trunk, 0), model.head(trunk, 2))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_without_storage_has_the_shapes_ties_and_buffers_of_a_real_one(tied: bool) -> None:
    real = make(tied=tied).float()
    empty = empty_model(real.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    shapes = [[(name, p.shape, p.dtype) for name, p in each.named_parameters()] for each in (empty, real)]
    assert shapes[0] == shapes[1]
    assert (empty.lm_head.weight is empty.model.embed_tokens.weight) == tied
    for (name, buffer), (same, expected) in zip(empty.named_buffers(), real.named_buffers(), strict=True):
        assert name == same
        assert torch.equal(buffer, expected)


def test_labels_give_the_shifted_loss_of_causal_models() -> None:
    model, ids = make(), torch.randint(2, 50, (2, 7))
    output = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
    )
    assert float(output.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_logits_to_keep() -> None:
    model, ids = make(), torch.randint(2, 50, (2, 7))
    assert torch.allclose(model(ids, logits_to_keep=1).logits, model(ids).logits[:, -1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_a_rotation_that_depends_on_what_is_read_is_refused(rope_type: str, tmp_path: Path) -> None:
    rope = {"rope_type": rope_type, "factor": 2.0, "rope_theta": 10000.0}
    if rope_type == "longrope":
        rope |= {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 1024,
        }
    base = AutoConfig.for_model("llama", **SMALL, rope_parameters=rope)
    AutoModelForCausalLM.from_config(base).save_pretrained(tmp_path)
    recipe = Recipe.model_validate({"model": {"base_id": str(tmp_path)}})
    tokenizer = _train(["a"], 258)
    expected = f"its config.json has rope_type '{rope_type}'"
    for build in (build_model, learner_config):
        with pytest.raises(WMTPError, match=expected):
            build(recipe, tokenizer)
    with pytest.raises(WMTPError, match=expected):
        MTPConfig(base)


@pytest.mark.parametrize("rope_type", ["default", "linear", "yarn", "llama3"])
def test_other_rotations_are_taken(rope_type: str) -> None:
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}
    rope = {"rope_type": rope_type, "factor": 2.0, "rope_theta": 10000.0} | (
        more if rope_type == "llama3" else {}
    )
    assert MTPConfig(AutoConfig.for_model("llama", **SMALL, rope_parameters=rope)).heads == 1
