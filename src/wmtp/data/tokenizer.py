"""A byte-level BPE trained on the data, or any tokenizer of transformers; texts to token ids and back.

Ids do not depend on what is saved with a tokenizer beside its vocabulary: no truncation, padding, dropout or added
tokens. Text never becomes a control token: `<|end|>` in a text is encoded like any other text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.utils import cached_file

from wmtp.errors import WMTPError, one_line
from wmtp.storage import new_directory, sha256_text

END, PADDING = "<|end|>", "<|pad|>"
_ANCHOR = "\ue000"  # for private use, so that no token holds it together with what comes after it
_START = "document_start"  # key of tokenizer_config.json: the ids in front of every document

PROBES = (
    "The year 2024, 3.14 and 1,000,000; x1 = 0x7f\n",
    "def f(x):\n    if x != 2:\n\t\treturn f'{x!r}'  # don't, we'll see\n\n\n",
    "  two spaces, a tab\t, and one at the end ",
    "Größe, naïve, Ελλάδα, Привет, שלום, नमस्ते, 漢字かな交じり文、한국어",
    "e\u0301 \u00e9 \ufb01 \u2460 \u00bd 𝒳 👩‍👩‍👧 🙂\u200b\u00a0",
    "CamelCase snake_case kebab-case https://example.org/?q=a%20b&c=[1]",
    "A\r\nB\rC \u2028 <s> </s> <|endoftext|> [CLS] <unk>",
)
"""Probes: two tokenizers that give the same ids for these texts count as the same."""


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, cache: Path, architecture: str = "llama"
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab_size` entries, from `cache` when it was trained on these texts before.

    Args:
        architecture: of the model that is to be exported with it: AutoTokenizer reads every tokenizer beside a qwen2
            model as Qwen2's class does, so that one is split into words in its way.
    """
    kind = "byte-level-bpe" if architecture != "qwen2" else "byte-level-bpe qwen2"
    fingerprint = sha256_text(f"{kind} {vocab_size}", *texts)[:16]
    directory = cache / "tokenizers" / fingerprint
    if not directory.exists():
        with new_directory(directory) as aside:
            _train(texts, vocab_size, architecture).save_pretrained(aside)
    return load_tokenizer(str(directory))


def _train(texts: Iterable[str], vocab_size: int, architecture: str = "llama") -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    unknown = None
    if architecture == "qwen2":
        model_for = Qwen2Tokenizer().backend_tokenizer
        tokenizer.normalizer, tokenizer.pre_tokenizer = model_for.normalizer, model_for.pre_tokenizer
        unknown = END  # as Qwen2's, whose class adds a token of its own where none is named
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(location: str, key: str = "data.tokenizer") -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub name, as AutoTokenizer reads it, without truncation, padding and dropout.

    Args:
        key: the setting that names it, for errors.
    Raises:
        WMTPError: there is none, it is damaged, it is not a fast one, it has no end-of-text token, or AutoTokenizer
            gives other ids than its tokenizer.json.
    """
    name = f"{key} {location!r}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        file = cached_file(location, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        written = Tokenizer.from_file(str(file)) if file is not None else None
        added = json.loads(Path(file).read_bytes())["added_tokens"] if file is not None else []
    except (
        Exception
    ) as error:  # the parsers of tokenizer files raise errors of all kinds, Exception itself too
        raise WMTPError(f"{name}: cannot be loaded: {type(error).__name__}: {one_line(error)}") from None
    if not tokenizer.is_fast:
        raise WMTPError(f"{name}: needs a tokenizer.json (a fast tokenizer)")
    if tokenizer.eos_token_id is None:
        raise WMTPError(f"{name}: has no end-of-text token (eos_token)")
    if not any(_has_file(location, file_name) for file_name in tokenizer.vocab_files_names.values()):
        raise WMTPError(f"{name}: holds no vocabulary (tokenizer.json)")
    _without_saved_state(tokenizer.backend_tokenizer)
    if written is not None:
        _without_saved_state(written)
        _compare_with_file(name, tokenizer, written, {token["content"]: token["id"] for token in added})
    return tokenizer


def _compare_with_file(
    name: str, tokenizer: PreTrainedTokenizerFast, written: Tokenizer, added: Mapping[str, int]
) -> None:
    """Refuse a tokenizer that is not what its tokenizer.json says.

    Args:
        name: of the tokenizer, for errors.
        written: as the file alone gives it.
        added: ids of the added tokens in the file.
    """
    for kind in ("eos_token", "bos_token"):
        token = getattr(tokenizer, kind)
        if token is not None and written.token_to_id(token) is None:
            raise WMTPError(f"{name}: its {kind} {token!r} is not in its tokenizer.json")
    for token, id_ in added.items():
        if (found := tokenizer.backend_tokenizer.token_to_id(token)) != id_:
            raise WMTPError(
                f"{name}: its added token {token!r} is read as id {found}, not {id_} (tokenizer.json)"
            )
    text = first_difference(tokenizer.backend_tokenizer, written)
    if text is not None:
        raise WMTPError(
            f"{name}: AutoTokenizer reads it as {type(tokenizer).__name__} and gives other ids for {text!r} than "
            f"its tokenizer.json; correct tokenizer_class in tokenizer_config.json, or model_type in config.json"
        )


def _has_file(location: str, name: str) -> bool:
    return cached_file(location, name, _raise_exceptions_for_missing_entries=False) is not None


def _without_saved_state(backend: Tokenizer) -> None:
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None


def first_difference(one: Tokenizer, other: Tokenizer, texts: Sequence[str] = PROBES) -> str | None:
    """The first piece of text for which two tokenizers give different ids; None if they agree."""

    def differs(text: str) -> bool:
        return _spelt(one, [text])[0].ids != _spelt(other, [text])[0].ids

    for text in filter(differs, texts):
        return next(filter(differs, text.split()), text)
    return None


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex digest of everything that decides a document's ids, but not of what other tools put around it."""
    start, backend = document_start(tokenizer), tokenizer.backend_tokenizer
    frame = backend.post_processor
    backend.post_processor = _frame(None)
    pipeline = backend.to_str()
    backend.post_processor = frame
    return sha256_text(pipeline, str(tokenizer.eos_token_id), *([f"start {start}"] if start else []))


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """One more than the greatest id; ids may have gaps, so that there may be fewer tokens."""
    return max(map(int, tokenizer.get_vocab().values())) + 1


