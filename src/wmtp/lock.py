"""Locks: no two runs write one directory, no two evaluations one file of samples."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from wmtp.errors import WMTPError
from wmtp.storage import read_json, write_json

LOCK_FILE = ".lock"
OWNER_FILE = ".lock.json"
_UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def sole_holder(lock_file: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether nobody else holds the lock; if so, nobody else does while the context lasts.

    The kernel frees it however the process ends. Programs that the process starts do not inherit it.

    Args:
        wait: until it is free, instead of giving False.

    Raises:
        OSError: there is no such folder, the file cannot be written, or its file system cannot lock.
    """
    lock_file.parent.stat()  # where filelock would make the folder
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        lock_file.stat()  # filelock takes a file that cannot be created for a held lock
    try:
        if isinstance(lock, SoftFileLock):  # filelock's fallback would outlive a killed process
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Keep other runs out of a directory while the context lasts.

    Raises:
        WMTPError: another process has the lock, or the directory cannot be written or locked.
    """
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(sole_holder(run / LOCK_FILE))
        except OSError as error:
            if error.errno in _UNLOCKABLE:
                raise WMTPError(
                    f"{run}: this file system cannot lock ({error.strerror}); choose another paths.runs"
                ) from None
            raise WMTPError(f"{run}: cannot be written ({error.strerror}); check paths.runs") from None
        if not alone:
            raise WMTPError(f"{run}: in use by {_owner(run)}; choose another name (name=…) or stop that one")
        with suppress(WMTPError):  # a full disk takes the name from the lock, not the lock
            write_json(
                run / OWNER_FILE,
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S%z"),
                },
            )
        yield


def _owner(run: Path) -> str:
    try:
        owner = read_json(run / OWNER_FILE)
    except WMTPError:
        return "another process"
    return f"process {owner['pid']} on host {owner['host']} since {owner['since']}"
