"""What a program should not be able to do, one function each; it runs inside the sandbox, and outside as a control.

`attempt(name, targets)` says "reached", or what refused it. What succeeds is taken back or harmless, so that it may
run anywhere. Targets: `secret`, `open`, `owned` and `empty`, files (all but the first may be written to, the third
belongs to the evaluator's user); `public`, a directory that anybody may write to; `victim`, a process; `tcp`, `udp`,
ports; `unix`, `abstract`, addresses of sockets.
"""

import ctypes
import fcntl
import importlib.util
import mmap
import os
import platform
import resource
import socket
import uuid
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
UNIFORM = {"io_uring_setup": 425, "openat2": 437, "pidfd_open": 434, "open_tree": 428, "clone3": 435}
X86_64 = {
    "add_key": 248,
    "bpf": 321,
    "perf_event_open": 298,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "tgkill": 234,
    "userfaultfd": 323,
}
AARCH64 = {
    "add_key": 217,
    "bpf": 280,
    "perf_event_open": 241,
    "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240,
    "tgkill": 131,
    "userfaultfd": 282,
}
NUMBERS = UNIFORM | (X86_64 if platform.machine() == "x86_64" else AARCH64)
HAS_NUMPY = importlib.util.find_spec("numpy") is not None
O_PATH, AT_FDCWD = 0o10000000, -100
REFUSALS = (
    "PermissionError",
    "FileNotFoundError",
    "ProcessLookupError",
    "OSError: [Errno 18]",  # another device: a link leads out of the one directory
    "OSError: [Errno 30]",  # a read-only file system
    "OSError: [Errno 38]",  # not implemented
)
Targets = dict[str, Any]


def attempt(name: str, targets: Targets) -> str:
    try:
        ATTACKS[name](targets)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "reached"


def unrefused(names: list[str], targets: Targets) -> list[str]:
    """Those of the attacks that succeeded, or failed for another reason than that something forbade them."""
    answers = {name: attempt(name, targets) for name in names}
    return [f"{name}: {answer[:60]}" for name, answer in answers.items() if not answer.startswith(REFUSALS)]


def checked(result: int, *harmless: int) -> int:
    """The result of a C function; an error, but for those that say the call was let through."""
    number = ctypes.get_errno()
    if result < 0 and number not in harmless:
        raise OSError(number, os.strerror(number))
    return result


def system_call(name: str, *arguments: Any, harmless: tuple[int, ...] = ()) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(LIBC.syscall(ctypes.c_long(NUMBERS[name]), *words), *harmless)


def fresh(targets: Targets) -> str:
    return os.path.join(targets["public"], uuid.uuid4().hex)


def read_file(t: Targets) -> None:
    assert Path(t["secret"]).read_text() == "sesame"


def read_passwd(t: Targets) -> None:
    assert Path("/etc/passwd").read_bytes()


def list_directory(t: Targets) -> None:
    assert os.listdir(os.path.dirname(t["secret"]))


def list_root(t: Targets) -> None:
    """A bare list of the root is all that own namespaces give; one with the home directories in it is a leak."""
    if not {"home", "etc", "var", "tmp", "opt", "srv"} <= set(os.listdir("/")):
        raise PermissionError("only what the interpreter needs is there")


def read_through_symbolic_link(t: Targets) -> None:
    os.symlink(t["secret"], "link")
    try:
        read_file({"secret": "link"})
    finally:
        os.unlink("link")


def read_through_hard_link(t: Targets) -> None:
    os.link(t["open"], "hard")
    try:
        assert Path("hard").read_text() == "sesame"
    finally:
        os.unlink("hard")


def read_from_parent_directory(t: Targets) -> None:
    here = os.open(".", O_PATH)
    try:
        os.close(os.open("../" * 30 + t["secret"], os.O_RDONLY, dir_fd=here))
    finally:
        os.close(here)


def read_through_any_descriptor(t: Targets) -> None:
    for fd in [*range(3, 64), os.open(".", O_PATH)]:
        try:
            os.close(os.open("../" * 30 + t["secret"], os.O_RDONLY, dir_fd=fd))
        except OSError as error:
            last = error
        else:
            return
    raise last


