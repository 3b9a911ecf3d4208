"""What is not a causal language model as we can use it is refused in one line; fingerprints are of all weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from model.families import save, tokenizer
from refusals import refusal
from wmtp.config import Recipe, override
from wmtp.model.build import build_model, learner_config, load_reference
from wmtp.model.loading import load_causal_lm, model_fingerprint
from wmtp.model.twins import make_twin


def llama(**changes: object) -> PreTrainedModel:
    return make_twin(AutoConfig.for_model("llama", **changes))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def recipe(folder: Path, length: int = 32) -> Recipe:
    return Recipe.model_validate({"model": {"base_id": str(folder)}, "data": {"sequence_length": length}})


def quantised(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def broken(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def other_json(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def remote(folder: Path) -> None:
    change_config(folder, model_type="of-their-own", auto_map={"AutoConfig": "configuration.Own"})


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_shard(folder: Path) -> None:
    llama().save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    next(iter(folder.glob("model-00002-*"))).unlink()


def more_weights(folder: Path) -> None:
    llama(attention_bias=True).save_pretrained(folder)
    change_config(folder, attention_bias=False)


def classifier(folder: Path) -> None:
    change_config(folder, model_type="vit")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (quantised, r"has quantised weights \(quantization_config 'gptq' in config\.json\)"),
        (adapter, "holds a PEFT adapter"),
        (broken, "cannot be loaded: "),
        (other_json, "cannot be loaded: "),
        (remote, "cannot be loaded: "),
        (no_weights, "cannot be loaded: "),
        (no_shard, "cannot be loaded: "),
        (
            more_weights,
            "holds weights that LlamaForCausalLM has no place for: model.layers.0.self_attn.k_proj.bias",
        ),
        (classifier, "cannot be (loaded|split into trunk and heads): "),
    ],
)
def test_what_cannot_be_used_is_one_line(
    spoil: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    import re

    save(llama(), tmp_path)
    spoil(tmp_path)
    for use in (
        lambda: build_model(recipe(tmp_path), tokenizer()),
        lambda: load_reference(str(tmp_path), tokenizer(), 32),
    ):
        line = refusal(use)
        assert str(tmp_path) in line
        assert re.search(expected, line)


def test_the_heads_of_an_exported_model_are_kept(tmp_path: Path) -> None:
    save(llama(), tmp_path / "base")
    exported = build_model(recipe(tmp_path / "base"), tokenizer())
    for parameter in exported.model.layers[-1].parameters():
        parameter.data += 0.5
    save(exported, tmp_path / "heads")
    own = recipe(tmp_path / "heads")
    learner = build_model(own, tokenizer())
    assert learner.config.heads == own.model.heads == 4
    for (name, found), expected in zip(learner.named_parameters(), exported.parameters(), strict=True):
        assert torch.equal(found, expected), name
    fewer = override(own, {"model.heads": 2}, "test")
    for use in (learner_config, build_model):
        expected_line = "has 4 heads; set model.heads=4 to keep them, or give its next-token model"
        assert expected_line in refusal(use, fewer, tokenizer())


def test_a_model_of_one_head_gets_more(tmp_path: Path) -> None:
    save(llama(), tmp_path / "base")
    save(
        build_model(override(recipe(tmp_path / "base"), {"model.heads": 1}, "test"), tokenizer()),
        tmp_path / "one",
    )
    more, plain = (build_model(recipe(tmp_path / name), tokenizer()) for name in ("one", "base"))
    assert more.config.heads == 4
    for (name, found), expected in zip(more.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, expected), name


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        (None, 40),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, 80),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 20}, 80),
    ],
)
def test_longer_documents_than_the_model_has_positions(rope: object, limit: int, tmp_path: Path) -> None:
    save(llama(max_position_embeddings=40, rope_parameters=rope), tmp_path)
    learner_config(recipe(tmp_path, limit), tokenizer())
    load_reference(str(tmp_path), tokenizer(), limit)
    expected = f"documents of up to {limit} tokens"
    assert expected in refusal(learner_config, recipe(tmp_path, limit + 1), tokenizer())
    assert expected in refusal(load_reference, str(tmp_path), tokenizer(), limit + 1)


def test_every_file_of_weights_is_in_the_fingerprint(tmp_path: Path) -> None:
    save(llama(), tmp_path)
    found = {model_fingerprint(str(tmp_path))}
    for name in ("pytorch_model.bin", "weights.pt", "model.gguf", "pytorch_model.bin.index.json"):
        for content in (b"1", b"2"):
            (tmp_path / name).write_bytes(content)
            found.add(model_fingerprint(str(tmp_path)))
    assert len(found) == 9
    for name in ("training_args.bin", "optimizer.pt", "README.md", "generation_config.json"):
        (tmp_path / name).write_bytes(b"other")
        assert model_fingerprint(str(tmp_path)) in found


def test_a_pickled_model_is_read_and_told_from_another(tmp_path: Path) -> None:
    model = llama()
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    first = model_fingerprint(str(tmp_path))
    loaded = load_causal_lm(str(tmp_path), "key")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert model_fingerprint(str(tmp_path)) != first


def test_a_reference_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    line = refusal(load_reference, str(tmp_path), tokenizer(), 32)
    assert "tokenizer" in line
