"""Builds the command that gives a server its own namespaces: processes, network, files and IPC."""

import os
import sys
from collections.abc import Iterable

from wmtp.sandbox.isolated import kernel
from wmtp.sandbox.isolated.paths import devices, readable_paths
from wmtp.sandbox.isolated.session import ENVIRONMENT

_NAMESPACES = ("ipc", "pid", "net", "uts", "cgroup-try")
_OWN_CODE = os.path.dirname(kernel.__file__)


def command(place: str, arguments: list[str], readable: Iterable[str] = ()) -> list[str]:
    """The command that starts an interpreter as the first process of new namespaces; all others in them end with it.

    Args:
        place: the only writable directory.
        arguments: of the interpreter.
        readable: readable paths besides those an interpreter needs.
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
    """Options that make visible what an interpreter needs to read, and all directories above."""
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
    """Options that create every directory above the paths, open even where the one outside is not."""
    parents = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            parents.add(path)
    return [word for parent in sorted(parents) for word in ("--perms", "0755", "--dir", parent)]
