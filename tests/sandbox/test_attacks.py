"""What each level claims to stop is tried, by an evaluator that is root and by one that is not."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks import ATTACKS, KILLED, REFUSALS
from evaluators import CONTROL, ORDINARY_USER, SOURCE, Person, interpreter
from hostile_programs import HOSTILE, NEEDS_OWN_USER

from wmtp.sandbox import describe
from wmtp.sandbox.isolated import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has kernel isolation")

USERS = ["current", "ordinary"]
REACHED_AT_BASIC = [
    *(
        "read_file",
        "read_passwd",
        "list_directory",
        "read_through_symbolic_link",
        "read_from_parent_directory",
    ),
    *("read_process_command", "write_file", "write_new_file", "write_temporary", "write_shared_memory"),
    *("make_directory", "make_named_pipe", "cut_off_file", "connect_tcp", "listen_tcp", "send_udp"),
    *("connect_unix", "connect_abstract", "memory_file", "leave_shared_segment", "watch_files"),
    *("numpy_read", "numpy_map", "numpy_map_to_write", "numpy_write", "numpy_load_library"),
]
"""What docs/sandbox.md admits."""


@pytest.fixture(scope="module", params=USERS)
def person(request: pytest.FixtureRequest) -> Iterator[Person]:
    identity: dict[str, Any] = {}
    if request.param == "ordinary":
        if os.geteuid() != 0:
            pytest.skip("the current user is an ordinary one")
        identity = {"user": ORDINARY_USER, "group": ORDINARY_USER, "extra_groups": []}
    python = interpreter(identity)
    root = Path(tempfile.mkdtemp(prefix="levels-"))
    victim = subprocess.Popen(
        [python, "-c", "input()"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **identity,
    )
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        someone = Person(root, python, identity)
        for name in ("public", "place", "work"):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        root.chmod(0o755)
        files = {"secret": 0o644, "open": 0o666, "owned": 0o666, "empty": 0o666}
        for name, mode in files.items():
            path = root / "public" / name
            path.write_text("" if name == "empty" else "sesame")
            path.chmod(mode)
            someone.targets[name] = str(path)
        os.chown(root / "public" / "owned", identity.get("user", -1), -1)
        for number, listener in enumerate((unix, abstract)):
            name = str(root / "public" / "socket") if number == 0 else f"\0{root.name}"
            listener.bind(name)
            listener.listen()
        (root / "public" / "socket").chmod(0o777)
        someone.targets |= {
            "public": str(root / "public"),
            "victim": victim.pid,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": str(root / "public" / "socket"),
            "abstract": root.name,
        }
        yield someone
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.communicate()
        for listener in (tcp, udp, unix, abstract):
            listener.close()
        shutil.rmtree(root)


def test_the_attacks_work_where_nothing_stops_them(person: Person) -> None:
    failing = {name: answer for name, answer in person.unconfined.items() if answer != "reached"}
    assert len(failing) <= len(ATTACKS) // 6, failing


@pytest.mark.parametrize("level", ["kernel", "namespaces"])
def test_attacks_are_refused_and_touch_nothing(level: str, person: Person) -> None:
    names = person.possible(name for name in ATTACKS if name not in KILLED)
    killed = person.possible(KILLED)
    before = person.surroundings()
    outcomes = person.attack(
        level,
        {"all": f"assert unrefused({names}, {person.targets}) == []"}
        | {name: f"attempt({name!r}, {person.targets})" for name in killed},
    )
    verdict, message, _ = outcomes.pop("all")
    assert verdict == "passed", message.rpartition("returned")[2]
    assert len(outcomes) == len(killed)
    for verdict, message, _ in outcomes.values():
        assert verdict == "failed"
        assert "killed by signal 31" in message
    assert person.surroundings() == before
    assert list(person.place.iterdir()) == []


def test_what_basic_admits(person: Person) -> None:
    names = person.possible(REACHED_AT_BASIC)
    assert len([n for n in REACHED_AT_BASIC if n not in names and not n.startswith("numpy")]) <= 3
    test = f"assert [n for n in {names} if attempt(n, {person.targets}) != 'reached'] == []"
    verdict, message, _ = person.attack("basic", {"all": test})["all"]
    assert verdict == "passed", message


LANDLOCK = """
import os
from wmtp.sandbox.isolated import kernel, landlock, paths
kernel.no_new_privileges()
here = landlock.READ | landlock.WRITE | landlock.KEEP_HOUSE
rights = {".": here} | dict.fromkeys(paths.readable_paths(), landlock.READ)
landlock.enter(landlock.ruleset(rights))
"""
BUBBLEWRAP = """
import os, sys
from wmtp.sandbox import bubblewrap
command = bubblewrap.command(os.getcwd(), ["-I", "-S", "-c", sys.argv[1]])
os.execvp(command[0], command)
"""
SECCOMP = """
from wmtp.sandbox.isolated import kernel, seccomp
kernel.no_new_privileges()
kernel.filter_system_calls(seccomp.program(seccomp.machine(), False))
"""


@pytest.mark.parametrize(
    ("layer", "attacks"),
    [
        (
            LANDLOCK,
            "read_passwd list_directory write_new_file write_file connect_tcp listen_tcp read_through_hard_link "
            "connect_abstract signal_process trace make_named_pipe",
        ),
        (
            SECCOMP,
            "connect_tcp send_udp connect_unix signal_process signal_by_pipe trace spawn change_mode change_owner "
            "cut_off_file cut_off_file_while_reading new_namespaces",
        ),
    ],
    ids=["landlock", "seccomp"],
)
def test_each_layer_stops_its_part_alone(layer: str, attacks: str, person: Person) -> None:
    """Neither hides that the other does nothing."""
    if landlock.abi() < 6:
        pytest.skip(f"Landlock has version {landlock.abi()}")
    names = person.possible(attacks.split())
    answers = person.run(["-c", SOURCE + layer + CONTROL], (names, person.targets))
    assert {name: answer for name, answer in answers.items() if not answer.startswith(REFUSALS)} == {}
    assert len(names) >= len(attacks.split()) - 2


def test_namespaces_stop_their_part_alone(person: Person) -> None:
    facts = describe("namespaces")
    if not facts["works"]:
        pytest.skip(facts["message"])
    attacks = (
        "read_passwd list_directory list_root read_from_parent_directory read_process_command write_new_file "
        "write_file write_temporary write_shared_memory connect_tcp connect_unix connect_abstract "
        "signal_process signal_thread trace read_kernel_settings"
    )
    names = person.possible(attacks.split())
    assert len(names) >= len(attacks.split()) - 2
    answers = person.run(["-c", BUBBLEWRAP, SOURCE + CONTROL], (names, person.targets))
    assert isinstance(answers, dict), answers
    assert {name: answer for name, answer in answers.items() if not refused(answer)} == {}


THREADS = """
import threading
def f(n):
    gate = threading.Barrier(n + 1)
    threads = [threading.Thread(target=gate.wait) for _ in range(n)]
    for thread in threads: thread.start()
    gate.wait()
    return n
