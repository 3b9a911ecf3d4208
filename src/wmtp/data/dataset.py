"""Tokenises rows into documents, one after the other, with a mask of supervised tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from wmtp.data.tokenizer import document_start, encode, encode_completions, tokenizer_fingerprint
from wmtp.errors import WMTPError

Overlong = Literal["error", "split", "truncate", "drop"]


@dataclass(frozen=True)
class Document:
    """One row to learn from: the completion, given the prompt; plain text has an empty prompt.

    `place` names the row in errors.
    """

    prompt: str
    completion: str
    place: str = "the text"

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing but white space."""
        return not (self.prompt + self.completion).strip()


@dataclass(frozen=True)
class Counts:
    """Documents of a split by what happened to them.

    documents: that were read.
    sequence_length: of a row, in tokens.
    blank: left out, without any text but white space.
    overlong: left out, longer than a row.
    unsupervised: left out, of which no token is both supervised and behind another.
    pieces: left out of documents that were split, for the same reason.
    cut: split or truncated, and kept.
    empty: kept, with a blank completion: only where it ends is learnt.
    """

    documents: int
    sequence_length: int
    blank: int = 0
    overlong: int = 0
    unsupervised: int = 0
    pieces: int = 0
    cut: int = 0
    empty: int = 0

    @property
    def left_out(self) -> int:
        """Number of whole documents left out."""
        return self.blank + self.overlong + self.unsupervised

    def describe(self) -> list[str]:
        """Lines about what was left out or cut; none if every document is whole."""
        row = f"data.sequence_length {self.sequence_length}"
        reasons = {
            "without text": self.blank,
            f"longer than {row}": self.overlong,
            f"without a supervised token within {row}": self.unsupervised,
        }
        lines = []
        if self.left_out:
            parts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
            lines.append(
                f"left out {self.left_out:,} of {self.documents:,} documents "
                f"({self.left_out / self.documents:.1%}): {parts}"
            )
        if self.cut:
            pieces = (
                f", and left out {self.pieces:,} pieces without a supervised token" if self.pieces else ""
            )
            lines.append(f"cut {self.cut:,} of {self.documents:,} documents at {row}{pieces}")
        if self.empty:
            lines.append(
                f"{self.empty:,} of {self.documents:,} completions are empty: only their end is learnt"
            )
        return lines


@dataclass(frozen=True)
class TokenDataset:
    """Documents no longer than a row, end to end.

    tokens: [T] int32; supervised: [T] bool, whether a token may be a target; offsets: [documents + 1] int64;
    sources: [documents] int64, the row each document came from; starts: [documents] int64, how many of that row's
    tokens stand before it.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    sources: NDArray[np.int64]
    starts: NDArray[np.int64]
    tokenizer_fingerprint: str
    counts: Counts

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per document."""
        return np.diff(self.offsets)

    @property
    def positions(self) -> NDArray[np.int64]:
        """[T]: how many tokens of its document stand before each token."""
        return np.arange(len(self.tokens)) - np.repeat(self.offsets[:-1], self.lengths)

    def summary(self) -> dict[str, int]:
        """Numbers of documents and tokens, and what happened to the documents read (`Counts`)."""
        counts = {name: count for name, count in asdict(self.counts).items() if name != "sequence_length"}
        return {"tokens": len(self.tokens), "supervised_tokens": int(self.supervised.sum()), **counts}

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the tokens, their supervision and the documents' limits."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.supervised, self.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Piece:
    """Tokens of a row from `start` on; the first `unsupervised` of them are no targets."""

    row: int
    start: int
    ids: list[int]
    unsupervised: int

    @property
    def has_target(self) -> bool:
        return len(self.ids) > max(1, self.unsupervised)


def tokenise(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerFast,
    sequence_length: int,
    overlong: Overlong,
    name: str = "data",
) -> TokenDataset:
    """Prompt, completion and an end token, of which the completion and the end token are supervised.

    Every document and every piece begins with `document_start`, which is no target. Documents and pieces without a
    token to learn are left out and counted. A truncated document keeps its beginning and has no end token.

    Args:
        name: of the documents, for errors.
    Raises:
        WMTPError: a document is longer than the row and `overlong` is "error", or nothing is left to learn.
    """
    texts = [d.prompt for d in documents]
    places = [d.place for d in documents]
    prompts = encode(tokenizer, texts, places)
    completions = encode_completions(tokenizer, texts, [d.completion for d in documents], places)
    begin = document_start(tokenizer)
    room = sequence_length - len(begin)
    lengths = [len(begin) + len(p) + len(c) + 1 for p, c in zip(prompts, completions, strict=True)]
    is_blank = [d.is_blank for d in documents]
    is_long = [n > sequence_length and not blank for n, blank in zip(lengths, is_blank, strict=True)]
    if any(is_long) and overlong == "error":
        worst = max(range(len(documents)), key=lambda row: lengths[row] * is_long[row])
        raise WMTPError(
            f"data.sequence_length {sequence_length}: {sum(is_long)} of {len(documents)} documents are longer, "
            f"{documents[worst].place} with {lengths[worst]} tokens the longest; raise it or set data.overlong to "
            f"split, truncate or drop"
        )
    pieces: list[_Piece] = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if is_blank[row] or (is_long[row] and overlong == "drop"):
            continue
        ids = [*prompt, *completion, int(tokenizer.eos_token_id)]
        ends = room if overlong == "truncate" else len(ids)
        pieces += [
            _Piece(row, start, [*begin, *ids[start : start + room]], len(begin) + max(0, len(prompt) - start))
            for start in range(0, ends, room)
        ]
    kept = [piece for piece in pieces if piece.has_target]
    counts = _count(documents, is_blank, is_long, pieces, sequence_length, overlong)
    if not kept:
        raise WMTPError(f"{name}: nothing to learn: {'; '.join(counts.describe())}")
    return _concatenate(kept, tokenizer_fingerprint(tokenizer), counts)


def _count(
    documents: Sequence[Document],
    is_blank: Sequence[bool],
    is_long: Sequence[bool],
    pieces: Sequence[_Piece],
    sequence_length: int,
    overlong: Overlong,
) -> Counts:
    rows = {piece.row for piece in pieces}
    kept = {piece.row for piece in pieces if piece.has_target}
    return Counts(
        documents=len(documents),
        sequence_length=sequence_length,
        blank=sum(is_blank),
        overlong=sum(is_long) if overlong == "drop" else 0,
        unsupervised=len(rows - kept),
        pieces=sum(piece.row in kept and not piece.has_target for piece in pieces),
        cut=sum(is_long[row] for row in kept),
        empty=sum(not documents[row].completion.strip() for row in kept),
    )


def _concatenate(pieces: Sequence[_Piece], fingerprint: str, counts: Counts) -> TokenDataset:
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece.ids) for piece in pieces], out=offsets[1:])
    tokens = np.concatenate([np.asarray(piece.ids, dtype=np.int32) for piece in pieces])
    supervised = np.ones(len(tokens), dtype=np.bool_)
    for start, piece in zip(offsets, pieces, strict=False):
        supervised[start : start + piece.unsupervised] = False
    sources, starts = (
        np.asarray([getattr(piece, name) for piece in pieces], dtype=np.int64) for name in ("row", "start")
    )
    return TokenDataset(tokens, supervised, offsets, sources, starts, fingerprint, counts)
