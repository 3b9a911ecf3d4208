"""What the operating system offers a process that wants to confine itself, without third-party packages."""

import os
import sys

LINUX = sys.platform == "linux"

SIGKILL = 9
SIGXCPU = 24

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

_HIGH_ID, _LOW_ID, _LOW_SPAN = 0x7000_0000, 20_000, 40_000
"""Where per-program user ids start: a range that no system assigns, and one for containers that map 65,536 ids."""

_NEEDED_CAPABILITIES = {"chown": 0, "dac_override": 1, "kill": 5, "setgid": 6, "setuid": 7}
_CAPABILITY_VERSION_3 = 0x2008_0522


def _prctl(option: int, argument: int) -> bool:
    if not LINUX:
        return False
    import ctypes

    return ctypes.CDLL(None).prctl(option, argument, 0, 0, 0) == 0  # type: ignore[no-any-return]


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """A system call that the C library has no function for.

    Raises:
        OSError: it failed.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def filter_system_calls(program: bytes) -> None:
    """Install a filter, a `struct sock_fprog`.

    Raises:
        OSError: the kernel refused it.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), f"no system call filter: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> bool:
    """Have the kernel kill this process when the thread that started it ends. Cleared by a change of user."""
    return _prctl(_PR_SET_PDEATHSIG, SIGKILL)


def protect_memory(protected: bool) -> bool:
    """Close (or open) this process's memory and descriptors to other processes of the same user."""
    return _prctl(_PR_SET_DUMPABLE, 0 if protected else 1)


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent ends, so that none can get away."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> bool:
    """Make set-user-id programs and file capabilities powerless, for ever."""
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> bool:
    """Give up every capability; for a root that cannot become another user."""
    if not LINUX:
        return False
    import ctypes

    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    return ctypes.CDLL(None).capset(header, nothing) == 0  # type: ignore[no-any-return]


def unprivileged_id() -> int | None:
    """A user and group id for one program, its own while this process lives; None when this user cannot change."""
    if os.geteuid() != 0:
        return None
    if not LINUX:
        return _HIGH_ID + os.getpid()
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if not all(effective >> bit & 1 for bit in _NEEDED_CAPABILITIES.values()):
        return None
    for candidate in (_HIGH_ID + os.getpid(), _LOW_ID + os.getpid() % _LOW_SPAN):
        if _mapped("/proc/self/uid_map", candidate) and _mapped("/proc/self/gid_map", candidate):
            return candidate
    return None


def _mapped(path: str, number: int) -> bool:
    with open(path) as lines:
        ranges = [[int(field) for field in line.split()] for line in lines]
    return any(first <= number < first + count for first, _, count in ranges)


def descendants(pid: int) -> list[int]:
    """Living (not zombie) processes below `pid`, nearest first; empty where there is no /proc."""
    if not LINUX:
        return []
    processes: dict[int, tuple[int, bool]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    state, parent = stat.read().rpartition(b")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            processes[int(entry)] = (int(parent), state == b"Z")
    found: list[int] = []
    family = [pid]
    while family:
        family = [child for child, (above, _) in processes.items() if above in family]
        found += [child for child in family if not processes[child][1]]
    return found


def kill(pid: int, group: bool = False) -> None:
    """SIGKILL to a process, or to its group, that may be gone already (macOS then says: not permitted)."""
    try:
        if group:
            os.killpg(pid, SIGKILL)
        else:
            os.kill(pid, SIGKILL)
    except (ProcessLookupError, PermissionError):  # importing contextlib.suppress costs 5 ms
        pass
