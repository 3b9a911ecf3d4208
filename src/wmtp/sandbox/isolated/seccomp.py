"""A filter of system calls that lets an interpreter compute and keep files in a directory, and nothing else.

The filter lists what is allowed. Of the rest, calls that a C library may try and do without (`clone3` and all that
came later) answer ENOSYS, as in a kernel that does not know them, the others EPERM; a call by another architecture's
convention, whose numbers mean something else, kills the process.
See https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import functools
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    Rule = tuple[int, int, tuple[int, ...]]

_ARCHITECTURES = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1)}
"""By machine: the kernel's name for its architecture, and the column of `_NUMBERS`."""

_X32_BIT = 0x4000_0000
_UNIFORM_NUMBERS = 424
"""First number from which calls have the same number on every architecture."""

_KILL, _ALLOW, _REFUSE, _UNKNOWN = 0x8000_0000, 0x7FFF_0000, 0x0005_0001, 0x0005_0026

# fmt: off
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # memory
    "brk": (12, 214), "madvise": (28, 233), "mmap": (9, 222), "mprotect": (10, 226), "mremap": (25, 216),
    "msync": (26, 227), "munmap": (11, 215),
    # descriptors
    "close": (3, 57), "close_range": (436, 436), "copy_file_range": (326, 285), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "fadvise64": (221, 223), "fallocate": (285, 47), "fdatasync": (75, 83), "flock": (73, 32),
    "fstat": (5, 80), "fstatfs": (138, 44), "fsync": (74, 82), "ftruncate": (77, 46), "getdents64": (217, 61),
    "lseek": (8, 62), "pipe": (22, None), "pipe2": (293, 59), "pread64": (17, 67), "preadv": (295, 69),
    "preadv2": (327, 286), "pwrite64": (18, 68), "pwritev": (296, 70), "pwritev2": (328, 287), "read": (0, 63),
    "readv": (19, 65), "sendfile": (40, 71), "write": (1, 64), "writev": (20, 66),
    "fcntl": (72, 25), "ioctl": (16, 29),
    # waiting
    "clock_nanosleep": (230, 115), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22), "epoll_wait": (232, None), "futex": (202, 98), "nanosleep": (35, 101),
    "pause": (34, None), "poll": (7, None), "ppoll": (271, 73), "pselect6": (270, 72), "restart_syscall": (219, 128),
    "sched_yield": (24, 124), "select": (23, None), "wait4": (61, 260), "waitid": (247, 95),
    # files
    "access": (21, None), "chdir": (80, 49), "creat": (85, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "fchdir": (81, 50), "getcwd": (79, 17), "link": (86, None), "linkat": (265, 37), "lstat": (6, None),
    "mkdir": (83, None), "mkdirat": (258, 34), "newfstatat": (262, 79), "readlink": (89, None),
    "readlinkat": (267, 78), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "rmdir": (84, None), "stat": (4, None), "statfs": (137, 43), "statx": (332, 291), "symlink": (88, None),
    "symlinkat": (266, 36), "umask": (95, 166), "unlink": (87, None), "unlinkat": (263, 35),
    "open": (2, None), "openat": (257, 56),
    # time
    "clock_getres": (229, 114), "clock_gettime": (228, 113), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153),
    # signals to oneself, by the clock
    "alarm": (37, None), "getitimer": (36, 102), "rt_sigaction": (13, 134), "rt_sigpending": (127, 136),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137), "setitimer": (38, 103), "sigaltstack": (131, 132),
    # what one is
    "getcpu": (309, 168), "getegid": (108, 177), "geteuid": (107, 175), "getgid": (104, 176),
    "getgroups": (115, 158), "getpgid": (121, 155), "getpgrp": (111, None), "getpid": (39, 172),
    "getppid": (110, 173), "getpriority": (140, 141), "getrandom": (318, 278), "getresgid": (120, 150),
    "getresuid": (118, 148), "getrlimit": (97, 163), "getrusage": (98, 165), "getsid": (124, 156),
    "gettid": (186, 178), "getuid": (102, 174), "sched_getaffinity": (204, 123), "sysinfo": (99, 179),
    "uname": (63, 160), "prlimit64": (302, 261),
    # threads, and the end
    "clone": (56, 220), "exit": (60, 93), "exit_group": (231, 94), "rseq": (334, 293), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
}

