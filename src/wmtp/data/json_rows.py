"""Rows of JSON files, each with the place where it stands, so that an error about one names its file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtp.errors import WMTPError

PlacedRow = tuple[str, dict[str, Any]]


def read_json_lines(path: Path) -> Iterator[PlacedRow]:
    """The rows of a file with an object on each line, compressed where its name ends in .gz; blank lines are none.

    Raises:
        WMTPError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    place = f"{path}, line {number}"
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
    """What to raise when a data file cannot be read."""
    return WMTPError(f"{path}: cannot be read: {' '.join(str(error).split())}")


def _parse(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WMTPError(f"{place}: not JSON: {error}") from None


def _row(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WMTPError(f"{place}: should be an object, not {type(value).__name__}")
    return value
