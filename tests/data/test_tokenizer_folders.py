"""Folders whose named tokens or vocabulary are missing, and what others read from folders that are written."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from wmtp.data.tokenizer import _train, choose_document_start, encode_prompts, load_tokenizer
from wmtp.errors import WMTPError
from wmtp.storage import read_json, write_json


def written(folder: Path, **named: str) -> str:
    """A folder with a byte-level tokenizer, and these tokens in its tokenizer_config.json."""
    _train(["def f(x): return x in 2024"] * 3, 300).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    write_json(settings, read_json(settings) | named)
    return str(folder)


@pytest.mark.parametrize("kind", ["eos_token", "bos_token"])
def test_a_named_token_that_is_not_in_the_vocabulary_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        WMTPError, match=rf"^data\.tokenizer .*: its {kind} '</s>' is not in its tokenizer\.json$"
    ):
        load_tokenizer(written(tmp_path, **{kind: "</s>"}))


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer of one that holds the configuration of a qwen2 model alone."""
    AutoConfig.for_model("qwen2").save_pretrained(tmp_path)
    with pytest.raises(WMTPError, match=r"^data\.tokenizer .*: holds no vocabulary \(tokenizer\.json\)$"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_others_frame_texts_as_documents_begin(tmp_path: Path, own: bool, bos: bool) -> None:
    """Whatever the tokenizer that was given puts in front of a text."""
    tokenizer = load_tokenizer(written(tmp_path / "given", bos_token="<|pad|>"))
    choose_document_start(tokenizer, own)
    tokenizer.init_kwargs.pop("document_start")
    tokenizer.save_pretrained(tmp_path / "base")
    base: PreTrainedTokenizerFast = load_tokenizer(str(tmp_path / "base"))
    choose_document_start(base, bos)
    base.save_pretrained(tmp_path / "written")
    read = AutoTokenizer.from_pretrained(tmp_path / "written")
    assert [read("x in")["input_ids"]] == encode_prompts(base, ["x in"])
    assert (read("x in")["input_ids"][0] == read.bos_token_id) is bos
