"""Confines a process before it runs a candidate's code. No measure can be undone."""

from __future__ import annotations

import os
import resource
import sys

from . import kernel, landlock, packages
from .paths import devices, readable_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Plan(TypedDict):
        """Limits as in `Limits`; `level`, as in `levels`; `user`, an id to become, or None; `judge`, the process that
        started this one; `filter`, of system calls, as instructions (empty at level basic); `metered`, whether the
        judge ends it when it has used up its processor time; `packages` and `preload`, see `packages.provide`.
        """

        cpu_seconds: float
        wall_seconds: float
        memory_mib: int
        file_mib: int
        open_files: int
        processes: int
        reply_bytes: int
        level: str
        workdir: str
        user: int | None
        judge: int
        filter: bytes
        metered: bool
        packages: dict[str, str]
        preload: list[str]


_MIB = 1 << 20
_THREADS = 8


def confine(plan: Plan) -> dict[str, bool]:
    """Confine the calling process.

    Returns:
        By measure, whether this machine has it.

    Raises:
        OSError: a measure that this machine should have was refused.
        ImportError: a package that the program needs does not work.
    """
    spent_seconds = packages.provide(plan["packages"], plan["preload"])
    by_kernel = plan["level"] in ("kernel", "namespaces")
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.chdir(str(plan["workdir"]))
    os.umask(0o077)
    library, provided = _open_library(), _open_packages(plan["packages"])
    rules = landlock.ruleset(_rights(plan["packages"])) if by_kernel else None
    threads = _THREADS if by_kernel else 0  # without a filter, they could as well be processes
    companions = 2 if plan["level"] == "namespaces" and plan["user"] is None else 0  # server and judge
    _limit(plan, plan["processes"] + 1 + threads + companions, spent_seconds)
    no_new_privileges = kernel.no_new_privileges()
    if plan["user"] is not None:
        _become(plan["user"])
    facts = {
        "separate_user": plan["user"] is not None,
        "no_capabilities": os.geteuid() != 0 or kernel.drop_capabilities(),
        "no_new_privileges": no_new_privileges,
        "dies_with_judge": kernel.die_with_parent(),
        "no_subprocesses": plan["processes"] == 0 and (os.geteuid() != 0 or by_kernel),
        "memory_limit": kernel.LINUX,
        "files_restricted": by_kernel,
        "system_calls_filtered": by_kernel,
        "own_namespaces": plan["level"] == "namespaces",
    }
    if os.getppid() != plan["judge"]:
        os._exit(1)
    _keep_library_readable(library)
    _keep_packages_readable(provided)
    if rules is not None:
        landlock.enter(rules)
        kernel.filter_system_calls(plan["filter"])
    return facts


def _limit(plan: Plan, processes: int, spent_seconds: float) -> None:
    cpu = int(-(-(plan["cpu_seconds"] + spent_seconds) // 1))
    if plan["metered"]:  # the judge counts more justly, and this only helps it
        cpu += int(plan["wall_seconds"]) + 1
    limits = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),  # a signal that can be ignored, then one that cannot
        resource.RLIMIT_FSIZE: 2 * (plan["file_mib"] * _MIB,),
        resource.RLIMIT_NOFILE: 2 * (plan["open_files"],),
        resource.RLIMIT_NPROC: 2 * (processes,),
        resource.RLIMIT_CORE: (0, 0),
    }
    if kernel.LINUX:  # macOS refuses a limit on the address space
        limits[resource.RLIMIT_AS] = 2 * (plan["memory_mib"] * _MIB + packages.finder.held_bytes,)
    for which, (soft, hard) in limits.items():
        allowed = resource.getrlimit(which)[1]
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        resource.setrlimit(which, (soft, hard))


def _become(user: int) -> None:
    os.setgroups([])
    os.setregid(user, user)
    os.setreuid(user, user)
    kernel.protect_memory(False)  # a change of user closes /proc/self, and so /dev/stdin, to its own process


def _rights(places: dict[str, str]) -> dict[str, int]:
    """The rights that Landlock leaves."""
    rights = dict.fromkeys([*readable_paths(), *packages.readable_paths(places)], landlock.READ)
    rights |= dict.fromkeys(devices(), landlock.READ | landlock.WRITE)
    rights["."] = landlock.READ | landlock.WRITE | landlock.KEEP_HOUSE
    return rights


def _open_library() -> list[tuple[str, int]]:
    """The standard library's directories, each with a descriptor."""
    return [(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)) for path in sys.path if os.path.isdir(path)]


def _open_packages(places: dict[str, str]) -> dict[str, tuple[str, int]]:
    """The packages' places, each with a descriptor."""
    return {name: (place, os.open(place, os.O_RDONLY)) for name, place in places.items()}


def _keep_library_readable(library: list[tuple[str, int]]) -> None:
    """Import through the descriptors where the new user may not reach the interpreter (/root is 0700)."""
    if all(os.access(path, os.R_OK | os.X_OK) for path, _ in library):
        for _, fd in library:
            os.close(fd)
        return
    ways = {path: f"/proc/self/fd/{fd}" for path, fd in library}
    sys.path[:] = ways.values()
    _change_paths(ways)
    sys.path_importer_cache.clear()
    if not all(os.access(path, os.R_OK | os.X_OK) for path in sys.path):
        raise PermissionError(f"user {os.geteuid()} may not read the standard library in {library[0][0]}")


def _keep_packages_readable(places: dict[str, tuple[str, int]]) -> None:
    """The same for packages."""
    for name, (place, fd) in places.items():
        if os.access(place, os.R_OK):
            os.close(fd)
        else:
            packages.provide({name: f"/proc/self/fd/{fd}"}, ())
            _change_paths({place: f"/proc/self/fd/{fd}"})


def _change_paths(ways: dict[str, str]) -> None:
    """Let packages that are already imported find their other modules through the descriptors."""
    for package in [module for module in sys.modules.values() if hasattr(module, "__path__")]:
        for path, way in ways.items():
            package.__path__ = [place.replace(path, way) for place in package.__path__]
