"""Calls of the operating system with which a process confines itself, without third-party packages."""

from __future__ import annotations

import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LINUX = sys.platform == "linux"

SIGKILL = 9
SIGXCPU = 24

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

_HIGH_ID, _HIGH_SPAN, _LOW_ID, _LOW_SPAN = 0x7000_0000, 0x0800_0000, 20_000, 40_000
"""First user id of the programs: in a range that no system assigns, and in one for containers that map 65,536 ids."""

NEEDED_CAPABILITIES = {"chown": 0, "dac_override": 1, "kill": 5, "setgid": 6, "setuid": 7}
_CAPABILITY_VERSION_3 = 0x2008_0522

_functions: dict[str, Callable[..., int]] = {}


def _c_function(name: str) -> Callable[..., int]:
    """A function of the C library, from whole numbers, bytes and None (a null pointer) to a whole number.

    By `_ctypes`, what `ctypes` is made of: to import that one takes as long as a tenth of a short program.
    """
    if name in _functions:
        return _functions[name]
    import _ctypes

    class Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "l"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Long

    function = Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]

    def call(*arguments: int | bytes | None) -> int:
        return function(*[Long(a) if isinstance(a, int) else a for a in arguments])  # type: ignore[no-any-return]

    _functions[name] = call
    return call


def _last_error(doing: str) -> OSError:
    import _ctypes

    number = _ctypes.get_errno()
    return OSError(number, f"{doing}: {os.strerror(number)}")


def _prctl(option: int, *arguments: int | bytes) -> bool:
    return LINUX and _c_function("prctl")(option, *arguments, *(4 - len(arguments)) * (0,)) == 0


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """A system call that the C library has no function for.

    Raises:
        OSError: it failed.
    """
    result = _c_function("syscall")(number, *arguments)
    if result < 0:
        raise _last_error(f"system call {number}")
    return result


def filter_system_calls(program: bytes) -> None:
    """Filter the system calls of the calling process from now on; it must have given up new privileges.

    Args:
        program: instructions for the kernel, 8 bytes each; see `seccomp`.

    Raises:
        OSError: the kernel refused it.
    """
    import _ctypes

    class Char(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "c"

    class Instructions(_ctypes.Array):  # type: ignore[type-arg]
        _type_ = Char
        _length_ = len(program)

    instructions = Instructions.from_buffer_copy(program)
    descriptor = struct.pack("HP", len(program) // 8, _ctypes.addressof(instructions))
    if not _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, descriptor):
        raise _last_error("no system call filter")


def address_space() -> int:
    """Bytes of address space that this process has reserved; 0 where that is neither known nor limited."""
    if not LINUX:
        return 0
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def processor_clock(pid: int) -> int | None:
    """The clock of the processor time of another process, for `time.clock_gettime`; None where there is none."""
    return (~pid << 3) | 2 if LINUX else None


def die_with_parent(signal: int = SIGKILL) -> bool:
    """Have the kernel signal this process when the thread that started it ends. A change of user clears this."""
    return _prctl(_PR_SET_PDEATHSIG, signal)


def protect_memory(protected: bool) -> bool:
    """Close (or open) this process's memory and descriptors to other processes of the same user."""
    return _prctl(_PR_SET_DUMPABLE, 0 if protected else 1)


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent ends, so that none can escape."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> bool:
    """Disable set-user-id programs and file capabilities for good."""
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> bool:
    """Give up every capability; for a root that cannot become another user."""
    if not LINUX:
        return False
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    return _c_function("capset")(header, bytes(24)) == 0


def can_change_user() -> bool:
    """Whether this process may start others under another user, and manage them and their files."""
    if os.geteuid() != 0 or not LINUX:
        return os.geteuid() == 0
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return all(effective >> bit & 1 for bit in NEEDED_CAPABILITIES.values())


def unprivileged_id(number: int) -> int | None:
    """A user and group id for the programs of one server; None when this user cannot change.

    Args:
        number: of the thread that started the server, which no other thread on the machine has.
    """
    if not can_change_user():
        return None
    high, low = _HIGH_ID + number % _HIGH_SPAN, _LOW_ID + number % _LOW_SPAN
    if not LINUX:
        return high
    for candidate in (high, low):
        if _mapped("/proc/self/uid_map", candidate) and _mapped("/proc/self/gid_map", candidate):
            return candidate
    return None


def _mapped(path: str, number: int) -> bool:
    with open(path) as lines:
        ranges = [[int(field) for field in line.split()] for line in lines]
    return any(first <= number < first + count for first, _, count in ranges)


def descendants(pid: int, zombies: bool = False) -> list[int]:
    """Living processes below `pid` (with zombies if asked for), nearest first; empty without /proc."""
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
        found += [child for child in family if zombies or not processes[child][1]]
    return found


def kill(pid: int, group: bool = False) -> None:
    """Kill a process, or its group, that may already be gone (macOS then says: not permitted)."""
    try:
        if group:
            os.killpg(pid, SIGKILL)
        else:
            os.kill(pid, SIGKILL)
    except (ProcessLookupError, PermissionError):  # importing contextlib.suppress costs 5 ms
        pass
