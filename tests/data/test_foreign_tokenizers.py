"""Tokenizers that other people made: nothing saved with them acts, and what cannot be right is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from refusals import refusal
from spaced_tokenizer import spaced_tokenizer
from wmtp.config import Config
from wmtp.data.corpus import load_data
from wmtp.data.dataset import Document, tokenise
from wmtp.data.tokenizer import (
    END,
    _train,
    choose_document_start,
    decode,
    document_start,
    encode,
    encode_prompts,
    load_tokenizer,
    places_in_text,
    tokenizer_fingerprint,
    train_tokenizer,
    vocabulary_size,
)
from wmtp.data.tokenizer_checks import check_as_exported, check_round_trip
from wmtp.errors import WMTPError
from wmtp.model.build import learner_config
from wmtp.train.run import plan, train

TEXTS = ["def f(x): return x + 2024  # don't"] * 3
TEXT = "f(2024) says don't, twice. " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    _train(TEXTS, 300).save_pretrained(place)
    return place


def changed(folder: Path, place: Path, file: str = "tokenizer.json", **changes: Any) -> str:
    """A copy of a tokenizer's folder with keys of one of its files changed; None removes one."""
    shutil.copytree(folder, place)
    values = json.loads((place / file).read_text()) | changes
    (place / file).write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return str(place)


def ids(tokenizer: Any, text: str) -> list[int]:
    return encode(tokenizer, [text])[0]


TRUNCATION = {"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 900},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 1,
    "pad_type_id": 0,
    "pad_token": "<|pad|>",
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": END, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": END, "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
}


@pytest.mark.parametrize(
    "state",
    [{"truncation": TRUNCATION}, {"padding": PADDING}, {"post_processor": TEMPLATE}, {"dropout": 0.9}],
)
def test_nothing_that_is_saved_beside_the_vocabulary_acts(
    folder: Path, tmp_path: Path, state: dict[str, Any]
) -> None:
    clean = load_tokenizer(str(folder))
    if "dropout" in state:
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        state = {"model": model | state}
    saved = load_tokenizer(changed(folder, tmp_path / "saved", **state))
    assert ids(saved, TEXT) == ids(clean, TEXT)
    assert len(ids(saved, TEXT)) > 100
    saved.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    assert again["truncation"] is None
    assert again["padding"] is None
    assert ids(load_tokenizer(str(tmp_path / "again")), TEXT) == ids(clean, TEXT)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_we_train_is_what_others_read_beside_the_model(architecture: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300, tmp_path, architecture)
    check_as_exported(tokenizer, AutoConfig.for_model(architecture))
    AutoConfig.for_model(architecture).save_pretrained(tmp_path / "export")
    tokenizer.save_pretrained(tmp_path / "export")
    read = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert read(TEXT)["input_ids"] == ids(tokenizer, TEXT)
    assert vocabulary_size(read) == vocabulary_size(tokenizer)


def test_a_tokenizer_that_others_read_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    line = refusal(check_as_exported, load_tokenizer(str(folder)), AutoConfig.for_model("qwen2"))
    assert "AutoTokenizer reads it as Qwen2Tokenizer and gives other ids for '2024,'" in line
    shutil.copytree(folder, tmp_path / "beside")
    AutoConfig.for_model("qwen2").save_pretrained(tmp_path / "beside")
    line = refusal(load_tokenizer, str(tmp_path / "beside"))
    assert "gives other ids for '2024,' than its tokenizer.json" in line


def test_an_architecture_that_would_read_the_tokenizer_otherwise_is_refused_before_training(
    folder: Path, make_recipe: Any, config: Config
) -> None:
    recipe = make_recipe(**{"data.tokenizer": str(folder), "model.architecture": "qwen2"})
    assert "beside a model of type qwen2" in refusal(plan, recipe, config)


@pytest.mark.parametrize("tokenizer", [_train(TEXTS, 300), spaced_tokenizer()], ids=["bytes", "spaced"])
@given(text=st.text("ab <|end|>/s\n", max_size=20), where=st.integers(0, 20))
def test_text_never_becomes_a_control_token(
    tokenizer: PreTrainedTokenizerFast, text: str, where: int
) -> None:
    text = text[:where] + tokenizer.eos_token + text[where:]
    found = ids(tokenizer, text)
    assert tokenizer.eos_token_id not in found
    assert decode(tokenizer, found).removeprefix(" ") == text.removeprefix(" ")


