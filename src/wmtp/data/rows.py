"""Rows of a source: their fields and places."""

from collections.abc import Mapping, Sequence
from typing import Any

from wmtp.errors import WMTPError


class Row(dict[str, Any]):
    """The fields of a row; `place` names its file and line in errors."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        super().__init__(values)
        self.place = place

    def text(self, field: str, key: str) -> str:
        """The text in a field; `key` names in errors the key of the recipe that asks for it.

        Raises:
            WMTPError: the row lacks the field, or it holds no text.
        """
        if field not in self:
            raise WMTPError(f"{self.place}: no field {field!r} ({key}); it has {self.names}")
        value = self[field]
        if not isinstance(value, str):
            raise WMTPError(
                f"{self.place}: field {field!r} ({key}) should be text, not {type(value).__name__}"
            )
        refuse_half_pairs(value, f"{self.place}: field {field!r} ({key})")
        return value

    @property
    def names(self) -> str:
        """Its fields, for errors."""
        return ", ".join(self) or "none"


def refuse_half_pairs(text: str, place: str) -> None:
    """Refuse text that JSON can spell but UTF-8 cannot, naming the place and the character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WMTPError(
            f"{place}: character {error.start + 1} is half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x}), which is no text"
        ) from None


def keep_where(
    rows: Sequence[Row], where: Mapping[str, Any], source: str, key: str = "data.where"
) -> list[Row]:
    """The rows whose fields equal the given values; `source` and `key` name in errors where both come from.

    Raises:
        WMTPError: a row lacks one of the fields, or all rows are left out.
    """
    for row in rows:
        for field in where:
            if field not in row:
                raise WMTPError(f"{row.place}: no field {field!r}, which {key} asks for; it has {row.names}")
    kept = [row for row in rows if all(row[field] == value for field, value in where.items())]
    if rows and not kept:
        raise WMTPError(f"{source}: {key} {dict(where)} leaves none of {len(rows)} rows")
    return kept
