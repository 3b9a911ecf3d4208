"""From `data:` in a recipe to tokenised training and validation documents."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from wmtp.config import DataConfig, FieldsConfig, Recipe, TinycodeConfig
from wmtp.data import tinycode
from wmtp.data.dataset import TokenDataset, documents_from, groups_by_prompt, tokenise
from wmtp.data.sources import Row, keep_where, python_source_rows, read_file_rows
from wmtp.data.templates import mbpp_style_prompt
from wmtp.data.tokenizer import load_tokenizer, train_tokenizer
from wmtp.errors import WMTPError
from wmtp.progress import working
from wmtp.registry import did_you_mean

BUILT_IN = {
    "tinycode": "generated programming problems with tests, and planted errors",
    "python-source": "the standard library of the running interpreter",
}


@dataclass(frozen=True)
class Rows:
    """The rows of each split as they came, and which of their fields are learnt from."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    fields: FieldsConfig


@dataclass(frozen=True)
class Data:
    """Everything that training reads."""

    rows: Rows
    tokenizer: PreTrainedTokenizerFast
    train: TokenDataset
    validation: TokenDataset


def load_rows(recipe: Recipe) -> Rows:
    """The rows that `data.where` and `data.limit` leave.

    Raises:
        WMTPError: unknown source, missing file or field, or nothing left.
    """
    return _chosen_rows(_source_rows(recipe.data), recipe.data)


def load_data(recipe: Recipe, cache: Path) -> Data:
    """Rows, tokenizer (given, the backbone's, or trained on all training rows) and token data sets.

    Raises:
        WMTPError: unknown source, missing file or field, or nothing left.
    """
    data = recipe.data
    source = _source_rows(data)
    rows = _chosen_rows(source, data)
    location = data.tokenizer or recipe.model.base_id
    if location is not None:
        tokenizer = load_tokenizer(location)
    else:
        documents = documents_from(source.train, source.fields, data.source)
        texts = [text for d in documents for text in (d.prompt, d.completion)]
        with working("train tokenizer"):
            tokenizer = train_tokenizer(texts, data.vocab_size, cache)

    def encode(split: list[Row]) -> TokenDataset:
        documents = documents_from(split, rows.fields, f"data.source {data.source}")
        return tokenise(documents, tokenizer, data.sequence_length, data.overlong)

    with working("tokenise"):
        return Data(rows, tokenizer, encode(rows.train), encode(rows.validation))


def _chosen_rows(source: Rows, data: DataConfig) -> Rows:
    """The training rows that `data.where` and `data.limit` leave, and the other splits as they are."""
    train = keep_where(source.train, data.where, f"data.source {data.source}")[: data.limit]
    if not train or not source.validation:
        raise WMTPError(f"data.source {data.source!r}: no rows to {'validate' if train else 'train'} on")
    return replace(source, train=train)


@lru_cache(maxsize=2)
def tinycode_corpus(config: TinycodeConfig) -> tinycode.Corpus:
    """The generated benchmark of `data.tinycode`; shared, not to be changed."""
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
    train = read_file_rows(data.source)
    if isinstance(data.validation, str):
        return Rows(train, read_file_rows(data.validation), [], data.fields)
    held_out = _held_out(train, data)
    return Rows(
        [row for row, out in zip(train, held_out, strict=True) if not out],
        [row for row, out in zip(train, held_out, strict=True) if out],
        [],
        data.fields,
    )


def _with_prompts(rows: list[Any]) -> list[Row]:
    return [{**row, "prompt": mbpp_style_prompt(row["text"])} for row in rows]


def _held_out(rows: list[Row], data: DataConfig) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are held out: all that answer some of the prompts; of plain texts, some of the texts."""
    assert isinstance(data.validation, float)
    prompt = data.fields.prompt
    groups = np.arange(len(rows)) if prompt is None else groups_by_prompt([str(r.get(prompt)) for r in rows])
    count = int(groups.max()) + 1
    chosen = np.random.default_rng(0).permutation(count)[: max(1, round(data.validation * count))]
    return np.isin(groups, chosen)
