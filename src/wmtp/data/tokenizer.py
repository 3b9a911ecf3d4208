"""A byte-level BPE trained on the data, or any tokenizer of transformers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from wmtp.errors import WMTPError, one_line
from wmtp.storage import new_directory, sha256_text

END, PADDING = "<|end|>", "<|pad|>"
_ANCHOR = "\ue000"  # for private use, so that no token holds it together with what comes after it


def train_tokenizer(texts: Sequence[str], vocab_size: int, cache: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab_size` entries, from `cache` when it was trained on these texts before."""
    fingerprint = sha256_text(f"byte-level-bpe {vocab_size}", *texts)[:16]
    directory = cache / "tokenizers" / fingerprint
    if not directory.exists():
        with new_directory(directory) as aside:
            _train(texts, vocab_size).save_pretrained(aside)
    return load_tokenizer(str(directory))


def _train(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, clean_up_tokenization_spaces=False
    )


def load_tokenizer(location: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub name.

    Raises:
        WMTPError: there is none, it is not a fast one, or it has no end-of-text token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise WMTPError(f"data.tokenizer {location!r}: cannot be loaded: {one_line(error)}") from None
    if not tokenizer.is_fast:
        raise WMTPError(f"data.tokenizer {location!r}: needs a tokenizer.json (a fast tokenizer)")
    if tokenizer.eos_token_id is None:
        raise WMTPError(f"data.tokenizer {location!r}: has no end-of-text token (eos_token)")
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hex digest of everything that decides which ids a text gets."""
    return sha256_text(tokenizer.backend_tokenizer.to_str(), str(tokenizer.eos_token_id))


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def completion_anchor(tokenizer: PreTrainedTokenizerFast) -> str:
    """The text behind which completions are encoded: none unless the tokenizer puts a space before every text.

    SentencePiece's do, which is right where a document begins and wrong where it goes on.
    """
    [letter] = encode(tokenizer, ["a"])
    return "" if tokenizer.decode([*letter, *letter]) == "aa" else _ANCHOR


def encode_completions(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], completions: Sequence[str]
) -> list[list[int]]:
    """Token ids of each completion as it stands behind its prompt; behind an empty one a document begins.

    Raises:
        WMTPError: the tokens of a completion cannot be told from those of what stands before it.
    """
    anchor = completion_anchor(tokenizer)
    [before] = encode(tokenizer, [anchor])
    anchored = [bool(anchor and prompt) for prompt in prompts]
    texts = [anchor + text if behind else text for behind, text in zip(anchored, completions, strict=True)]
    found = encode(tokenizer, texts)
    for row, behind in enumerate(anchored):
        if behind and found[row][: len(before)] != before:
            raise WMTPError(
                f"data.tokenizer: joins the beginning of a completion with what stands before it "
                f"({completions[row][:20]!r}); use a tokenizer with byte fallback"
            )
    return [ids[len(before) :] if behind else ids for behind, ids in zip(anchored, found, strict=True)]


def decode_completion(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    """The text of tokens that stand behind a prompt, with the space that SentencePiece's lose where a text begins."""
    [letter] = encode(tokenizer, ["a"])
    before: str = tokenizer.decode(letter)
    text: str = tokenizer.decode([*letter, *tokens])
    return text[len(before) :]
