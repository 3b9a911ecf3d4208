"""Reads rows of JSON lines, JSON and Parquet: one file, the files of a folder, or those a glob matches."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from wmtp.data.json_rows import PlacedRow, read_json_lines, read_json_list, unreadable
from wmtp.data.rows import Row
from wmtp.data.splits import Split, split_of
from wmtp.errors import WMTPError
from wmtp.storage import local_copy

UNREADABLE = (".csv", ".tsv", ".ndjson", ".arrow", ".feather", ".zst", ".xz", ".bz2", ".zip", ".tar", ".gz")
"""Suffixes of files that hold data but cannot be read."""
ABOUT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files that describe the data sets beside them."""

Files = dict[Split | None, list[Path]]
"""Files by split; files named one by one, or in a folder without splits, belong to none."""


def find_files(path: str) -> Files:
    """A file, the data files of a folder and of those in it, or what a glob matches, in sorted order.

    A file or a folder may have a URL (`local_copy`).

    Where names tell splits apart, each file belongs to one. Hidden files and folders, and files of other kinds, are
    passed over.

    Raises:
        WMTPError: no such file, one that is not read though it holds data, or one of no split beside files of splits.
    """
    path = local_copy(path)
    if Path(path).is_dir():
        return _by_split(_below(Path(path)), Path(path), is_folder=True)
    if Path(path).exists():
        return {None: [_readable(Path(path))]}
    found = [_readable(Path(match)) for match in sorted(glob.glob(path, recursive=True))]
    if not found:
        raise WMTPError(f"{path}: no such file")
    return _by_split(found, Path(os.path.commonpath([file.parent for file in found])), is_folder=False)


def read_rows(files: Sequence[Path], source: str) -> list[Row]:
    """The rows of files; `source` is what they were found by, for errors.

    Args:
        files: `.jsonl`, `.jsonl.gz` (blank lines are passed over), `.json` (a list of objects, or an object with such
            a list as `data`) or `.parquet`.
    Raises:
        WMTPError: a file is not in its format, or they hold no row.
    """
    rows = [Row(values, place) for file in files for place, values in _reader(file)(file)]
    if not rows:
        raise WMTPError(f"{source}: holds no rows")
    return rows


def _below(root: Path) -> list[Path]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            file = Path(folder) / name
            if name.startswith(".") or name in ABOUT_DATA:
                continue
            if _is_read(file):
                found.append(file)
            elif name.endswith(UNREADABLE):
                raise WMTPError(
                    f"{file}: cannot be read; make it one of {', '.join(READERS)}, or move it away"
                )
    if not found:
        raise WMTPError(f"{root}: holds no {', '.join(READERS)} file")
    return sorted(found)


def _by_split(files: Sequence[Path], root: Path, *, is_folder: bool) -> Files:
    found: Files = {}
    for file in files:
        found.setdefault(split_of(file, root), []).append(file)
    if len(found) == 1 and not is_folder:
        return {None: list(files)}
    if None in found and len(found) > 1:
        raise WMTPError(
            f"{found[None][0]}: belongs to no split, and other files do; name it like train-1, validation-1 or "
            f"test-1, or move it away"
        )
    return found


def _readable(file: Path) -> Path:
    if not _is_read(file):
        raise WMTPError(f"{file}: should be one of {', '.join(READERS)}")
    return file


def _is_read(file: Path) -> bool:
    return file.name.endswith(tuple(READERS))


def _reader(file: Path) -> "Callable[[Path], Iterator[PlacedRow]]":
    return next(read for suffix, read in READERS.items() if file.name.endswith(suffix))


def _read_parquet(file: Path) -> Iterator[PlacedRow]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", values
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise unreadable(file, error) from None


READERS: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".json": read_json_list,
    ".parquet": _read_parquet,
}
