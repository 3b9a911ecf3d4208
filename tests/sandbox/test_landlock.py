"""What the kernel is asked for, by version of its interface; that it holds is tried in test_attacks.py."""

import os
import struct
import sys
from pathlib import Path

import pytest

from wmtp.sandbox.isolated import kernel, landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has Landlock")

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
FIRST = (
    EXECUTE | WRITE_FILE | READ_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_CHAR | MAKE_DIR | MAKE_REG
    | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM
)  # fmt: skip
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


class Kernel:
    """Takes down what it is asked for."""

    def __init__(self, version: int) -> None:
        self.version, self.ruleset, self.rules, self.restricted = (
            version,
            (0, 0, 0),
            list[tuple[int, str]](),
            False,
        )

    def system_call(self, number: int, *arguments: object) -> int:
        if number == 444 and arguments == (None, 0, 1):
            if not self.version:
                raise OSError(38, "Function not implemented")
            return self.version
        if number == 444:
            attributes, size, flags = arguments
            assert isinstance(attributes, bytes)
            assert (size, flags) == (24, 0)
            self.ruleset = struct.unpack("=QQQ", attributes)
            return os.open(os.devnull, os.O_RDONLY)
        if number == 445:
            _, kind, rule, flags = arguments
            assert isinstance(rule, bytes)
            assert (kind, len(rule), flags) == (1, 12, 0)
            rights, fd = struct.unpack("=Qi", rule)
            self.rules.append((rights, os.readlink(f"/proc/self/fd/{fd}")))
        if number == 446:
            self.restricted = True
        return 0


@pytest.mark.parametrize(
    ("version", "files", "tcp", "scopes"),
    [
        (1, FIRST, 0, 0),
        (2, FIRST | REFER, 0, 0),
        (3, FIRST | REFER | TRUNCATE, 0, 0),
        (4, FIRST | REFER | TRUNCATE, 3, 0),
        (5, FIRST | REFER | TRUNCATE | IOCTL_DEV, 3, 0),
        (6, FIRST | REFER | TRUNCATE | IOCTL_DEV, 3, 3),
        (99, FIRST | REFER | TRUNCATE | IOCTL_DEV, 3, 3),
    ],
)
def test_everything_that_a_version_knows_is_refused(
    version: int, files: int, tcp: int, scopes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Kernel(version)
    monkeypatch.setattr(kernel, "LINUX", True)
    monkeypatch.setattr(kernel, "system_call", machine.system_call)
    (tmp_path / "file").touch()
    everything = landlock.READ | landlock.WRITE | landlock.KEEP_HOUSE
    directory, file = str(tmp_path), str(tmp_path / "file")
    landlock.enter(landlock.ruleset({directory: everything, "/": landlock.READ, file: everything}))
    assert machine.ruleset == (files, tcp, scopes)
    assert machine.restricted
    never = EXECUTE | MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK | MAKE_FIFO | IOCTL_DEV
    assert machine.rules == [
        (files & ~never, directory),
        (READ_FILE | READ_DIR, "/"),
        (files & ~never & OF_FILES, file),
    ]


def test_no_landlock_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "system_call", Kernel(0).system_call)
    assert landlock.abi() == 0
    with pytest.raises(OSError, match="the kernel has no Landlock"):
        landlock.ruleset({})