def test_documents_end_once_whatever_they_speak_of(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    dataset = tokenise([Document(f"What is {END}?", f"{END} ends.{END}")], tokenizer, 64, "error")
    assert dataset.tokens.tolist().count(tokenizer.eos_token_id) == 1
    assert dataset.tokens[-1] == tokenizer.eos_token_id
    places = places_in_text(tokenizer, f"a{END}b")
    assert [start for start, _ in places] == list(range(len(places)))


def test_text_that_cannot_be_spelt_is_refused_with_its_place() -> None:
    backend = Tokenizer(models.WordLevel({"[unk]": 0, "</s>": 1, "a": 2}, unk_token="[unk]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="[unk]")
    assert ids(tokenizer, "a b") == [2, 0]
    line = refusal(encode, tokenizer, ["a", "a </s> a"], ["rows.jsonl, line 1", "rows.jsonl, line 2"])
    assert line.startswith("rows.jsonl, line 2: holds '</s>', a control token")


def lower_casing(vocab: dict[str, int]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(vocab, [], unk_token="?"))
    backend.normalizer = normalizers.Lowercase()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="?")


def test_a_tokenizer_that_changes_texts_is_refused_unless_allowed() -> None:
    vocab = {letter: i for i, letter in enumerate("? abcdef")} | {"</s>": 20}
    tokenizer = lower_casing(vocab)
    texts = ["abc", "a Bad cab", "fadxed"]
    rows = [Document("", text, f"rows.jsonl, line {i}") for i, text in enumerate(texts, start=1)]
    line = refusal(check_round_trip, tokenizer, rows, False)
    assert "2 of 3 texts that were tried do not come back" in line
    assert "rows.jsonl, line 2: 'a Bad cab' becomes 'a bad cab'" in line
    assert line.endswith("set data.allow_lossy: true")
    assert check_round_trip(tokenizer, rows, True) == line.partition("; take another")[0]
    assert check_round_trip(tokenizer, rows[:1], False) is None


def test_what_a_completion_alone_loses_is_seen() -> None:
    backend = _train(TEXTS, 300).backend_tokenizer
    backend.normalizer = normalizers.Strip()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)
    line = refusal(check_round_trip, tokenizer, [Document("def f(x):", "\n    return x", "the row")], False)
    assert "'def f(x):\\n    return ' becomes 'def f(x):return x'" in line


@pytest.mark.parametrize("tokenizer", [_train(TEXTS, 300), spaced_tokenizer()], ids=["bytes", "spaced"])
@given(texts=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=5))
def test_whole_tokenizers_raise_no_false_alarm(
    tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, str]]
) -> None:
    documents = [Document(*(text.encode("utf-8", "ignore").decode() for text in pair)) for pair in texts]
    assert check_round_trip(tokenizer, documents, False) is None


def test_an_added_token_keeps_its_id_or_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["<far>"])
    tokenizer.save_pretrained(tmp_path / "near")
    assert load_tokenizer(str(tmp_path / "near")).convert_tokens_to_ids("<far>") == len(tokenizer) - 1
    added = json.loads((tmp_path / "near" / "tokenizer.json").read_text())["added_tokens"]
    added[-1]["id"] = 900
    place = changed(tmp_path / "near", tmp_path / "far", added_tokens=added)
    assert "its added token '<far>' is read as id" in refusal(load_tokenizer, place)


def test_a_lossy_tokenizer_stops_a_run_before_it_begins(make_recipe: Any, tmp_path: Path) -> None:
    vocab = {letter: i for i, letter in enumerate("? adotne0123456789:+=")} | {"</s>": 40}
    lower_casing(vocab).save_pretrained(tmp_path / "lossy")
    rows = [{"prompt": f"Add {i}: ", "completion": f"{i}"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.tokenizer": str(tmp_path / "lossy"), "data.source": str(tmp_path / "rows.jsonl")}
    assert "'Add 0: 0' becomes 'add 0: 0'" in refusal(load_data, make_recipe(**changes), tmp_path)
    data = load_data(make_recipe(**changes, **{"data.allow_lossy": True}), tmp_path)
    assert len(data.train) == 16


def test_the_vocabulary_reaches_to_the_greatest_id() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "b": 500}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="b")
    assert len(tokenizer) == 2
    assert vocabulary_size(tokenizer) == 501


