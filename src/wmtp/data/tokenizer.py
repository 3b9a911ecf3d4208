"""A byte-level BPE trained on the data, or any tokenizer of transformers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from wmtp.errors import WMTPError, one_line
from wmtp.storage import new_directory, sha256_text

END, PADDING = "<|end|>", "<|pad|>"


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
