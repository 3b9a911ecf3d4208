"""Where generation ends: with every token that the base model ended with, from wrapping to export."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from small_models import small_model
from wmtp.data.tokenizer import train_tokenizer
from wmtp.decode.ends import end_tokens
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.model.ends import keep_ends
from wmtp.model.export import next_token_model
from wmtp.model.modeling import MTPConfig, MTPForCausalLM


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    found = train_tokenizer(["def f(x):\n    return x\n"] * 3, 260, tmp_path / "cache")
    found.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    return found


def test_ends_are_the_tokenizers_and_the_models_control_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    model = small_model(1, len(tokenizer))
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id}
    turn, word = len(tokenizer) - 1, 100
    model.generation_config.eos_token_id = [turn, word]
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id, turn}
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = turn
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id, turn}


@pytest.mark.parametrize("ids", [[3, 5, 7], 5, None])
def test_a_base_models_ends_are_in_the_export(
    build_model: Callable[..., MTPForCausalLM], tmp_path: Path, ids: list[int] | int | None
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "generation_config.json").write_text(
        json.dumps({"eos_token_id": ids, "temperature": 0.3, "do_sample": True})
    )
    config = keep_ends(build_model().config, str(base))
    model = MTPForCausalLM(MTPConfig.from_dict(config.to_dict()))
    next_token_model(model).save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "whole")
    config.save_pretrained(tmp_path / "checkpoint")
    assert AutoConfig.from_pretrained(tmp_path / "checkpoint").eos_token_id == ids
    for name in ("plain", "whole"):
        read = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert read.generation_config.eos_token_id == ids
        assert read.config.eos_token_id == ids
    found = generate(
        model, [[1, 2]], DecodeOptions(20, eos_ids=ids if isinstance(ids, list) else [ids or -1])
    )
    options = {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 0}
    theirs = read.generate(
        torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2, dtype=torch.long), **options
    )
    assert theirs[0, 2:].tolist()[: len(found.tokens[0])] == found.tokens[0]
    assert len(theirs[0]) - 2 == len(found.tokens[0]) + found.finished[0]


def test_without_a_generation_config_the_configuration_stays(
    build_model: Callable[..., MTPForCausalLM], tmp_path: Path
) -> None:
    config = build_model(eos_token_id=4).config
    assert keep_ends(config, str(tmp_path)).eos_token_id == 4
