"""Rows of evaluation files, with their fields checked as they are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.data.json_rows import read_json_lines, read_json_list
from wmtp.data.rows import refuse_half_pairs
from wmtp.errors import WMTPError


@dataclass(frozen=True)
class EvaluationRow:
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
        refuse_half_pairs(str(value), f"{self.place}: {names[0]!r}")
        return str(value)


def unified(text: str) -> str:
    """A text with "\\n" for every line end of Windows or old Macs."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_rows(path: Path) -> Iterator[EvaluationRow]:
    """The rows of a JSONL file (.gz too) or, where the name ends in .json, of a list.

    Raises:
        WMTPError: the file cannot be read, or a row is not a JSON object.
    """
    read = read_json_list if path.name.endswith(".json") else read_json_lines
    for place, values in read(path):
        yield EvaluationRow(place, values)
