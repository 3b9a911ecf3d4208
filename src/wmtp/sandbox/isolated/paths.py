"""The paths outside its own directory that an interpreter needs while it runs."""

import os
import sys

_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
_TIME_ZONES = ("/etc/localtime", "/usr/share/zoneinfo")


def readable_paths() -> list[str]:
    """Paths that an interpreter reads while it runs: its libraries, the system's, the time zones."""
    own = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    paths = dict.fromkeys([os.path.dirname(os.__file__), *own, *_SYSTEM_LIBRARIES, *_TIME_ZONES])
    return [path for path in paths if os.path.exists(path)]


def devices() -> list[str]:
    """Devices that are harmless to read from and write to."""
    return [path for path in _DEVICES if os.path.exists(path)]
