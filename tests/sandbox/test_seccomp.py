"""The filter, run by an interpreter of its instructions that is written from the kernel's description of them."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox.isolated import seccomp

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
KILL, ALLOW, EPERM, ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
STARTING = {"clone", "execve", "fork", "vfork"}

DANGEROUS = """
    accept accept4 acct add_key adjtimex bind bpf chmod chown chroot clone connect execve execveat fanotify_init
    fchmod fchmodat fchown fchownat fork fsetxattr init_module inotify_init1 io_setup ioperm iopl kcmp kexec_load
    keyctl kill lchown listen lookup_dcookie mbind memfd_create mknod mknodat mount move_pages mq_open msgget
    name_to_handle_at open_by_handle_at perf_event_open personality pivot_root prctl process_vm_readv
    process_vm_writev ptrace quotactl reboot recvfrom recvmsg request_key rt_sigqueueinfo rt_tgsigqueueinfo
    sched_setaffinity sched_setscheduler semget sendmmsg sendmsg sendto setdomainname setfsuid setgid setgroups
    sethostname setns setpriority setregid setresuid setreuid setrlimit setsid setuid setxattr shmat shmget socket
    socketpair splice swapon sync syslog tee tgkill timer_create tkill truncate umount2 unshare userfaultfd utimensat
    vfork vmsplice
"""
NEWER = """
    clone3 io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen mount_setattr pidfd_open
    pidfd_getfd pidfd_send_signal process_madvise openat2 landlock_create_ruleset memfd_secret
"""


def evaluate(program: bytes, number: int, architecture: int, arguments: list[int]) -> int:
    """What the filter answers: struct seccomp_data is number, architecture, instruction pointer, six arguments."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *(a % (1 << 64) for a in arguments))
    accumulator, at = 0, 0
    for _ in range(10_000):
        code, then, otherwise, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= operand
        elif code == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += then if accumulator == operand else otherwise
        elif code == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            at += then if accumulator >= operand else otherwise
        elif code == 0x06:  # BPF_RET | BPF_K
            return int(operand)
        else:
            raise AssertionError(f"instruction {code:#x}")
    raise AssertionError("no end")


def numbers(machine: str) -> dict[str, int]:
    """The kernel's own numbers, from its headers."""
    path = Path(HEADERS[machine])
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    text = path.read_text()
    found = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)\s", text)}
    shared = dict(re.findall(r"#define __NR3264_(\w+)\s+(\d+)\s", text))
    for name, alias in re.findall(r"#define __NR_(\w+)\s+__NR3264_(\w+)", text):
        if alias in shared:
            found[name] = int(shared[alias])
    return found


def answers(machine: str, name: str, *arguments: int, processes: bool = False) -> int:
    program = seccomp.program(machine, processes)
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    return evaluate(program, numbers(machine)[name], ARCHITECTURES[machine], padded)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_are_the_kernels(machine: str) -> None:
    """A number that is wrong would allow another call. What the headers are too old for, later tests cover."""
    column = list(ARCHITECTURES).index(machine)
    expected = numbers(machine)
    table, _ = seccomp.rules(True)
    ours = {name: pair[column] for name, pair in table.items() if pair[column] is not None}
    assert {name: number for name, number in ours.items() if expected[name] != number} == {}
    absent = {name for name, pair in table.items() if pair[column] is None}
    assert absent & set(expected) == set()


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_dangerous_calls_are_refused(machine: str) -> None:
    present = [name for name in DANGEROUS.split() if name in numbers(machine)]
    assert len(present) > 80
    assert {name for name in present if answers(machine, name) != EPERM} == set()
    newer = [name for name in NEWER.split() if name in numbers(machine)]
    assert {name for name in newer if answers(machine, name) != ENOSYS} == set()


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_processes_may_be_allowed_but_no_namespaces(machine: str) -> None:
    present = STARTING & set(numbers(machine))
    assert {answers(machine, name) for name in present} == {EPERM}
    assert {answers(machine, name, processes=True) for name in present} == {ALLOW}
    thread, new_user, new_net, new_mount = 0x3D0F00, 1 << 28, 1 << 30, 1 << 17
    assert answers(machine, "clone", thread, processes=True) == ALLOW
    for flags in (new_user, new_net, new_mount, thread | new_user, new_user | 1 << 40):
        assert {answers(machine, "clone", flags, processes=p) for p in (True, False)} == {EPERM}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_threads_are_no_processes(machine: str) -> None:
    thread, fork, spawn = 0x3D0F00, 0x1200011, 0x4111
    assert answers(machine, "clone", thread) == ALLOW
    assert {answers(machine, "clone", flags) for flags in (fork, spawn, 17, 0, 1 << 48)} == {EPERM}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_arguments_decide(machine: str) -> None:
    for command in (0, 1, 2, 3, 4, 1030):
        assert answers(machine, "fcntl", 3, command) == ALLOW
    for command in (8, 10, 15, 1024, 1026, 8 | 1 << 32, 1031, 1033):
        assert answers(machine, "fcntl", 3, command) == EPERM
    assert answers(machine, "ioctl", 0, 0x5401) == ALLOW
    assert {
        answers(machine, "ioctl", 0, request) for request in (0x5412, 0x5413 | 1 << 9, 0x5452, 0x8901)
    } == {EPERM}
    assert answers(machine, "prlimit64", 0, 7) == ALLOW
    assert {answers(machine, "prlimit64", pid, 7) for pid in (1, 4321, -1)} == {EPERM}
    read, write, both, cut, create = 0, 1, 2, 0o1000, 0o100
    for flags in (read, write, both, write | cut, both | cut | create, write | create, 0o2000000):
        assert answers(machine, "openat", -100, 0, flags) == ALLOW
    for flags in (read | cut, cut | create, cut | 0o2000000, cut | 1 << 40):
        assert answers(machine, "openat", -100, 0, flags) == EPERM


@given(
    machine=st.sampled_from(list(ARCHITECTURES)),
    number=st.integers(0, 700) | st.integers(0, (1 << 31) - 1),
    arguments=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6),
    processes=st.booleans(),
)
def test_what_is_not_listed_is_not_allowed(
    machine: str, number: int, arguments: list[int], processes: bool
) -> None:
    column = list(ARCHITECTURES).index(machine)
    table, rules = seccomp.rules(processes)
    names = {pair[column]: name for name, pair in table.items() if pair[column] is not None}
    answer = evaluate(seccomp.program(machine, processes), number, ARCHITECTURES[machine], arguments)
    if number >= 1 << 30:
        assert answer == KILL
    elif number not in names:
        assert answer == (ENOSYS if number >= 424 else EPERM)
    elif names[number] not in rules:
        assert answer == ALLOW
    else:
        position, mask, allowed = rules[names[number]]
        assert answer == (ALLOW if arguments[position] & mask in allowed else EPERM)


@given(st.sampled_from(list(ARCHITECTURES)), st.integers(0, (1 << 32) - 1), st.integers(0, 500))
def test_another_architecture_is_fatal(machine: str, architecture: int, number: int) -> None:
    if architecture != ARCHITECTURES[machine]:
        assert evaluate(seccomp.program(machine, True), number, architecture, [0] * 6) == KILL


def test_no_filter_for_other_machines() -> None:
    with pytest.raises(OSError, match="no system call filter for the machine 'riscv64'"):
        seccomp.program("riscv64", False)
