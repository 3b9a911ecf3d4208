"""The command by which a server gets namespaces of its own: processes, network, files and IPC."""

import os
import sys
from collections.abc import Iterable

from wmtp.sandbox.isolated import kernel
from wmtp.sandbox.isolated.paths import devices, readable_paths
from wmtp.sandbox.isolated.session import ENVIRONMENT

_NAMESPACES = ("ipc", "pid", "net", "uts", "cgroup-try")
_OWN_CODE = os.path.dirname(kernel.__file__)


def command(place: str, arguments: list[str], readable: Iterable[str] = ()) -> list[str]:
    """Start an interpreter as the first process of namespaces of its own: all in them end with it.

    Args:
        place: the one directory that can be written to.
        arguments: of the interpreter.
        readable: what can be read besides what an interpreter needs.
    """
    options = [f"--unshare-{name}" for name in _NAMESPACES]
    options += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"]
    options += [word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)]
    if kernel.can_change_user():  # in a namespace of users, no other user would exist
        options += [
            word for name in kernel.NEEDED_CAPABILITIES for word in ("--cap-add", f"CAP_{name.upper()}")
        ]
    else:
        options += ["--unshare-user"]
    options += [*_view([place], readable), "--bind", place, place, "--remount-ro", "/"]
    return ["bwrap", *options, "--", os.path.realpath(sys.executable), *arguments]


def _view(places: list[str], readable: Iterable[str]) -> list[str]:
    """Options that show what an interpreter needs to read, and the directories above that and above the places."""
    paths = [*readable_paths(), *readable, os.path.realpath(sys.executable), _OWN_CODE]
    links = {path: os.path.realpath(path) for path in paths if os.path.islink(path)}
    wanted = {links.get(path, path) for path in paths}
    bound = sorted(path for path in wanted if not _is_beneath(path, wanted))
    links = {link: target for link, target in links.items() if not _is_beneath(link, wanted)}
    options = _with_parents([*bound, *links, *devices(), *places])
    for path in bound:
        options += ["--ro-bind", path, path]
    for link, target in links.items():
        options += ["--symlink", target, link]
    for device in devices():
        options += ["--dev-bind", device, device]
    return [*options, "--proc", "/proc", "--symlink", "/proc/self/fd/0", "/dev/stdin"]


def _is_beneath(path: str, others: set[str]) -> bool:
    return any(path.startswith(f"{other}/") for other in others)


def _with_parents(paths: list[str]) -> list[str]:
    """Options that make every directory above the paths; bubblewrap would close those that are closed outside."""
    parents = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            parents.add(path)
    return [word for parent in sorted(parents) for word in ("--perms", "0755", "--dir", parent)]
