"""The standard library's own Python files as rows."""

import hashlib
import logging
import os
import sysconfig
import tokenize
from pathlib import Path

from wmtp.data.rows import Row
from wmtp.errors import WMTPError

TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})

logger = logging.getLogger(__name__)


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
            rows.append(Row({"text": text, "path": path}, str(root / path)))
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
