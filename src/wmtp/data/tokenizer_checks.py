"""Checks a tokenizer before training: texts survive encoding, and other tools read it the same way."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from wmtp.data.dataset import Document
from wmtp.data.tokenizer import decode, encode, encode_completions, first_difference
from wmtp.errors import WMTPError

SAMPLE, LENGTH = 200, 10_000
"""Number of texts tried, and of characters of each."""
_SHOWN = 12


def check_round_trip(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], allow_lossy: bool
) -> str | None:
    """Compare a sample of documents with their text after encoding and decoding.

    A space in front, which some tokenizers add to every text, and the composition of accents (NFC) do not count.

    Args:
        documents: all there are; a sample of them, evenly spread, is tried.
        allow_lossy: whether texts may change.
    Returns:
        What changes, in a line; None if nothing does.
    Raises:
        WMTPError: texts change, and may not.
    """
    tried = documents[:: max(1, len(documents) // SAMPLE)]
    places = [document.place for document in tried]
    prompts, completions = ([text[:LENGTH] for text in part] for part in _parts(tried))
    before = encode(tokenizer, prompts, places)
    behind = encode_completions(tokenizer, prompts, completions, places)
    changed = []
    for row, place in enumerate(places):
        text, found = prompts[row] + completions[row], decode(tokenizer, [*before[row], *behind[row]])
        if _plain(found) != _plain(text):
            changed.append((place, text, found))
    if not changed:
        return None
    place, text, found = changed[0]
    line = (
        f"data.tokenizer: {len(changed)} of {len(tried)} texts that were tried do not come back from their tokens; "
        f"{place}: {_difference(text, found)}"
    )
    if not allow_lossy:
        raise WMTPError(f"{line}; take another tokenizer, or set data.allow_lossy: true")
    return line


def _parts(documents: Sequence[Document]) -> tuple[list[str], list[str]]:
    return [document.prompt for document in documents], [document.completion for document in documents]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.removeprefix(" "))


def _difference(text: str, found: str) -> str:
    """Where two texts differ, with some context."""
    place = next((i for i, (a, b) in enumerate(zip(text, found, strict=False)) if a != b), len(found))
    start = max(0, place - _SHOWN)
    one, other = (each[start : place + _SHOWN] for each in (text, found))
    return f"{one!r} becomes {other!r}"


def check_as_exported(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
    """Refuse a tokenizer that AutoTokenizer would read differently beside a model of this configuration.

    Raises:
        WMTPError: it would.
    """
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        check_read_back(Path(folder), tokenizer, f"model of type {config.model_type}")


def check_read_back(folder: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Compare what AutoTokenizer reads from a written folder with the tokenizer that was written.

    Raises:
        WMTPError: another tokenizer comes back.
    """
    read = AutoTokenizer.from_pretrained(str(folder))
    text = first_difference(read.backend_tokenizer, tokenizer.backend_tokenizer)
    if text is not None:
        raise WMTPError(
            f"data.tokenizer: beside a {name} AutoTokenizer reads it as {type(read).__name__} and gives other ids "
            f"for {text!r}; take a tokenizer of that class, or another model.architecture"
        )
    begun = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    if read("a")["input_ids"] != begun:
        raise WMTPError(
            f"data.tokenizer: beside a {name} AutoTokenizer frames 'a' as {read('a')['input_ids']}, not {begun}"
        )
    if read.eos_token_id != tokenizer.eos_token_id:
        raise WMTPError(
            f"data.tokenizer: beside a {name} AutoTokenizer ends texts with id {read.eos_token_id}, not "
            f"{tokenizer.eos_token_id}"
        )