def read_after_moving_up(t: Targets) -> None:
    here = os.getcwd()
    try:
        os.chdir("/")
        read_file(t)
    finally:
        os.chdir(here)


def read_by_openat2(t: Targets) -> None:
    how = (ctypes.c_uint64 * 3)()
    os.close(system_call("openat2", AT_FDCWD, t["secret"].encode(), how, 24))


def read_process_environment(t: Targets) -> None:
    Path(f"/proc/{t['victim']}/environ").read_bytes()


def read_process_command(t: Targets) -> None:
    assert Path(f"/proc/{t['victim']}/cmdline").read_bytes()


def read_process_memory(t: Targets) -> None:
    os.close(os.open(f"/proc/{t['victim']}/mem", os.O_RDONLY))


def read_own_memory_map(t: Targets) -> None:
    assert Path("/proc/self/maps").read_bytes()


def read_kernel_settings(t: Targets) -> None:
    assert Path("/proc/sys/kernel/osrelease").read_bytes()
    assert os.listdir("/sys")


def write_file(t: Targets) -> None:
    with open(t["open"], "r+b") as file:
        file.write(b"s")


def write_new_file(t: Targets) -> None:
    path = fresh(t)
    Path(path).touch()
    os.unlink(path)


def write_shared_memory(t: Targets) -> None:
    path = f"/dev/shm/{uuid.uuid4().hex}"
    Path(path).touch()
    os.unlink(path)


def write_temporary(t: Targets) -> None:
    path = f"/tmp/{uuid.uuid4().hex}"
    Path(path).touch()
    os.unlink(path)


def write_unnamed_file(t: Targets) -> None:
    os.close(os.open(t["public"], os.O_TMPFILE | os.O_RDWR))


def cut_off_file(t: Targets) -> None:
    os.truncate(t["open"], 6)


def cut_off_file_while_reading(t: Targets) -> None:
    os.close(os.open(t["empty"], os.O_RDONLY | os.O_TRUNC))


def make_directory(t: Targets) -> None:
    path = fresh(t)
    os.mkdir(path)
    os.rmdir(path)


def make_symbolic_link(t: Targets) -> None:
    path = fresh(t)
    os.symlink("/", path)
    os.unlink(path)


def make_named_pipe(t: Targets) -> None:
    path = fresh(t)
    os.mkfifo(path)
    os.unlink(path)


def move_file_out(t: Targets) -> None:
    path = fresh(t)
    Path("inside").touch()
    try:
        os.rename("inside", path)
    except OSError as error:
        os.unlink("inside")
        if error.errno == 18:  # another device: plain files are then copied, which is refused just as well
            write_new_file(t)
            return
        raise
    os.unlink(path)


def change_mode(t: Targets) -> None:
    os.chmod(t["owned"], 0o666)


def change_times(t: Targets) -> None:
    os.utime(t["owned"], (1, 1))


def change_owner(t: Targets) -> None:
    os.chown(t["owned"], os.getuid(), os.getgid())


def lock_out_with_lease(t: Targets) -> None:
    with open(t["owned"]) as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def connect_tcp(t: Targets) -> None:
    socket.create_connection(("127.0.0.1", t["tcp"]), 5).close()


def listen_tcp(t: Targets) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


def send_udp(t: Targets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", t["udp"]))


def connect_unix(t: Targets) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(t["unix"])


def connect_abstract(t: Targets) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + t["abstract"])


def pair_of_sockets(t: Targets) -> None:
    for end in socket.socketpair():
        end.close()


def netlink(t: Targets) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def signal_process(t: Targets) -> None:
    os.kill(t["victim"], 0)


def signal_group(t: Targets) -> None:
    os.killpg(t["victim"], 0)


def signal_thread(t: Targets) -> None:
    system_call("tgkill", t["victim"], t["victim"], 0)


