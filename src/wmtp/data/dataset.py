"""Rows to tokens: documents, one after the other, with what is supervised."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import encode, encode_completions, tokenizer_fingerprint
from wmtp.errors import WMTPError


@dataclass(frozen=True)
class Document:
    """What is learnt from one row: the completion, given the prompt; plain text has an empty prompt."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class TokenDataset:
    """Documents of at most a row's length, end to end.

    tokens: [T] int32; supervised: [T] bool, whether a token may be a target; offsets: [documents + 1] int64;
    sources: [documents] int64, the row each document came from.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    sources: NDArray[np.int64]
    tokenizer_fingerprint: str

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per document."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the tokens, their supervision and the documents' limits."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.supervised, self.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def tokenise(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerFast,
    sequence_length: int,
    overlong: Literal["error", "split", "drop"],
) -> TokenDataset:
    """Prompt, completion and an end token, of which the completion and the end token are supervised.

    Raises:
        WMTPError: a document is longer than the row and `overlong` is "error", or nothing is left to learn.
    """
    texts = [d.prompt for d in documents]
    prompts = encode(tokenizer, texts)
    completions = encode_completions(tokenizer, texts, [d.completion for d in documents])
    lengths = [len(p) + len(c) + 1 for p, c in zip(prompts, completions, strict=True)]
    too_long = [row for row, length in enumerate(lengths) if length > sequence_length]
    if too_long and overlong == "error":
        worst = max(too_long, key=lengths.__getitem__)
        raise WMTPError(
            f"data.sequence_length {sequence_length}: {len(too_long)} of {len(documents)} documents are longer, "
            f"row {worst} with {lengths[worst]} tokens the longest; raise it or set data.overlong to split or drop"
        )
    pieces: list[tuple[int, list[int], int]] = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if lengths[row] > sequence_length and overlong == "drop":
            continue
        ids = [*prompt, *completion, int(tokenizer.eos_token_id)]
        pieces += [
            (row, ids[start : start + sequence_length], max(0, len(prompt) - start))
            for start in range(0, len(ids), sequence_length)
        ]
    return _concatenate(pieces, tokenizer_fingerprint(tokenizer), sequence_length)


def _concatenate(
    pieces: Sequence[tuple[int, list[int], int]], fingerprint: str, sequence_length: int
) -> TokenDataset:
    if not pieces:
        raise WMTPError(f"data: no document of at most data.sequence_length {sequence_length} tokens is left")
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(ids) for _, ids, _ in pieces], out=offsets[1:])
    tokens = np.concatenate([np.asarray(ids, dtype=np.int32) for _, ids, _ in pieces])
    supervised = np.ones(len(tokens), dtype=np.bool_)
    for start, (_, _, unsupervised) in zip(offsets, pieces, strict=False):
        supervised[start : start + unsupervised] = False
    sources = np.asarray([row for row, _, _ in pieces], dtype=np.int64)
    return TokenDataset(tokens, supervised, offsets, sources, fingerprint)


def documents_from(rows: Sequence[dict[str, Any]], fields: Any, where: str) -> list[Document]:
    """The document of each row, by `data.fields`.

    Raises:
        WMTPError: a row lacks a named field, or it holds no text.
    """
    if fields.text is not None:
        return [Document("", _text(row, i, fields.text, "text", where)) for i, row in enumerate(rows)]
    return [
        Document(
            _text(row, i, fields.prompt, "prompt", where),
            _text(row, i, fields.completion, "completion", where),
        )
        for i, row in enumerate(rows)
    ]


def _text(row: dict[str, Any], index: int, field: str, kind: str, where: str) -> str:
    if field not in row:
        raise WMTPError(
            f"{where}: row {index} has no field {field!r} (data.fields.{kind}); it has {', '.join(row) or 'none'}"
        )
    value = row[field]
    if not isinstance(value, str):
        raise WMTPError(
            f"{where}: row {index}: field {field!r} (data.fields.{kind}) should be text, "
            f"not {type(value).__name__}"
        )
    return value


def groups_by_prompt(prompts: Sequence[str]) -> NDArray[np.int64]:
    """[rows] int64: the same number for the same prompt, counted in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts], dtype=np.int64)
