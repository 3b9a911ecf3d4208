"""Two runs never write one directory."""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from wmtp.errors import WMTPError

LOCK_FILE = ".lock"


class RunLock:
    """Keeps other runs out of a directory while the context lasts; the kernel frees it however the process ends.

    Programs that the process starts do not inherit the lock. A child forked without exec shares it, and keeps it
    beyond the death (not the orderly end) of its parent.

    Raises:
        WMTPError: on entering, if another process has the lock or the directory cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def __enter__(self) -> "RunLock":
        try:
            self._file = os.open(self._run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WMTPError(f"{self._run}: cannot be written ({error.strerror}); check paths.runs") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner()
            os.close(self._file)
            raise WMTPError(
                f"{self._run}: in use by {owner}; choose another name (name=…) or stop that one"
            ) from None
        except OSError as error:
            os.close(self._file)
            raise WMTPError(
                f"{self._run}: this file system cannot lock ({error.strerror}); choose another paths.runs"
            ) from None
        self._sign()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)

    def _sign(self) -> None:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }
        with suppress(OSError):  # a full disk takes the name from the lock, not the lock
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(owner).encode() + b"\n", 0)

    def _owner(self) -> str:
        try:
            owner = json.loads(os.pread(self._file, 4096, 0))
        except ValueError:
            return "another process"
        return f"process {owner['pid']} on host {owner['host']} since {owner['since']}"
