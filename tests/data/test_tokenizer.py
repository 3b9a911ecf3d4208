"""Completions as they stand behind their prompts, for tokenizers with and without a space of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from spaced_tokenizer import spaced_tokenizer
from wmtp.data.dataset import Document, tokenise
from wmtp.data.tokenizer import _train, decode_completion, encode, encode_completions
from wmtp.errors import WMTPError

SPACED, BYTES = spaced_tokenizer(), _train(["def f(x): return x + 1"] * 3, 300)
texts = st.text("  \n\taxyre=€é", max_size=12)


def test_a_space_is_neither_lost_nor_added() -> None:
    [tokens] = encode_completions(SPACED, ["def f(x):\n"], ["    y = x\n"])
    assert SPACED.convert_ids_to_tokens(tokens) == ["▁▁▁▁", "y", "▁=", "▁x", "<0x0A>"]
    assert decode_completion(SPACED, tokens) == "    y = x\n"
    assert SPACED.decode(tokens) == "   y = x\n"


@pytest.mark.parametrize("tokenizer", [SPACED, BYTES], ids=["spaced", "bytes"])
@given(prompt=texts, completion=texts)
def test_prompt_and_completion_decode_together(
    tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    [before] = encode(tokenizer, [prompt])
    [after] = encode_completions(tokenizer, [prompt], [completion])
    assert tokenizer.decode([*before, *after]) == prompt + completion
    if prompt:
        assert decode_completion(tokenizer, after) == completion


@given(prompt=texts, completion=texts, noise=st.lists(st.integers(0, 299), max_size=12))
def test_a_byte_level_tokenizers_tokens_and_texts_stay_as_they_were(
    prompt: str, completion: str, noise: list[int]
) -> None:
    assert encode_completions(BYTES, [prompt], [completion]) == encode(BYTES, [completion])
    assert decode_completion(BYTES, noise) == BYTES.decode(noise)


def test_documents_are_trained_on_as_they_are_prompted_and_decoded() -> None:
    documents = [Document("def f(x):", "\n    ret x"), Document("", "ret x")]
    dataset = tokenise(documents, SPACED, 64, "error")
    first, second = (dataset.tokens[slice(*dataset.offsets[i : i + 2])].tolist() for i in range(2))
    [prompt] = encode(SPACED, ["def f(x):"])
    assert first[: len(prompt)] == prompt
    assert SPACED.convert_ids_to_tokens(first[len(prompt) :]) == ["<0x0A>", "▁▁▁▁", "ret", "▁x", "</s>"]
    assert dataset.supervised[: len(first)].tolist() == [False] * len(prompt) + [True] * 5
    assert SPACED.convert_ids_to_tokens(second) == ["▁ret", "▁x", "</s>"]


def test_a_completion_that_cannot_be_told_from_what_is_before_it_is_refused() -> None:
    """Without single bytes the tokenizer drops what it does not know, and joins what is around it."""
    backend = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2, "</s>": 3}, [("▁", "a")]))
    backend.normalizer = normalizers.Prepend("▁")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    with pytest.raises(WMTPError, match=r"^data\.tokenizer: joins the beginning of a completion .*'aa'"):
        encode_completions(tokenizer, ["a"], ["aa"])
    assert encode_completions(tokenizer, [""], ["aa"]) == encode(tokenizer, ["aa"])