@lru_cache(maxsize=8)
def control_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Ids that stand for no text: special tokens, except the one for unknown text."""
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {*special, *tokenizer.all_special_ids}
    if tokenizer.unk_token not in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token):
        named.discard(tokenizer.unk_token_id)
    return frozenset(named)


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], places: Sequence[str] | None = None
) -> list[list[int]]:
    """Token ids of each text, without special tokens; what looks like one is encoded as text.

    Args:
        places: where each text comes from, for errors.
    Raises:
        WMTPError: a text holds a control token that the tokenizer cannot spell.
    """
    found = [encoding.ids for encoding in _spelt(tokenizer.backend_tokenizer, texts)]
    control = control_ids(tokenizer)
    for row, ids in enumerate(found):
        if not control.isdisjoint(ids):
            token = tokenizer.convert_ids_to_tokens(next(id_ for id_ in ids if id_ in control))
            raise WMTPError(
                f"{places[row] if places else f'text {texts[row][:40]!r}'}: holds {token!r}, a control token that "
                f"the tokenizer (data.tokenizer) cannot write as text; take it out"
            )
    return found


def places_in_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[int, int]]:
    """Place of each token that `encode` gives: [start, end) in characters of the text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    offsets: list[tuple[int, int]] = backend.encode(text, add_special_tokens=False).offsets
    return offsets


def _spelt(backend: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    backend.encode_special_tokens = True  # transformers sets it anew with every call of its own
    encodings: list[Encoding] = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return encodings


def choose_document_start(tokenizer: PreTrainedTokenizerFast, bos: bool | Literal["auto"]) -> None:
    """Decide which ids begin every document, and store them with the tokenizer (`document_start`).

    Calls with special tokens, as others make them, then give the same start and nothing else.

    Args:
        bos: whether it is the token that begins a text; auto as it was decided before, else as the tokenizer does
            when it is called with special tokens.
    Raises:
        WMTPError: it should be there, and the tokenizer has none.
    """
    first = tokenizer.bos_token_id
    if bos is True and first is None:
        raise WMTPError("data.bos true: the tokenizer has no token that begins a text (bos_token)")
    if bos == "auto":
        if _START in tokenizer.init_kwargs:
            return
        ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
        bos = first is not None and ids[:1] == [first]
    tokenizer.init_kwargs[_START] = [int(first)] if bos else []
    tokenizer.backend_tokenizer.post_processor = _frame(
        (str(tokenizer.bos_token), int(first)) if bos else None
    )


def _frame(token: tuple[str, int] | None) -> processors.TemplateProcessing:
    """Post-processor that puts only this token in front of a text when special tokens are asked for."""
    if token is None:
        return processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    name = token[0]
    return processors.TemplateProcessing(
        single=f"{name}:0 $A:0", pair=f"{name}:0 $A:0 {name}:1 $B:1", special_tokens=[token]
    )


def document_start(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids that begin every document, in training, evaluation and generation alike."""
    return list(tokenizer.init_kwargs.get(_START, []))


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts at the start of a document."""
    start = document_start(tokenizer)
    return [[*start, *ids] for ids in encode(tokenizer, prompts)]


def decode(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    """Text of the tokens, without clean-up."""
    text: str = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    return text


def completion_anchor(tokenizer: PreTrainedTokenizerFast) -> str:
    """The text after which completions are encoded; empty unless the tokenizer puts a space before every text.
    SentencePiece does, which is right at the start of a document and wrong after it.
    """
    [letter] = encode(tokenizer, ["a"])
    return "" if decode(tokenizer, [*letter, *letter]) == "aa" else _ANCHOR


def encode_completions(
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    completions: Sequence[str],
    places: Sequence[str] | None = None,
) -> list[list[int]]:
    """Token ids of each completion after its prompt; after an empty prompt a document begins.

    Raises:
        WMTPError: a completion holds a control token that cannot be spelt, or its tokens cannot be told from those
            of what stands before it.
    """
    anchor = completion_anchor(tokenizer)
    [before] = encode(tokenizer, [anchor])
    anchored = [bool(anchor and prompt) for prompt in prompts]
    texts = [anchor + text if behind else text for behind, text in zip(anchored, completions, strict=True)]
    found = encode(tokenizer, texts, places)
    for row, behind in enumerate(anchored):
        if behind and found[row][: len(before)] != before:
            raise WMTPError(
                f"data.tokenizer: joins the beginning of a completion with what stands before it "
                f"({completions[row][:20]!r}); use a tokenizer with byte fallback"
            )
    return [ids[len(before) :] if behind else ids for behind, ids in zip(anchored, found, strict=True)]


def decode_completion(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    """Text of tokens that follow a prompt, with the leading space that SentencePiece drops from a text."""
    [letter] = encode(tokenizer, ["a"])
    before = decode(tokenizer, letter)
    return decode(tokenizer, [*letter, *tokens])[len(before) :]
