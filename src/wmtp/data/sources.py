"""Rows from where they are: JSON lines, JSON, Parquet, and the standard library's own Python files."""

import glob
import hashlib
import logging
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from wmtp.data.json_rows import read_json_lines, read_json_list, unreadable
from wmtp.errors import WMTPError

Row = dict[str, Any]

TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})

logger = logging.getLogger(__name__)


def read_file_rows(path: str) -> list[Row]:
    """Read a file, the data files of a folder, or what a glob matches, in sorted order.

    Args:
        path: `.jsonl`, `.jsonl.gz` (blank lines are passed over), `.json` (a list of objects, or an object
            with such a list as `data`) or `.parquet`. Other files in a folder are passed over.

    Raises:
        WMTPError: no such file, not in its format, or no row.
    """
    rows = [row for file in _data_files(path) for row in _read_rows(file)]
    if not rows:
        raise WMTPError(f"{path}: holds no rows")
    return rows


def keep_where(
    rows: Sequence[Row], where: Mapping[str, Any], place: str, key: str = "data.where"
) -> list[Row]:
    """The rows whose fields equal the given values; `place` and `key` name in errors where both come from.

    Raises:
        WMTPError: a row lacks one of the fields, or all rows are left out.
    """
    for number, row in enumerate(rows, start=1):
        for field in where:
            if field not in row:
                raise WMTPError(
                    f"{place}, row {number}: no field {field!r}, which {key} asks for; it has {_names(row)}"
                )
    kept = [row for row in rows if all(row[field] == value for field, value in where.items())]
    if rows and not kept:
        raise WMTPError(f"{place}: {key} {dict(where)} leaves none of {len(rows)} rows")
    return kept


def python_source_rows(
    *, validation: float = 0.02, seed: int = 0, include_tests: bool = False
) -> tuple[list[Row], list[Row]]:
    """The Python files of the running interpreter's standard library, split by file.

    Args:
        validation: About this share of the files is held out, in [0, 1).
        seed: Another seed holds out other files.
        include_tests: Whether files in test folders are taken as well.

    Returns:
        Training and validation rows with `text` and `path` (relative to the library), sorted by path.

    Raises:
        WMTPError: `validation` is out of range, or no file is left for a split.
    """
    if not 0 <= validation < 1:
        raise WMTPError(f"data.validation: {validation} should lie in [0, 1)")
    rows = python_file_rows(Path(sysconfig.get_path("stdlib")), include_tests=include_tests)
    held_out = [row for row in rows if _fraction(f"{seed} {row['path']}") < validation]
    train = [row for row in rows if _fraction(f"{seed} {row['path']}") >= validation]
    if not train or (validation and not held_out):
        raise WMTPError(f"data.validation: {validation} of {len(rows)} Python files leaves a split empty")
    return train, held_out


def python_file_rows(root: Path, *, include_tests: bool) -> list[Row]:
    """All distinct, non-blank Python files below a folder, without installed packages, sorted by path.

    Files that do not decode by their declared encoding (PEP 263) are left out; their number is logged.
    """
    left_out = INSTALLED_FOLDERS if include_tests else INSTALLED_FOLDERS | TEST_FOLDERS
    rows: list[Row] = []
    seen: set[str] = set()
    undecodable = 0
    for path in _python_files(root, left_out):
        try:
            with tokenize.open(root / path) as stream:
                text = stream.read()
        except (SyntaxError, UnicodeDecodeError):
            undecodable += 1
            continue
        if text.strip() and text not in seen:
            seen.add(text)
            rows.append({"text": text, "path": path})
    if undecodable:
        logger.warning("%s: left out %d files that do not decode", root, undecodable)
    return rows


def _python_files(root: Path, left_out: frozenset[str]) -> list[str]:
    paths = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in left_out]
        paths += [
            (Path(folder) / file).relative_to(root).as_posix() for file in files if file.endswith(".py")
        ]
    return sorted(paths)


def _fraction(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _names(row: Row) -> str:
    return ", ".join(map(str, row)) or "none"


def _data_files(path: str) -> list[Path]:
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.is_file() and _reader(file))
        if not files:
            raise WMTPError(f"{path}: holds no {', '.join(READERS)} file")
        return files
    files = (
        [Path(path)]
        if Path(path).exists()
        else [Path(match) for match in sorted(glob.glob(path, recursive=True))]
    )
    if not files:
        raise WMTPError(f"{path}: no such file")
    for file in files:
        if not _reader(file):
            raise WMTPError(f"{file}: should be one of {', '.join(READERS)}")
    return files


def _reader(file: Path) -> "Callable[[Path], Iterator[Row]] | None":
    return next((read for suffix, read in READERS.items() if file.name.endswith(suffix)), None)


def _read_rows(file: Path) -> Iterator[Row]:
    read = _reader(file)
    assert read is not None
    yield from read(file)


def _read_json_lines(file: Path) -> Iterator[Row]:
    return (row for _, row in read_json_lines(file))


def _read_json_list(file: Path) -> Iterator[Row]:
    return (row for _, row in read_json_list(file))


def _read_parquet(file: Path) -> Iterator[Row]:
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(file, error) from None


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".json": _read_json_list,
    ".parquet": _read_parquet,
}