def signal_queued(t: Targets) -> None:
    information = ctypes.create_string_buffer(128)
    ctypes.c_int.from_buffer(information, 8).value = -1
    system_call("rt_sigqueueinfo", t["victim"], 0, information)


def signal_thread_queued(t: Targets) -> None:
    information = ctypes.create_string_buffer(128)
    ctypes.c_int.from_buffer(information, 8).value = -1
    system_call("rt_tgsigqueueinfo", t["victim"], t["victim"], 0, information)


def signal_by_pidfd(t: Targets) -> None:
    os.close(system_call("pidfd_open", t["victim"], 0))


def signal_by_pipe(t: Targets) -> None:
    """Have the kernel send a signal of choice to any process of the same user when the pipe is written to."""
    read, write = os.pipe()
    try:
        fcntl.fcntl(read, fcntl.F_SETOWN, t["victim"])
        fcntl.fcntl(read, fcntl.F_SETSIG, 9)
    finally:
        os.close(read)
        os.close(write)


def trace(t: Targets) -> None:
    seize = 0x4206
    checked(LIBC.ptrace(ctypes.c_long(seize), ctypes.c_long(t["victim"]), None, None))
    detach = 17
    LIBC.ptrace(ctypes.c_long(detach), ctypes.c_long(t["victim"]), None, None)


def read_memory_of_process(t: Targets) -> None:
    class Span(ctypes.Structure):
        _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))

    room = ctypes.create_string_buffer(8)
    local, remote = Span(ctypes.addressof(room), 8), Span(0x1000, 8)
    bad_address = 14
    checked(
        LIBC.process_vm_readv(t["victim"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0), bad_address
    )


def limit_other_process(t: Targets) -> None:
    resource.prlimit(
        t["victim"], resource.RLIMIT_NOFILE, resource.prlimit(t["victim"], resource.RLIMIT_NOFILE)
    )


def change_priority_of_process(t: Targets) -> None:
    os.setpriority(os.PRIO_PROCESS, t["victim"], os.getpriority(os.PRIO_PROCESS, t["victim"]))


def fork(t: Targets) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def spawn(t: Targets) -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)


def clone3(t: Targets) -> None:
    invalid, too_big = 22, 7
    system_call("clone3", None, 1 << 20, harmless=(invalid, too_big))


def execute(t: Targets) -> None:
    try:
        os.execv("/nonexistent", ["x"])
    except FileNotFoundError:
        return


def execute_descriptor(t: Targets) -> None:
    try:
        os.execve(os.open(os.devnull, os.O_RDONLY), ["x"], {})
    except PermissionError as error:
        if error.errno == 1:
            raise


def memory_file(t: Targets) -> None:
    os.close(os.memfd_create("x"))


def new_namespaces(t: Targets) -> None:
    bad_flags = 22
    checked(LIBC.unshare(0x1000_0001), bad_flags)


def enter_namespace(t: Targets) -> None:
    bad_descriptor = 9
    checked(LIBC.setns(-1, 0), bad_descriptor)


def mount(t: Targets) -> None:
    """To the kernel, no capability and no permission read alike; a filter answers before the arguments are read."""
    bad_descriptor, no_entry, bad_address = 9, 2, 14
    system_call("open_tree", AT_FDCWD, b"/nonexistent", 0, harmless=(bad_descriptor, no_entry, bad_address))


def io_uring(t: Targets) -> None:
    os.close(system_call("io_uring_setup", 1, ctypes.create_string_buffer(256)))


def load_bpf(t: Targets) -> None:
    too_big = 7
    system_call("bpf", 0, ctypes.create_string_buffer(b"x" * 5000), 5000, harmless=(too_big,))


def count_events(t: Targets) -> None:
    bad_address, too_big, invalid = 14, 7, 22
    system_call("perf_event_open", None, 0, -1, -1, 0, harmless=(bad_address, too_big, invalid))


def handle_page_faults(t: Targets) -> None:
    user_mode_only = 1
    os.close(system_call("userfaultfd", user_mode_only))