_STARTING_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221), "fork": (57, None), "vfork": (58, None),
}
# fmt: on

_READING_AND_CUTTING_OFF = (0o1003, (0, 1, 2, 0o1001, 0o1002))
"""Flags of opening a file: not O_TRUNC when it is opened for reading only, which the first Landlocks let pass."""

_ARGUMENTS: dict[str, Rule] = {
    # F_DUPFD, F_{GET,SET}FD, F_{GET,SET}FL, F_GETLK, F_SETLK, F_SETLKW, the same for open files, F_DUPFD_CLOEXEC;
    # not F_SETOWN and F_SETSIG, by which the kernel sends a signal to anybody
    "fcntl": (1, 0xFFFF_FFFF, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": (1, 0xFFFF_FFFF, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    "open": (1, *_READING_AND_CUTTING_OFF),
    "openat": (2, *_READING_AND_CUTTING_OFF),
    "prlimit64": (0, 0xFFFF_FFFF, (0,)),  # its own limits, which nothing can raise
    "clone": (0, 0x7E03_0000, (0x1_0000,)),  # a thread, and no new namespaces
}
"""By call: position of an argument, the bits of it that count, and the values allowed; the kernel reads 32 bits."""

_CLONE_FOR_PROCESSES = (0, 0x7E02_0000, (0,))

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


def rules(processes: bool) -> tuple[dict[str, tuple[int | None, int | None]], dict[str, Rule]]:
    """What is allowed: calls with their numbers by machine, and what one argument of some must be."""
    if not processes:
        return _NUMBERS, _ARGUMENTS
    return _NUMBERS | _STARTING_PROCESSES, _ARGUMENTS | {"clone": _CLONE_FOR_PROCESSES}


@functools.lru_cache
def program(machine: str, processes: bool) -> bytes:
    """The filter, as instructions for the kernel.

    Args:
        machine: as `os.uname` calls it.
        processes: whether further processes may be started; threads may.

    Raises:
        OSError: there is no filter for this machine.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"there is no system call filter for the machine {machine!r}")
    architecture, column = _ARCHITECTURES[machine]
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        *_unless(_EQUAL, architecture, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
        *_if(_AT_LEAST, _X32_BIT, [_instruction(_RETURN, _KILL)]),
    ]
    calls, arguments = rules(processes)
    for name, numbers in calls.items():
        number = numbers[column]
        if number is not None:
            code += _if(_EQUAL, number, _decide(arguments.get(name)))
    code += _if(_AT_LEAST, _UNIFORM_NUMBERS, [_instruction(_RETURN, _UNKNOWN)])
    return b"".join([*code, _instruction(_RETURN, _REFUSE)])


def machine() -> str:
    """This process's machine, as `program` takes it."""
    return os.uname().machine if sys.maxsize > 1 << 32 else "32-bit"


def _decide(rule: Rule | None) -> list[bytes]:
    if rule is None:
        return [_instruction(_RETURN, _ALLOW)]
    position, mask, allowed = rule
    code = [_instruction(_LOAD, _ARGUMENTS_AT + 8 * position), _instruction(_AND, mask)]
    for value in allowed:
        code += _if(_EQUAL, value, [_instruction(_RETURN, _ALLOW)])
    return [*code, _instruction(_RETURN, _REFUSE)]


def _if(test: int, value: int, then: list[bytes]) -> list[bytes]:
    """Instructions for when what was loaded last passes the test; they must end in a return."""
    return [_instruction(test, value, otherwise=len(then)), *then]


def _unless(test: int, value: int, result: int) -> list[bytes]:
    return [_instruction(test, value, then=1), _instruction(_RETURN, result)]


def _instruction(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    """`then` and `otherwise`: how many instructions a test skips."""
    return struct.pack("=HBBI", code, then, otherwise, operand)
