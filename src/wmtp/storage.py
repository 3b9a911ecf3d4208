"""Where things are, and writing them so that a crash leaves the old or the new, never half."""

import atexit
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from wmtp.errors import WMTPError, one_line, type_and_message


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(*parts: str) -> str:
    """Hex digest of texts; where one ends and the next begins matters."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make renames within a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make everything in a directory survive a power cut."""
    for entry in path.rglob("*"):
        if entry.is_dir():
            sync_directory(entry)
        else:
            with entry.open("rb") as opened:
                os.fsync(opened.fileno())
    sync_directory(path)


class CannotWrite(WMTPError, OSError):
    """The operating system did not let a file or a directory be written; `errno` and `strerror` say why."""

    def __init__(self, path: Path, error: OSError) -> None:
        self._line = f"{path}: cannot be written: {error.strerror or one_line(error)}"
        super().__init__(self._line)
        self.errno, self.strerror = error.errno, error.strerror

    def __str__(self) -> str:
        return self._line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """For what writes a file or a directory.

    Raises:
        CannotWrite: the operating system refused.
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(path, error) from error


def check_can_write(path: Path) -> None:
    """For what is written only after long work.

    Raises:
        CannotWrite: a file of that name could not be written now.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def why_no_file(path: Path) -> str | None:
    """Why there is no file to read under a name; None if there is one."""
    if path.is_file():
        return None
    if path.is_dir():
        return "is a directory"
    return "is not a regular file: save it first" if path.exists() else "no such file"


_COPIES: list[str] = []


@atexit.register
def remove_copies() -> None:
    """Delete what `local_copy` has copied; a process that ends without the interpreter's clean-up calls this."""
    while _COPIES:
        shutil.rmtree(_COPIES.pop(), ignore_errors=True)


@cache
def local_copy(location: str) -> str:
    """Where on this machine a file or a folder can be read.

    What has a URL of some filesystem that fsspec knows (`s3://bucket/rows.jsonl`) is copied, for as long as this
    process lives; a path is given back as it is.

    Raises:
        WMTPError: no such filesystem is installed, or it has nothing there that can be read.
    """
    if "://" not in location:
        return location
    from fsspec.core import url_to_fs

    folder = tempfile.mkdtemp(prefix="wmtp-copy-")
    _COPIES.append(folder)
    try:
        filesystem, place = url_to_fs(location)
        copy = Path(folder) / PurePosixPath(place).name
        filesystem.get(place, str(copy), recursive=True)
    except Exception as error:  # other people's filesystems raise whatever they like
        raise WMTPError(f"{location}: cannot be read: {type_and_message(error)}") from error
    return str(copy)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content, atomically.

    Raises:
        CannotWrite: the operating system refused.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a value as JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        WMTPError: the file is missing or damaged, or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WMTPError(f"{path}: no such file") from None
    except OSError as error:
        raise WMTPError(f"{path}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WMTPError(f"{path}: damaged: {error}") from None


def complete_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that is appended to, from where it stands, each with its line end.

    A last line without one counts as not written: its writer was killed, or is still at it.
    """
    return takewhile(lambda line: line.endswith(b"\n"), file)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill aside; it appears under its name, synced to disk, when the block ends well.

    An existing directory of that name is replaced. On an error nothing is left and nothing has changed. If killed
    between two renames, there is none for now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        sync_tree(aside)
        _replace_directory(path, aside, _hidden(path, f"{os.getpid()}-old"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace_directory(path: Path, new: Path, old: Path) -> None:
    """Give a directory its name; another process may be about to do the same, and then the last one stays.

    Args:
        path: the name.
        new: the directory.
        old: where the one of that name before is until the new one is there.
    """
    while True:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                path.rename(old)
        try:
            new.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            if old.exists():
                old.rename(path)
            raise
        sync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)
        return


def directories(folder: Path) -> list[Path]:
    """The finished directories in a folder: not hidden, no links."""
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir() and not p.is_symlink()]


def unfinished(path: Path) -> Path:
    """Where to write a directory that `publish` will give its name."""
    return _hidden(path, "partial")


def publish(path: Path) -> None:
    """Give what was written to `unfinished(path)` its name, synced to disk; one of that name before is replaced.

    A reader sees the old one, the new one or, for a moment, none. If killed at that moment, `mend` restores the old.
    """
    aside = unfinished(path)
    sync_tree(aside)
    _replace_directory(path, aside, _hidden(path, "old"))


def remove(path: Path) -> None:
    """Remove a directory: at once from sight, then from disk."""
    gone = _hidden(path, "removed")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)


def point(pointer: Path, target: Path | None) -> None:
    """Make a link to a neighbour, replacing the link of before atomically; None removes it."""
    if target is None:
        pointer.unlink(missing_ok=True)
        return
    new = _hidden(pointer, "new")
    new.unlink(missing_ok=True)
    new.symlink_to(target.name)
    new.replace(pointer)
    sync_directory(pointer.parent)


def mend(folder: Path) -> None:
    """Undo or finish what processes that were killed in `publish`, `remove` or `point` left in a folder."""
    for old in folder.glob(".*.old"):
        path = folder / old.name.removeprefix(".").removesuffix(".old")
        if not path.exists():
            old.rename(path)
    for kind in ("partial", "old", "removed"):
        for debris in folder.glob(f".*.{kind}"):
            shutil.rmtree(debris)
    for link in folder.glob(".*.new"):
        link.unlink()
    sync_directory(folder)


def free_bytes(folder: Path) -> int:
    """What can still be written to the file system of a folder."""
    return shutil.disk_usage(folder).free


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")
