"""Turns rows into documents: the part of a row to learn from."""

from collections.abc import Sequence

from wmtp.config import FieldsConfig
from wmtp.data.dataset import Document
from wmtp.data.rows import Row


def documents_from(rows: Sequence[Row], fields: FieldsConfig) -> list[Document]:
    """The document of each row, by `data.fields`.

    Raises:
        WMTPError: a row lacks a named field, or it holds no text.
    """
    return [_document(row, fields) for row in rows]


def _document(row: Row, fields: FieldsConfig) -> Document:
    if fields.text is not None:
        return Document("", row.text(fields.text, "data.fields.text"), row.place)
    assert fields.prompt is not None
    assert fields.completion is not None
    prompt = row.text(fields.prompt, "data.fields.prompt")
    return Document(prompt, row.text(fields.completion, "data.fields.completion"), row.place)


def content(row: Row, fields: FieldsConfig) -> tuple[str, ...]:
    """Content to learn from, ignoring white space: rows of equal content are the same to a model."""
    names = [name for name in (fields.text, fields.prompt, fields.completion) if name is not None]
    return tuple(" ".join(str(row.get(name)).split()) for name in names)


def question(row: Row, fields: FieldsConfig) -> str:
    """The key that must not be on both sides of a split: the prompt or, without one, the text."""
    return next((part for part in content(row, fields) if part), "")
