"""What a process gives up before it runs a candidate's code. Every measure is final: it cannot be taken back."""

from __future__ import annotations

import os
import resource
import sys

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Plan(TypedDict):
        """Limits as in `Limits`; `user`, an id to become, or None; `judge`, the process that started this one."""

        cpu_seconds: float
        wall_seconds: float
        memory_mib: int
        file_mib: int
        open_files: int
        processes: int
        reply_bytes: int
        workdir: str
        user: int | None
        judge: int


_MIB = 1 << 20


def confine(plan: Plan) -> dict[str, bool]:
    """Confine the calling process.

    Returns:
        Measure to whether this machine has it.

    Raises:
        OSError: a measure that this machine should have was refused.
    """
    os.setsid()
    os.chdir(str(plan["workdir"]))
    os.umask(0o077)
    _limit(plan)
    library = _open_library()
    no_new_privileges = kernel.no_new_privileges()
    if plan["user"] is not None:
        _become(plan["user"])
    facts = {
        "separate_user": plan["user"] is not None,
        "no_capabilities": os.geteuid() != 0 or kernel.drop_capabilities(),
        "no_new_privileges": no_new_privileges,
        "dies_with_judge": kernel.die_with_parent(),
        "no_subprocesses": plan["processes"] == 0 and os.geteuid() != 0,
        "memory_limit": kernel.LINUX,
    }
    if os.getppid() != plan["judge"]:
        os._exit(1)
    _keep_library_readable(library)
    return facts


def _limit(plan: Plan) -> None:
    cpu = int(-(-plan["cpu_seconds"] // 1))
    limits = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),  # a signal that can be ignored, then one that cannot
        resource.RLIMIT_FSIZE: 2 * (plan["file_mib"] * _MIB,),
        resource.RLIMIT_NOFILE: 2 * (plan["open_files"],),
        resource.RLIMIT_NPROC: 2 * (plan["processes"] + 1,),
        resource.RLIMIT_CORE: (0, 0),
    }
    if kernel.LINUX:  # macOS refuses a limit on the address space
        limits[resource.RLIMIT_AS] = 2 * (plan["memory_mib"] * _MIB,)
    for which, (soft, hard) in limits.items():
        allowed = resource.getrlimit(which)[1]
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        resource.setrlimit(which, (soft, hard))


def _become(user: int) -> None:
    os.setgroups([])
    os.setregid(user, user)
    os.setreuid(user, user)


def _open_library() -> list[tuple[str, int]]:
    """The standard library's directories, each with a descriptor."""
    return [(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)) for path in sys.path if os.path.isdir(path)]


def _keep_library_readable(library: list[tuple[str, int]]) -> None:
    """Import through the descriptors where the new user may not walk to the interpreter (/root is 0700)."""
    if all(os.access(path, os.R_OK | os.X_OK) for path, _ in library):
        for _, fd in library:
            os.close(fd)
        return
    kernel.protect_memory(False)  # a change of user closes /proc/self to its own process
    sys.path[:] = [f"/proc/self/fd/{fd}" for _, fd in library]
    sys.path_importer_cache.clear()
    if not all(os.access(path, os.R_OK | os.X_OK) for path in sys.path):
        raise PermissionError(f"user {os.geteuid()} may not read the standard library in {library[0][0]}")
