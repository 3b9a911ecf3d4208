"""Models out of checkpoints: loaded here, and exported for other tools."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from refusals import refusal
from small_models import mtp_model
from wmtp.checkpoint.writer import CheckpointWriter
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import WMTPError
from wmtp.model.export import export, next_token_model
from wmtp.model.loading import load_causal_lm, model_fingerprint
from wmtp.model.modeling import MTPForCausalLM

KINDS = ("llama", "mistral", "qwen2", "qwen3")
IDS = torch.arange(2, 20).reshape(2, 9)


def make(kind: str = "llama", **options: Any) -> MTPForCausalLM:
    return mtp_model(kind, layers=5, vocabulary=300, **options)


def save(model: MTPForCausalLM, run: Path, step: int = 1) -> Path:
    tokenizer = train_tokenizer(
        ["some text to learn from"], 300, run.parent / "cache", model.config.backbone.model_type
    )

    def files(folder: Path) -> None:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    writer = CheckpointWriter(run, keep=1, keep_every=None, in_background=False, group=None)
    training = {"rng.0": torch.get_rng_state()}
    writer.save(step, model=dict(model.named_parameters()), training=training, state={}, files=files)
    saved = writer.wait()
    assert saved is not None
    return saved


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_is_loaded_as_it_was(kind: str, tied: bool, tmp_path: Path) -> None:
    model = make(kind, tied=tied)
    saved, before = save(model, tmp_path / "run"), torch.get_rng_state()
    loaded = load_causal_lm(str(saved), "key")
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(loaded, MTPForCausalLM)
    assert loaded.dtype == torch.float32
    assert not loaded.training
    loaded.config.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (saved / "config.json").read_bytes()
    assert (loaded.unembedding is loaded.model.embed_tokens.weight) == tied
    for h in range(3):
        assert torch.equal(model.head(model.trunk(IDS), h), loaded.head(loaded.trunk(IDS), h))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_head_0_is_exported_as_a_plain_model(kind: str, tied: bool, tmp_path: Path) -> None:
    model = make(kind, tied=tied)
    folder = export(save(model, tmp_path / "run"), tmp_path / "plain", next_token_only=True)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.config.model_type == kind
    assert plain.config.num_hidden_layers == len(plain.model.layers) == 3
    assert len(getattr(plain.config, "layer_types", None) or [None] * 3) == 3
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == tied
    assert torch.equal(plain(IDS).logits, model(IDS).logits)
    unsaved = next_token_model(model)
    assert (unsaved.lm_head.weight is unsaved.model.embed_tokens.weight) == tied
    assert torch.equal(unsaved(IDS).logits, model(IDS).logits)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|end|>"
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.slow
def test_a_plain_model_needs_nothing_of_this_package(tmp_path: Path) -> None:
    model = make()
    folder = export(save(model, tmp_path / "run"), tmp_path / "plain", next_token_only=True)
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM\n"
        f"logits = AutoModelForCausalLM.from_pretrained({str(folder)!r})(torch.arange(2, 20).reshape(2, 9)).logits\n"
        "assert not any(name.startswith('wmtp') for name in sys.modules)\n"
        f"torch.save(logits.detach(), {str(tmp_path / 'logits.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    torch.testing.assert_close(
        torch.load(tmp_path / "logits.pt"), model(IDS).logits.detach(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("tied", [True, False])
def test_all_heads_are_exported_and_once_more(tied: bool, tmp_path: Path) -> None:
    model = make(tied=tied)
    folder = export(save(model, tmp_path / "run"), tmp_path / "deep" / "mtp", next_token_only=False)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(loaded, MTPForCausalLM)
    for h in range(3):
        assert torch.equal(model.head(model.trunk(IDS), h), loaded.head(loaded.trunk(IDS), h))
    plain = export(folder, tmp_path / "plain", next_token_only=True)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(plain)(IDS).logits, model(IDS).logits)


def test_what_is_there_is_not_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    saved = save(make(), tmp_path / "run")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for taken in ("taken", "taken/file"):
        with pytest.raises(WMTPError, match="there is something already; export into a new folder"):
            export(saved, tmp_path / taken, next_token_only=False)
    (tmp_path / "empty").mkdir()
    export(saved, tmp_path / "empty", next_token_only=False)
    plain = export(saved, tmp_path / "plain", next_token_only=True)
    with pytest.raises(WMTPError, match="plain: not a multi-token prediction model"):
        export(plain, tmp_path / "again", next_token_only=True)
    (saved / "tokenizer.json").unlink()
    (saved / "tokenizer_config.json").unlink()
    with pytest.raises(WMTPError):
        export(saved, tmp_path / "again", next_token_only=True)
    assert not (tmp_path / "again").exists()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    saved = save(make(), tmp_path / "run")
    monkeypatch.setattr(MTPForCausalLM, "save_pretrained", full)
    with pytest.raises(WMTPError, match=r"out: cannot be written: .*No space left on device"):
        export(saved, tmp_path / "out", next_token_only=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_a_checkpoint_itself(tied: bool, tmp_path: Path) -> None:
    model = make(tied=tied)
    saved = save(model, tmp_path / "run")
    read, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert isinstance(read, MTPForCausalLM)
    assert not any(report.values())
    parameters = dict(read.named_parameters())
    assert parameters.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(parameters[name], tensor) for name, tensor in model.named_parameters())
    assert AutoTokenizer.from_pretrained(saved)("some text").input_ids


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00001.safetensors"])
def test_a_damaged_checkpoint_is_one_line(name: str, tmp_path: Path) -> None:
    saved = save(make(), tmp_path / "run")
    content = (saved / name).read_bytes()
    for damaged in (content[: len(content) // 2], None):
        (saved / name).unlink()
        if damaged is not None:
            (saved / name).write_bytes(damaged)
        with pytest.raises(WMTPError, match=r"key '.*step-00000001': (cannot be loaded|damaged): ") as caught:
            load_causal_lm(str(saved), "key")
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    saved = save(make(), tmp_path / "run")
    values = json.loads((saved / "config.json").read_text())
    values["backbone"]["num_hidden_layers"] = 6
    values["backbone"].pop("layer_types", None)
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(WMTPError, match=r"damaged: no usable weights for model\.layers\.5"):
        load_causal_lm(str(saved), "key")


def test_a_fingerprint_is_of_the_weights_and_the_configuration(tmp_path: Path) -> None:
    first = model_fingerprint(str(save(make(), tmp_path / "a")))
    assert first == model_fingerprint(str(save(make(), tmp_path / "b", step=2)))
    others = [make(seed=2), make(tied=False)]
    found = [model_fingerprint(str(save(m, tmp_path / str(i)))) for i, m in enumerate(others)]
    assert len({first, *found}) == 3


def test_an_export_whose_tokenizer_others_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    saved = save(make("qwen2"), tmp_path / "run")
    train_tokenizer(["some text"], 300, tmp_path / "cache").save_pretrained(saved)
    line = refusal(export, saved, tmp_path / "plain", next_token_only=True)
    assert "AutoTokenizer reads it as Qwen2Tokenizer" in line
    assert not (tmp_path / "plain").exists()
