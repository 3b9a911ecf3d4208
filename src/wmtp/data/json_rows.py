"""Reads rows of JSON files with their places, so that an error names file and line."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtp.errors import WMTPError, joined_lines, one_line

PlacedRow = tuple[str, dict[str, Any]]

UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_json_lines(path: Path) -> Iterator[PlacedRow]:
    """Rows of a file with an object on each line, compressed if its name ends in .gz; blank lines are skipped.

    Raises:
        WMTPError: the file cannot be read, or a line is not a JSON object in UTF-8.
    """
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                place = f"{path}, line {number}"
                if number == 1 and line.startswith(UTF_16_MARKS):
                    raise WMTPError(f"{path}: is UTF-16; save it as UTF-8")
                if line.strip():
                    yield place, _row(_parse(line, place), place)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None


def read_json_list(path: Path) -> Iterator[PlacedRow]:
    """The rows of a file that holds a list of objects, or an object with such a list as `data`.

    Raises:
        WMTPError: the file cannot be read, or does not hold that.
    """
    try:
        content = _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise unreadable(path, error) from None
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise WMTPError(
            f"{path}: should hold a list of objects, or an object with such a list as 'data'; "
            "name it .jsonl if it has an object on each line"
        )
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        yield place, _row(row, place)


def unreadable(path: Path, error: Exception) -> WMTPError:
    """The error to raise when a data file cannot be read."""
    return WMTPError(f"{path}: cannot be read: {joined_lines(error)}")


def _parse(text: bytes, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except _RepeatedKey as error:
        raise WMTPError(f"{place}: the key {error.args[0]!r} occurs twice in an object") from None
    except (ValueError, RecursionError) as error:
        raise WMTPError(f"{place}: not JSON: {one_line(error)}") from None


class _RepeatedKey(ValueError):
    """Of the two values one would be lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _RepeatedKey(counts.most_common(1)[0][0])
    return values


def _row(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WMTPError(f"{place}: should be an object, not {type(value).__name__}")
    return value
