"""JSON rows that know where they stand, so that an error about one names its file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.errors import WMTPError


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        place: the file and the line (or, in a list, the number).
        values: its fields.
    """

    place: str
    values: dict[str, Any]

    def text(self, *names: str, default: str | None = None) -> str:
        """The text in the first of these fields that is there, with "\\n" for every line end.

        Raises:
            WMTPError: none is there and there is no default, or the field holds something else.
        """
        name = next((name for name in names if self.values.get(name) is not None), None)
        if name is None:
            if default is not None:
                return default
            raise WMTPError(f"{self.place}: no field {names[0]!r}; it has {', '.join(self.values) or 'none'}")
        value = self.values[name]
        if not isinstance(value, str):
            raise WMTPError(f"{self.place}: {name!r} should be text, not {type(value).__name__}")
        return unified(value)

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """The texts in a field that holds a list of them, with "\\n" for every line end.

        Raises:
            WMTPError: the field is not there and there is no default, or it holds something else.
        """
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise WMTPError(
                f"{self.place}: {name!r} should be a list of texts; the row has {', '.join(self.values) or 'none'}"
            )
        return tuple(map(unified, value))

    def identifier(self, *names: str) -> str:
        """The text or whole number in the first of these fields that is there, as text.

        Raises:
            WMTPError: none is there, or the field holds something else.
        """
        value = next((self.values[name] for name in names if name in self.values), None)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise WMTPError(f"{self.place}: {names[0]!r} should be there, a text or a whole number")
        return str(value)


def unified(text: str) -> str:
    """A text with "\\n" for every line end of Windows or old Macs."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file (.gz too) or, where the name ends in .json, of a list; blank lines are none.

    Raises:
        WMTPError: the file cannot be read, or a row is not a JSON object.
    """
    try:
        if path.name.endswith(".json"):
            yield from _of_list(path)
            return
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    place = f"{path}, line {number}"
                    yield _row(_parse(line, place), place)
    except (OSError, EOFError, zlib.error) as error:
        raise WMTPError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _of_list(path: Path) -> Iterator[Row]:
    rows = _parse(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise WMTPError(f"{path}: should hold a list of objects; name it .jsonl if it has one on each line")
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        yield _row(row, place)


def _parse(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WMTPError(f"{place}: not JSON: {error}") from None


def _row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise WMTPError(f"{place}: should be an object, not {type(value).__name__}")
    return Row(place, value)
