from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import _train, encode
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.stopping import StopStrings
from wmtp.errors import WMTPError

TEXT = "def f(x):\n    return x\n\nprint(f('é'))\n# 中文 🙂 naïve\nclass A:\n    pass\nif x: y = 'ß'\n" * 3


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    return _train([TEXT], vocab_size=300)


@pytest.fixture(scope="module")
def with_byte_fallback() -> PreTrainedTokenizerFast:
    """As SentencePiece models are: a space before each word, single bytes for what is not in the vocabulary."""
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁▁",
        "▁def",
        "def",
        "a",
        "b",
        "▁b",
        ":",
    ]
    backend = Tokenizer(
        models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


def naive_end(
    tokenizer: PreTrainedTokenizerFast, strings: Sequence[str], tokens: Sequence[int]
) -> int | None:
    """By definition: decode ever more tokens behind a prompt and look for the strings."""
    prompt = tokenizer.convert_tokens_to_ids("a")
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode([prompt, *tokens[:count]])[1:]
        if any(text.find(each) >= 0 for each in strings):
            return count
    return None


def check_blocks(
    tokenizer: PreTrainedTokenizerFast, strings: list[str], tokens: list[int], block: int
) -> None:
    """The same end is found at once and block by block."""
    stop = StopStrings(tokenizer, strings)
    expected = naive_end(tokenizer, strings, tokens)
    assert stop.end(tokens) == expected
    for known in range(0, len(tokens), block):
        found = stop.end(tokens[: known + block], known)
        if found is not None:
            break
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(data=st.data(), block=st.integers(1, 5))
def test_the_end_is_where_decoding_everything_finds_a_stop(byte_level, data, block):
    """Pieces of text, and also tokens in an order that makes no text."""
    begin = data.draw(st.integers(0, len(TEXT) // 3))
    length = data.draw(st.integers(1, 40))
    noise = st.lists(st.integers(0, 299), max_size=8)
    [tokens] = encode(byte_level, [TEXT[begin : begin + length]])
    tokens = [*data.draw(noise), *tokens, *data.draw(noise)]
    text = byte_level.decode(tokens)
    place = st.integers(0, max(0, len(text) - 1))
    inside = st.tuples(place, st.integers(1, 6)).map(lambda at: text[at[0] : at[0] + at[1]])
    strings = data.draw(st.lists(inside | st.text("\nabdef :é中", min_size=1), min_size=1, max_size=3))
    check_blocks(byte_level, strings, tokens, block)


@settings(max_examples=150, deadline=None)
@given(
    tokens=st.lists(
        st.sampled_from([11, 196, 170, 229, 185, 174, *range(257, 265)]), min_size=1, max_size=14
    ),
    strings=st.lists(st.text(" adefb:\né", min_size=1, max_size=4), min_size=1, max_size=3),
    block=st.integers(1, 4),
)
def test_tokens_with_a_space_before_and_single_bytes(with_byte_fallback, tokens, strings, block):
    check_blocks(with_byte_fallback, strings, tokens, block)


def test_a_stop_that_ends_with_the_space_before_a_word(with_byte_fallback):
    letter, word = with_byte_fallback.convert_tokens_to_ids(["a", "▁def"])
    assert with_byte_fallback.decode([word]) == "def"
    assert StopStrings(with_byte_fallback, ["a "]).end([letter, word]) == 2
    assert StopStrings(with_byte_fallback, [" def"]).end([word]) == 1


def test_a_stop_that_begins_and_ends_within_tokens(byte_level):
    tokens = encode(byte_level, ["print(f('é'))\nclass A:"])[0]
    stop = StopStrings(byte_level, ["\ncl"])
    end = stop.end(tokens)
    assert end is not None
    kept = byte_level.decode(tokens[:end])
    assert "\ncl" in kept
    assert "\ncl" not in byte_level.decode(tokens[: end - 1])
    assert stop.cut(kept) == "print(f('é'))"


def test_text_is_cut_at_the_first_of_the_stops():
    stop = StopStrings(_train([TEXT], 300), ["\nif", "\nclass", "#"])
    assert stop.cut("a\nclass B\nif # c") == "a"
    assert stop.cut("nothing\n") == "nothing\n"
    assert stop.cut("#") == ""
    assert StopStrings(_train([TEXT], 300), []).cut("a#") == "a#"


def test_an_empty_stop_is_refused(byte_level):
    with pytest.raises(WMTPError, match=r"^stop strings: one of them is empty"):
        StopStrings(byte_level, ["\n", ""])


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 1.0]),
    max_new_tokens=st.integers(1, 17),
    data=st.data(),
)
def test_every_way_of_decoding_ends_at_the_stop(
    build_model, tokenizer, prompts, seed, temperature, max_new_tokens, data
):
    """Rows are those of decoding without stops, cut where all that was decoded first contains one."""
    model = build_model(heads=4, seed=seed)
    heads = data.draw(st.sampled_from([1, None]))
    options = DecodeOptions(max_new_tokens, temperature=temperature, seed=seed, heads=heads)
    free = generate(model, prompts, options).tokens
    occurring = sorted({token for row in free for token in row})
    eos_ids = data.draw(st.sets(st.sampled_from(occurring), max_size=3))
    text = tokenizer.decode(data.draw(st.sampled_from(free)))
    inside = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 4)).map(
        lambda at: text[at[0] : at[0] + at[1]]
    )
    strings = data.draw(st.lists(inside, min_size=1, max_size=3))
    expected = []
    for row in free:
        ended = next((place for place, token in enumerate(row) if token in eos_ids), None)
        stopped = naive_end(tokenizer, strings, row[:ended])
        reason = "stop" if stopped is not None else "length" if ended is None else "eos"
        expected.append((row[: ended if stopped is None else stopped], reason))
    stop = StopStrings(tokenizer, strings)
    batch_size = data.draw(st.integers(1, len(prompts)))
    found = generate(model, prompts, replace(options, eos_ids=eos_ids, stop=stop, batch_size=batch_size))
    assert list(zip(found.tokens, found.stops, strict=True)) == expected
    with_eos = [
        finished and naive_end(tokenizer, strings, row) is None
        for row, finished in zip(found.tokens, found.finished, strict=True)
    ]
    assert found.generated == sum(map(len, found.tokens)) + sum(with_eos)


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9), min_size=1, max_size=6),
    strings=st.lists(st.text("ab \né€", min_size=1, max_size=3), min_size=1, max_size=3),
    eos_ids=st.sets(st.integers(0, 11), max_size=3),
    seed=st.integers(0, 1000),
    batch_size=st.integers(1, 6),
)
def test_speculative_decoding_stops_where_greedy_decoding_does(
    build_model, tokenizer, prompts, strings, eos_ids, seed, batch_size
):
    model = build_model(heads=4, seed=seed)
    options = DecodeOptions(17, eos_ids, stop=StopStrings(tokenizer, strings))
    greedy = generate(model, prompts, options)
    found = generate(model, prompts, replace(options, heads=None, batch_size=batch_size))
    assert (found.tokens, found.stops, found.generated) == (
        greedy.tokens,
        greedy.stops,
        greedy.generated,
    )
