import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from spaced_tokenizer import spaced_tokenizer
from wmtp.cli.generation import BlockStream
from wmtp.decode.generate import Block, generate
from wmtp.decode.options import DecodeOptions

END = 12
GREEN, STRUCK, RESET = "\x1b[1;32m", "\x1b[9;31m", "\x1b[0m"


def shown(tokenizer, blocks: list[Block], *, terminal: bool) -> str:
    """What a console gets, with its control sequences."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system="standard" if terminal else "auto", width=5
    )
    stream = BlockStream(console, tokenizer, {END})
    for block in blocks:
        stream.add(block)
    return file.getvalue()


def test_accepted_drafts_are_green_and_refused_ones_struck_out_before_what_replaced_them(tokenizer):
    blocks = [Block([], 0, 0), Block([1, 2, 3], 1, 0), Block([4, 0, 0], 3, 1)]
    text = shown(tokenizer, blocks, terminal=True)
    assert text == (f"a{GREEN}b{RESET}{STRUCK}abba{RESET}a{GREEN} {RESET}{GREEN}a{RESET}{GREEN}a{RESET}b")


def test_elsewhere_than_on_a_terminal_there_is_only_the_text(tokenizer):
    blocks = [Block([], 0, 0), Block([1, 2, 3], 1, 0), Block([5, 0, 0], 3, 1)]
    assert shown(tokenizer, blocks, terminal=False) == "aba\naaab"


def test_a_character_of_several_tokens_is_shown_whole_and_the_end_not_at_all(tokenizer):
    e, acute, *euro = range(7, 12)
    blocks = [Block([], 0, e), Block([acute, *euro[:2]], 3, euro[2]), Block([0, END, 1], 2, None)]
    assert shown(tokenizer, blocks, terminal=False) == "é€a"
    assert shown(tokenizer, blocks, terminal=True) == f"{GREEN}é{RESET}€{GREEN}a{RESET}"


def test_the_prompt_comes_dimmed_before_the_first_block(tokenizer):
    file = io.StringIO()
    stream = BlockStream(
        Console(file=file, force_terminal=True, color_system="standard"), tokenizer, {END}, "[b]"
    )
    assert file.getvalue() == ""
    stream.add(Block([], 0, 0))
    stream.add(Block([], 0, 1))
    assert file.getvalue() == f"\x1b[2m[b]{RESET}ab"


def test_the_space_before_the_first_word_is_shown():
    tokenizer = spaced_tokenizer()
    space, equals, x = tokenizer.convert_tokens_to_ids(["▁▁▁▁", "▁=", "▁x"])
    assert shown(tokenizer, [Block([], 0, space), Block([x], 1, None)], terminal=False) == "     x"
    text = shown(tokenizer, [Block([equals], 0, x)], terminal=True)
    assert text == f"{STRUCK} ={RESET} x"


def test_refused_parts_of_a_character_are_not_shown(tokenizer):
    assert shown(tokenizer, [Block([], 0, 0), Block([7, 9], 0, 1)], terminal=True) == "ab"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 200), temperature=st.sampled_from([0.0, 1.0]))
def test_what_is_shown_is_what_was_generated(build_model, tokenizer, seed, temperature):
    model = build_model(heads=3, seed=seed)
    blocks: list[Block] = []
    found = generate(
        model,
        [[0, 1]],
        DecodeOptions(12, temperature=temperature, heads=None),
        on_block=lambda _, block: blocks.append(block),
    )
    text = tokenizer.decode(found.tokens[0])
    assert shown(tokenizer, blocks, terminal=False) == text.rstrip("\N{REPLACEMENT CHARACTER}")
