import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from refusals import refusal
from wmtp.config import Config, Recipe
from wmtp.data.corpus import Data, load_data

Read = Callable[..., Data]


@pytest.fixture
def read(make_recipe: Callable[..., Recipe], config: Config) -> Read:
    """`read(rows, validation, **changes)`: the data of rows of JSON lines, or of lines as they are."""

    def load(rows: Sequence[Any], validation: Sequence[Any] | None = None, **changes: Any) -> Data:
        for name, own in (("t.jsonl", rows), ("v.jsonl", validation)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in own or ()]
            Path(name).write_text("".join(line + "\n" for line in lines))
        small = {"data.source": "t.jsonl", "data.validation": 0.1 if validation is None else "v.jsonl"}
        return load_data(make_recipe(**(small | changes)), Path(config.paths.cache))

    return load


def plain(*names: str) -> list[Mapping[str, Any]]:
    return [{"text": name} for name in names]


def answered(*pairs: tuple[str, str]) -> list[Mapping[str, Any]]:
    return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]


TEXT = {"data.fields": {"text": "text", "prompt": None, "completion": None}}
WHOLE = plain("a whole text", "and another one")


@pytest.mark.parametrize("blank", ["", "   ", "\n\t\u3000"])
def test_texts_without_text_are_nothing_to_learn(blank: str, read: Read) -> None:
    assert refusal(read, plain(*[blank] * 40), WHOLE, **TEXT) == (
        "data.source t.jsonl, training: nothing to learn: left out 40 of 40 documents (100.0%): 40 without text"
    )
    assert refusal(read, WHOLE, plain(blank), **TEXT) == (
        "data.source t.jsonl, validation: nothing to learn: left out 1 of 1 documents (100.0%): 1 without text"
    )


def test_what_is_left_out_is_told_once(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    data = read(
        [*WHOLE, *plain("", " ", " ".join(map(str, range(60))))],
        plain("held out"),
        **TEXT,
        **{"data.overlong": "drop"},
    )
    expected = (
        "training: left out 3 of 5 documents (60.0%): 2 without text, 1 longer than data.sequence_length 64"
    )
    assert data.notes == [expected]
    assert capsys.readouterr().err == f"note: {expected}\n"


def test_empty_completions_teach_their_end_and_are_told(read: Read) -> None:
    rows = answered(("is it so? ", ""), ("what else? ", "so"))
    data = read(rows, answered(("and now? ", "no")))
    assert data.notes == ["training: 1 of 2 completions are empty: only their end is learnt"]
    assert data.train.supervised.sum() > 1
    end = data.train.offsets[1] - 1
    assert data.train.tokens[end] == data.tokenizer.eos_token_id
    assert data.train.supervised[:end].sum() == 0
    assert data.train.supervised[end]
    assert refusal(read, rows[:1], rows[1:]) == (
        "data.source t.jsonl: all 1 completions are empty; nothing to learn"
    )


def test_the_last_head_has_something_to_learn(read: Read) -> None:
    rows, changes = plain("one", "two three", "no"), {**TEXT, "data.vocab_size": 260}
    furthest = int(read(rows, WHOLE, **changes, **{"model.heads": 1}).train.lengths.max()) - 1
    assert furthest > 3
    read(rows, WHOLE, **changes, **{"model.heads": furthest})
    assert refusal(read, rows, WHOLE, **changes, **{"model.heads": furthest + 1}) == (
        f"model.heads {furthest + 1}: in no training document does a supervised token stand more than "
        f"{furthest} places behind the first, so the last head has nothing to learn; use fewer heads"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"text": "\\ud800 x", "n": 1}',
            "field 'text' (data.fields.text): character 1 is half of a surrogate pair",
        ),
        ('{"text": null, "n": 1}', "field 'text' (data.fields.text) should be text, not NoneType"),
        ('{"text": 3, "n": 1}', "field 'text' (data.fields.text) should be text, not int"),
        ('{"text": NaN, "n": 1}', "field 'text' (data.fields.text) should be text, not float"),
        ('{"text": ["x"], "n": 1}', "field 'text' (data.fields.text) should be text, not list"),
        ('{"txt": "x", "n": 1}', "no field 'text' (data.fields.text); it has txt, n"),
        ('{"text": "x"}', "no field 'n', which data.where asks for; it has text"),
        ('{"text": "x", "text": "y", "n": 1}', "the key 'text' occurs twice in an object"),
        ('{"text": "a\x00b", "n": 1}', "not JSON: Invalid control character at: line 1 column 12 (char 11)"),
        (f'{{"text": "x", "n": 1{"0" * 5000}}}', "not JSON: Exceeds the limit (4300 digits) for integer"),
    ],
)
def test_an_error_names_the_line_of_the_file(line: str, message: str, read: Read) -> None:
    """Behind blank lines, and behind rows that data.where leaves out."""
    rows = ["", '{"text": "a", "n": 0}', "  ", '{"text": "b", "n": 1}', "", line]
    found = refusal(read, rows, WHOLE, **TEXT, **{"data.where": {"n": 1}})
    assert found.startswith(f"t.jsonl, line 6: {message}")


def test_unusual_text_is_text(read: Read) -> None:
    lines = [
        '{"text": "a\\u0000b"}',
        '{"text": "\\ud83d\\ude00 x", "n": NaN}\r',
        '{"text": "\u2028\u0085 y"}',
    ]
    data = read(lines, WHOLE, **TEXT)
    ends = data.train.offsets[1:] - 1
    decoded = [
        data.tokenizer.decode(data.train.tokens[a:b]) for a, b in zip(data.train.offsets, ends, strict=False)
    ]
    assert decoded == ["a\x00b", "\U0001f600 x", "\u2028\u0085 y"]
