"""Turns `data:` in a recipe into tokenised training and validation documents."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from wmtp.checkpoint.store import resolve_model
from wmtp.config import DataConfig, FieldsConfig, Recipe, TinycodeConfig
from wmtp.data import tinycode
from wmtp.data.dataset import TokenDataset, tokenise
from wmtp.data.documents import documents_from
from wmtp.data.file_splits import file_rows
from wmtp.data.python_source import python_source_rows
from wmtp.data.rows import Row, keep_where
from wmtp.data.templates import mbpp_style_prompt
from wmtp.data.tokenizer import choose_document_start, load_tokenizer, train_tokenizer
from wmtp.data.tokenizer_checks import check_round_trip
from wmtp.errors import WMTPError
from wmtp.progress import note, working
from wmtp.registry import did_you_mean

BUILT_IN = {
    "tinycode": "generated programming problems with tests, and planted errors",
    "python-source": "the standard library of the running interpreter",
}


@dataclass(frozen=True)
class Rows:
    """The rows of each split, the fields to learn from, and notes about the splits."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    fields: FieldsConfig
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """All data of a training run."""

    rows: Rows
    tokenizer: PreTrainedTokenizerFast
    train: TokenDataset
    validation: TokenDataset

    def summary(self) -> dict[str, Any]:
        """For each split, counts of what is learnt from and left out, and lines that say so."""
        splits = {"training": self.train, "validation": self.validation}
        return {
            **{name: split.summary() for name, split in splits.items()},
            "notes": self.notes,
        }

    @property
    def notes(self) -> list[str]:
        """Lines about what was left out or changed between source and tokens."""
        own = {"training": self.train, "validation": self.validation}
        return [
            *self.rows.notes,
            *(f"{name}: {line}" for name, split in own.items() for line in split.counts.describe()),
        ]


def load_rows(recipe: Recipe) -> Rows:
    """The rows that `data.where` and `data.limit` leave.

    Raises:
        WMTPError: unknown source, missing file or field, or nothing left.
    """
    return _chosen_rows(_source_rows(recipe.data), recipe.data)


def load_data(recipe: Recipe, cache: Path) -> Data:
    """Rows, tokenizer (given, the backbone's, or trained on all training rows) and token data sets.

    Notes on standard error say what was left out.

    Raises:
        WMTPError: unknown source, missing file or field, or nothing left to learn for a head.
    """
    data = recipe.data
    source = _source_rows(data)
    rows = _chosen_rows(source, data)
    if data.tokenizer is not None:
        tokenizer = load_tokenizer(data.tokenizer)
    elif recipe.model.base_id is not None:
        base = str(resolve_model(recipe.model.base_id, "model.base_id"))
        tokenizer = load_tokenizer(base, "model.base_id")
    else:
        documents = documents_from(source.train, source.fields)
        texts = [text for d in documents for text in (d.prompt, d.completion)]
        with working("train tokenizer"):
            tokenizer = train_tokenizer(texts, data.vocab_size, cache, recipe.model.architecture)
    choose_document_start(tokenizer, data.bos)
    train, validation = (documents_from(split, rows.fields) for split in (rows.train, rows.validation))
    lossy = check_round_trip(tokenizer, train, data.allow_lossy)
    name = f"data.source {data.source}"
    with working("tokenise"):
        loaded = Data(
            rows,
            tokenizer,
            tokenise(train, tokenizer, data.sequence_length, data.overlong, f"{name}, training"),
            tokenise(validation, tokenizer, data.sequence_length, data.overlong, f"{name}, validation"),
        )
    _check_learnable(recipe, loaded.train)
    for line in [*([lossy] if lossy else []), *loaded.notes]:
        note(line)
    return loaded


def _check_learnable(recipe: Recipe, train: TokenDataset) -> None:
    """Refuse data in which no completion has text, or no document is long enough for the last head."""
    kept = train.counts.documents - train.counts.left_out
    if train.counts.empty == kept:
        raise WMTPError(
            f"data.source {recipe.data.source}: all {kept} completions are empty; nothing to learn"
        )
    furthest = int((train.positions * train.supervised).max())
    if furthest < recipe.model.heads:
        raise WMTPError(
            f"model.heads {recipe.model.heads}: in no training document does a supervised token stand more than "
            f"{furthest} places behind the first, so the last head has nothing to learn; use fewer heads"
        )


def _chosen_rows(source: Rows, data: DataConfig) -> Rows:
    """The training rows that `data.where` and `data.limit` leave, and the other splits as they are."""
    train = keep_where(source.train, data.where, f"data.source {data.source}")[: data.limit]
    if not train or not source.validation:
        raise WMTPError(f"data.source {data.source!r}: no rows to {'validate' if train else 'train'} on")
    return replace(source, train=train)


@lru_cache(maxsize=2)
def tinycode_corpus(config: TinycodeConfig) -> tinycode.Corpus:
    """The generated benchmark of `data.tinycode`; shared, so do not change it."""
    with working("generate tinycode"):
        return tinycode.generate(config)


def _source_rows(data: DataConfig) -> Rows:
    if data.source == "tinycode":
        corpus = tinycode_corpus(data.tinycode)
        train, validation, test = map(_with_prompts, (corpus.train, corpus.validation, corpus.test))
        return Rows(train, validation, test, FieldsConfig(prompt="prompt", completion="code"))
    if data.source == "python-source":
        share = data.validation
        if isinstance(share, str):
            raise WMTPError("data.validation: python-source holds out a share of its files; give a number")
        train, validation = python_source_rows(
            validation=share, include_tests=data.python_source.include_tests
        )
        return Rows(train, validation, [], FieldsConfig(text="text"))
    if not Path(data.source).exists() and not any(c in data.source for c in "/.*"):
        raise WMTPError(
            f"data.source {data.source!r} is neither a file nor built in; "
            f"{did_you_mean(data.source, list(BUILT_IN))}"
        )
    found = file_rows(data)
    return Rows(found.train, found.validation, found.test, data.fields, tuple(found.notes))


def _with_prompts(rows: list[Any]) -> list[Row]:
    return [
        Row({**row, "prompt": mbpp_style_prompt(row["text"])}, f"tinycode, {row['task_id']}") for row in rows
    ]