"""


def test_namespaces_leave_eight_threads_to_every_user(person: Person) -> None:
    """An ordinary user's server and judge are counted with the program."""
    programs = [(str(n), THREADS, [f"assert f({n}) == {n}"]) for n in (8, 9)]
    outcomes = person.judge("namespaces", programs, memory_mib=1024)
    assert outcomes["8"][0] == "passed", outcomes
    assert "can't start new thread" in outcomes["9"][1]


def refused(answer: str) -> bool:
    """Here a port is closed, not forbidden: nobody listens in an empty network."""
    return answer.startswith((*REFUSALS, "ConnectionRefusedError"))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["basic", "kernel", "namespaces"])
def test_hostile_programs(level: str, person: Person) -> None:
    if person.identity == {}:
        pytest.skip("see test_hostile.py")
    tests = ["assert f(2, [1]) == 3", "assert set([f(5, [2, 2])]) == set([9])"]
    programs = [
        (n, code, tests) for n, code in HOSTILE.items() if level != "basic" or n not in NEEDS_OWN_USER
    ]
    before = person.surroundings()
    outcomes = person.judge(level, programs, cpu_seconds=1, wall_seconds=1.5)
    assert len(outcomes) == len(programs)
    for name, (verdict, message, seconds) in outcomes.items():
        assert verdict in ("failed", "timeout"), (name, message)
        assert seconds < (2 if "judge" in message else 1) * 2.5, (name, message)
    assert person.surroundings() == before
    assert list(person.place.iterdir()) == []
    assert owned_processes() == [person.targets["victim"]]


def owned_processes() -> list[int]:
    """Living processes of the ordinary user; init takes its time to bury the dead."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == ORDINARY_USER:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state != "Z" else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
