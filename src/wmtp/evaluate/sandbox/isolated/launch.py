"""Starting the candidate's process: as it is, or in namespaces of its own, which `bubblewrap` makes."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .confine import Plan

_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
_TIME_ZONES = ("/etc/localtime", "/usr/share/zoneinfo")
_NAMESPACES = ("ipc", "pid", "net", "uts", "cgroup-try")
_TO_CHANGE_USER = ("CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE")
_STATUS_OF_SIGNAL = 128


def readable_paths() -> list[str]:
    """What an interpreter has to read while it runs: its libraries, those of the system, the time zones."""
    own = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    paths = dict.fromkeys([os.path.dirname(os.__file__), *own, *_SYSTEM_LIBRARIES, *_TIME_ZONES])
    return [path for path in paths if os.path.exists(path)]


def devices() -> list[str]:
    """Devices that anybody may read from and write to without consequences."""
    return [path for path in _DEVICES if os.path.exists(path)]


def start(plan: Plan, arguments: list[str]) -> int:
    """Start an interpreter with nothing on its standard descriptors, and with the inheritable others.

    Args:
        plan: with the level and the user to become.
        arguments: of the interpreter.

    Returns:
        Process id.

    Raises:
        OSError: it cannot be started.
    """
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    if plan["level"] != "namespaces":
        environment = {"HOME": plan["workdir"], "TMPDIR": plan["workdir"]}
        return os.posix_spawn(sys.executable, [sys.executable, *arguments], environment, file_actions=null)
    command = bubblewrap(plan["user"], plan["workdir"], arguments)
    return os.posix_spawnp(command[0], command, {}, file_actions=null)


def exit_code(plan: Plan, status: int) -> int:
    """Exit code of a process that was waited for; negative: the signal that ended it."""
    code = os.waitstatus_to_exitcode(status)
    if plan["level"] == "namespaces" and code > _STATUS_OF_SIGNAL:  # so bubblewrap tells of its child
        return _STATUS_OF_SIGNAL - code
    return code


def bubblewrap(user: int | None, workdir: str, arguments: list[str]) -> list[str]:
    """The command that starts an interpreter in namespaces of its own, as their first process: all end with it.

    Args:
        user: what it will become. Who is able to do so needs no namespace of users: in one, no other user exists.
        workdir: the one directory that can be written to.
        arguments: of the interpreter.
    """
    options = [f"--unshare-{name}" for name in _NAMESPACES]
    options += ["--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    if user is None:
        options += ["--unshare-user"]
    else:
        options += [word for capability in _TO_CHANGE_USER for word in ("--cap-add", capability)]
    options += ["--clearenv", "--setenv", "HOME", workdir, "--setenv", "TMPDIR", workdir]
    interpreter = os.path.realpath(sys.executable)
    readable = [*readable_paths(), interpreter, os.path.dirname(__file__)]
    for parent in _parents([*readable, *devices(), workdir]):
        options += ["--perms", "0755", "--dir", parent]
    for path in readable:
        options += ["--ro-bind", path, path]
    for device in devices():
        options += ["--dev-bind", device, device]
    options += ["--proc", "/proc", "--symlink", "/proc/self/fd/0", "/dev/stdin"]
    options += ["--bind", workdir, workdir, "--chdir", workdir, "--remount-ro", "/"]
    return ["bwrap", *options, "--", interpreter, *arguments]


def _parents(paths: list[str]) -> list[str]:
    """Every directory above one of the paths; bubblewrap would make those closed that are closed outside."""
    parents = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            parents.add(path)
    return sorted(parents)
