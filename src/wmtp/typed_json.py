"""Reads JSON files as the dataclasses that they were written from."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from wmtp.errors import WMTPError
from wmtp.storage import complete_lines

T = TypeVar("T")


def read_as(path: Path, adapter: TypeAdapter[T]) -> T:
    """The value in a JSON file.

    Raises:
        WMTPError: it is no such value.
    """
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        raise WMTPError(f"{path}: {_first(error)}") from error


def read_lines_as(path: Path, adapter: TypeAdapter[T]) -> list[T]:
    """The values in a JSONL file, in its complete lines.

    Raises:
        WMTPError: a line is no such value.
    """
    values = []
    with path.open("rb") as file:
        for number, line in enumerate(complete_lines(file), start=1):
            try:
                values.append(adapter.validate_python(json.loads(line)))
            except json.JSONDecodeError as error:
                raise WMTPError(f"{path}:{number}: not JSON: {error.msg}") from error
            except ValidationError as error:
                raise WMTPError(f"{path}:{number}: {_first(error)}") from error
    return values


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
