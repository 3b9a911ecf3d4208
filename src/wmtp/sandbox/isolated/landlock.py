"""Landlock: the kernel refuses a process all files, ports and signals that were not granted before, for good.

See https://docs.kernel.org/userspace-api/landlock.html; the three system calls have the same numbers everywhere.
"""

from __future__ import annotations

import os
import struct

from . import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14

READ = _READ_FILE | _READ_DIR
"""Reading files and listing directories; not executing."""

WRITE = _WRITE_FILE | _TRUNCATE
"""Changing the content of files."""

KEEP_HOUSE = _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER
"""Making, moving and removing files, directories and symbolic links; not devices, pipes or sockets."""

_OF_FILES = WRITE | _READ_FILE

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of rights on files, by version of the interface."""

_TCP_SINCE, _ALL_OF_TCP = 4, 0b11
_SCOPES_SINCE, _ALL_SCOPES = 6, 0b11


def abi() -> int:
    """Version of the kernel's interface; 0 where it has none."""
    if not kernel.LINUX:
        return 0
    try:
        return kernel.system_call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def ruleset(rights: dict[str, int]) -> int:
    """Rules that refuse all access to files that this kernel can refuse, except what is granted.

    They refuse TCP ports from version 4 on, and signals and abstract sockets to processes outside from version 6 on.

    Args:
        rights: by path of a file or directory, the rights to it and to what is beneath it.

    Returns:
        A descriptor for `enter`.

    Raises:
        OSError: the kernel has no Landlock, or a path cannot be opened.
    """
    version = abi()
    if not version:
        raise OSError("the kernel has no Landlock")
    handled = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    tcp = _ALL_OF_TCP if version >= _TCP_SINCE else 0
    scopes = _ALL_SCOPES if version >= _SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", handled, tcp, scopes)
    rules = kernel.system_call(_CREATE_RULESET, attributes, len(attributes), 0)
    for path, granted in rights.items():
        fd = os.open(path, os.O_PATH)
        allowed = granted & handled & (-1 if os.path.isdir(path) else _OF_FILES)
        kernel.system_call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0)
        os.close(fd)
    return rules


def enter(rules: int) -> None:
    """Restrict the calling process to a set of rules; it must have given up new privileges.

    Raises:
        OSError: the kernel refused.
    """
    kernel.system_call(_RESTRICT_SELF, rules, 0)
    os.close(rules)