def add_key(t: Targets) -> None:
    bad_address = 14
    system_call("add_key", None, None, None, 0, 0, harmless=(bad_address,))


def watch_files(t: Targets) -> None:
    os.close(checked(LIBC.inotify_init1(0)))


def leave_shared_segment(t: Targets) -> None:
    segment = checked(LIBC.shmget(0, 4096, 0o1600))
    LIBC.shmctl(segment, 0, None)


def leave_message_queue(t: Targets) -> None:
    queue = checked(LIBC.msgget(0, 0o1600))
    LIBC.msgctl(queue, 0, None)


def change_personality(t: Targets) -> None:
    checked(LIBC.personality(ctypes.c_ulong(0)))


def outlive_parent(t: Targets) -> None:
    checked(LIBC.prctl(1, 0, 0, 0, 0))


def writable_device_control(t: Targets) -> None:
    not_a_terminal = 25
    request = 0x5412  # TIOCSTI, which types into a terminal
    checked(LIBC.ioctl(0, ctypes.c_ulong(request), b"x"), not_a_terminal)


def call_by_other_architecture(t: Targets) -> None:
    """getpid, by 32-bit x86's number and gate."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    assert function() == os.getpid()


def call_by_x32(t: Targets) -> None:
    not_implemented = 38
    checked(LIBC.syscall(ctypes.c_long(0x4000_0000 | 39)), not_implemented)


def numpy_read(t: Targets) -> None:
    """By a C library's stdio, which is not Python's."""
    import numpy as np

    assert np.fromfile(t["secret"], "S1").tobytes() == b"sesame"


def numpy_map(t: Targets) -> None:
    import numpy as np

    assert bytes(np.memmap(t["secret"], "u1", "r")) == b"sesame"


def numpy_map_to_write(t: Targets) -> None:
    import numpy as np

    np.memmap(t["open"], "u1", "r+")[0] = ord("s")


def numpy_write(t: Targets) -> None:
    import numpy as np

    path = fresh(t)
    np.zeros(1).tofile(path)
    os.unlink(path)


def numpy_save(t: Targets) -> None:
    import numpy as np

    path = fresh(t) + ".npy"
    np.save(path, np.zeros(1))
    os.unlink(path)


def numpy_unpickle(t: Targets) -> None:
    """Code in a pickle has no more power than code."""
    import io

    import numpy as np

    class Reader:
        def __reduce__(self) -> Any:
            return eval, (f"open({t['secret']!r}).read()",)

    file = io.BytesIO()
    np.save(file, np.array([Reader()], dtype=object), allow_pickle=True)
    file.seek(0)
    assert np.load(file, allow_pickle=True)[0] == "sesame"


def numpy_open(t: Targets) -> None:
    from numpy.lib.npyio import DataSource

    with DataSource(None).open(t["secret"]) as file:
        assert file.read() == "sesame"


def numpy_load_library(t: Targets) -> None:
    """What it loads runs with the program's own rights."""
    import numpy as np

    library: Any = np.ctypeslib.load_library("libc.so.6", "")
    fd = library.open(t["secret"].encode(), 0)
    if fd < 0:
        raise PermissionError
    os.close(fd)


def numpy_raw_memory(t: Targets) -> None:
    """A system call by way of memory that an array was made of."""
    import numpy as np

    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    np.frombuffer(page, "u1")[:9] = list(b"\xb8\x29\0\0\0\x0f\x05\xc3\0")  # socket, on x86-64
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fd = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)(address)(2, 1, 0)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd))
    os.close(fd)


def neighbour_of_package(t: Targets) -> None:
    """What is installed beside a package that the task names."""
    import numpy as np

    assert os.listdir(os.path.dirname(os.path.dirname(np.__file__)))


KILLED = {call_by_other_architecture.__name__, call_by_x32.__name__}
"""Those that the filter answers by ending the process."""

ATTACKS = {
    name: value
    for name, value in globals().items()
    if callable(value) and getattr(value, "__annotations__", {}).get("t") is Targets
    if HAS_NUMPY or "numpy" not in value.__code__.co_names
}