def test_a_model_of_its_own_has_room_for_the_greatest_id(make_recipe: Any, tmp_path: Path) -> None:
    backend = _train(TEXTS, 300).backend_tokenizer
    values = json.loads(backend.to_str())
    values["model"]["vocab"]["gap"] = 1000
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(values)), eos_token=END
    )
    assert learner_config(make_recipe(), tokenizer).backbone.vocab_size == 1001


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[1]"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}'),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": 3, "model": {"type": "No"}}'),
        ("tokenizer.json", "\x00\xff"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'),
        ("tokenizer_config.json", '{"eos_token": 7}'),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}'),
    ],
)
def test_damaged_files_are_one_line(folder: Path, tmp_path: Path, file: str, content: str) -> None:
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / file).write_text(content)
    assert refusal(load_tokenizer, str(tmp_path / "damaged")).startswith("data.tokenizer '")


@pytest.mark.parametrize(
    "key", ["added_tokens", "model", "pre_tokenizer", "decoder", "version", "normalizer"]
)
def test_a_missing_part_is_one_line_or_makes_no_difference(folder: Path, tmp_path: Path, key: str) -> None:
    place = changed(folder, tmp_path / "without", **{key: None})
    try:
        tokenizer = load_tokenizer(place)
        check_round_trip(tokenizer, [Document("", text) for text in TEXTS], False)
    except WMTPError:
        return
    assert decode(tokenizer, ids(tokenizer, TEXT)) == TEXT


def beginning() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose calls begin every text with `<s>`."""
    backend = _train(TEXTS, 300).backend_tokenizer
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    first = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", first)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=END)


@pytest.mark.parametrize(("bos", "is_there"), [("auto", True), (True, True), (False, False)])
def test_documents_and_prompts_begin_as_asked(bos: Any, is_there: bool, tmp_path: Path) -> None:
    tokenizer = beginning()
    assert document_start(tokenizer) == []
    without = tokenizer_fingerprint(tokenizer)
    choose_document_start(tokenizer, bos)
    start = [tokenizer.bos_token_id] if is_there else []
    assert document_start(tokenizer) == start
    assert (tokenizer_fingerprint(tokenizer) == without) is not is_there
    [prompt] = encode_prompts(tokenizer, ["f(x)"])
    assert prompt == [*start, *ids(tokenizer, "f(x)")]
    if bos == "auto":
        assert prompt == tokenizer("f(x)")["input_ids"]
    dataset = tokenise([Document("", "f(x)")], tokenizer, 64, "error")
    assert dataset.tokens.tolist() == [*prompt, tokenizer.eos_token_id]
    tokenizer.save_pretrained(tmp_path / "kept")
    again = load_tokenizer(str(tmp_path / "kept"))
    choose_document_start(again, "auto")
    assert document_start(again) == start


def test_every_piece_of_a_split_document_begins_so_and_it_is_no_target() -> None:
    tokenizer = beginning()
    choose_document_start(tokenizer, "auto")
    whole = [*ids(tokenizer, TEXT), tokenizer.eos_token_id]
    dataset = tokenise([Document("", TEXT)], tokenizer, 17, "split")
    pieces = [
        dataset.tokens[a:b].tolist() for a, b in zip(dataset.offsets, dataset.offsets[1:], strict=False)
    ]
    assert all(piece[0] == tokenizer.bos_token_id for piece in pieces)
    assert all(len(piece) == 17 for piece in pieces[:-1])
    assert [id_ for piece in pieces for id_ in piece[1:]] == whole
    assert not dataset.supervised[dataset.offsets[:-1]].any()


def test_a_start_that_the_tokenizer_does_not_have_is_refused() -> None:
    line = refusal(choose_document_start, _train(TEXTS, 300), True)
    assert line == "data.bos true: the tokenizer has no token that begins a text (bos_token)"
    tokenizer = _train(TEXTS, 300)
    choose_document_start(tokenizer, "auto")
    assert document_start(tokenizer) == []


def test_decoding_cleans_nothing_up() -> None:
    tokenizer = _train(TEXTS, 300)
    tokenizer.clean_up_tokenization_spaces = True
    text = "' '.join(x) , y . z n't"
    assert decode(tokenizer, ids(tokenizer, text)) == text


def test_runs_keep_how_documents_begin(make_recipe: Any, config: Config, tmp_path: Path) -> None:
    beginning().save_pretrained(tmp_path / "tokenizer")
    recipe = make_recipe(**{"data.tokenizer": str(tmp_path / "tokenizer"), "train.steps": 3})
    last = train(recipe, config, tmp_path / "run")
    kept = load_tokenizer(str(last))
    assert document_start(kept) == [kept.bos_token_id]
