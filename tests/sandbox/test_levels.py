"""Which level is chosen, and that programs at every level can do what programs need to do."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from evaluators import PACKAGE
from pydantic import ValidationError

from wmtp.config import EvaluateConfig
from wmtp.critic.rewards import verifier_rewards
from wmtp.data.rows import Row
from wmtp.errors import WMTPError
from wmtp.evaluate.judging import judge_samples, verdict_origin
from wmtp.evaluate.samples import Key, Origin, SampleFile
from wmtp.evaluate.tasks.base import Problem
from wmtp.sandbox import (
    Case,
    Limits,
    Program,
    StdinProgram,
    describe,
    execute,
    execute_all,
    levels,
)
from wmtp.sandbox.isolated import landlock
from wmtp.sandbox.levels import Choice, choose


class Machine:
    """Answers a probe; `broken`: level to why it does not work."""

    def __init__(self, **broken: str) -> None:
        self.broken, self.asked = broken, list[str]()

    def probe(self, level: str) -> tuple[str, dict[str, object]]:
        self.asked.append(level)
        return self.broken.get(level, ""), {"measure": level}


@pytest.fixture(autouse=True)
def nothing_found_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_found", {})


@pytest.fixture
def bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_bubblewrap_problem", lambda: "")


@pytest.mark.usefixtures("bubblewrap")
def test_auto_is_the_best_that_works() -> None:
    assert choose("auto", Machine().probe) == Choice("namespaces", "", {"measure": "namespaces"}, {})
    levels._found.clear()
    weaker = choose("auto", Machine(namespaces="no bwrap").probe)
    assert weaker == Choice("kernel", "", {"measure": "kernel"}, {"namespaces": "no bwrap"})
    levels._found.clear()
    weakest = choose("auto", Machine(namespaces="no bwrap", kernel="no Landlock").probe)
    assert weakest.level == "basic"
    assert weakest.unavailable == {"namespaces": "no bwrap", "kernel": "no Landlock"}


@pytest.mark.usefixtures("bubblewrap")
def test_strict_refuses_in_one_line() -> None:
    assert choose("strict", Machine(namespaces="no bwrap", basic="x").probe).level == "kernel"
    levels._found.clear()
    with pytest.raises(WMTPError) as refusal:
        choose("strict", Machine(namespaces="no bwrap", kernel="no Landlock").probe)
    assert str(refusal.value) == (
        "evaluate.sandbox is strict, and this machine has no kernel isolation "
        "(namespaces: no bwrap; kernel: no Landlock)"
    )


@pytest.mark.usefixtures("bubblewrap")
def test_one_level_is_that_level() -> None:
    machine = Machine(kernel="no Landlock")
    assert choose("kernel", machine.probe) == Choice("kernel", "no Landlock", {}, {"kernel": "no Landlock"})
    assert choose("basic", machine.probe).level == "basic"
    assert machine.asked == ["kernel", "basic"]


@pytest.mark.usefixtures("bubblewrap")
def test_what_works_stays_and_what_fails_is_tried_again() -> None:
    broken = Machine(namespaces="full", kernel="full", basic="full")
    assert choose("auto", broken.probe).problem == "full"
    machine = Machine()
    assert choose("auto", machine.probe).level == "namespaces"
    assert choose("auto", broken.probe).level == "namespaces"
    assert machine.asked == ["namespaces"]


def test_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    machine = Machine()
    choice = choose("auto", machine.probe)
    assert choice.level == "kernel"
    assert choice.unavailable == {"namespaces": "bubblewrap (bwrap) is not installed"}
    assert machine.asked == ["kernel"]


def test_no_such_isolation() -> None:
    with pytest.raises(WMTPError, match="it must be one of auto, strict, namespaces"):
        choose("stirct", Machine().probe)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs something to lose")
def test_what_cannot_be_confined_any_more_is_an_error() -> None:
    """The level works when it is chosen, and then no longer: never a weaker run in its place."""
    if not describe("namespaces")["works"]:
        pytest.skip("no namespaces here")
    script = """
import ctypes
from wmtp.sandbox import Limits, Program, describe, execute
assert describe("auto")["level"] == "namespaces"
ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)  # CAP_SYS_ADMIN leaves the bounding set
execution = execute(Program("x", "def f(): return 1", ("assert f() == 1",)), Limits(), "auto")
print(execution.verdict, execution.message)
"""
    environment = {"PYTHONPATH": PACKAGE}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("error the judge ended without a verdict: bwrap: "), (
        done.stdout + done.stderr
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has kernel isolation")
def test_a_level_works_where_the_machine_has_what_it_needs() -> None:
    """Other tests skip a level that does not work."""
    if landlock.abi() and platform.machine() in ("x86_64", "aarch64"):
        assert describe("kernel")["works"]
    root = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--cap-add", "CAP_SETUID"]
    options = root if describe("basic")["separate_user"] else ["--unshare-all"]
    command = ["bwrap", *options, "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    if describe("kernel")["works"] and shutil.which("bwrap") and subprocess.run(command).returncode == 0:
        assert describe("namespaces")["works"]
        assert describe("auto")["level"] == describe("strict")["level"] == "namespaces"


SNOOPS = "def f(x):\n    open('/etc/passwd').close()\n    return x + 1\n"


@pytest.mark.parametrize("isolation", ["basic", "strict"])
def test_the_recipe_chooses(isolation: Literal["basic", "strict"], tmp_path: Path) -> None:
    if not describe("auto")["files_restricted"]:
        pytest.skip("no kernel isolation here")
    config = EvaluateConfig(allow_code_execution=True, sandbox=isolation)
    tests = ["assert f(1) == 2", "assert f(1) == 3", "f(0)"]
    rows = [Row({"test_list": [test]}, "a row") for test in tests]
    right = "def f(x): return x + 1"
    rewards = verifier_rewards(rows, [SNOOPS, right, right], config, tmp_path)
    assert rewards.tolist() == [isolation == "basic", 0, 1]

    problem = Problem("p", "", lambda code: Program("p", code, ("assert f(1) == 2",)))
    origin = Origin({}, verdict_origin([problem], config))
    assert origin.verdicts["sandbox"] == describe(isolation)["level"]
    key = Key("p", 0.0, 0)
    with SampleFile(tmp_path / "samples.jsonl", origin, print) as file:
        file.add(key, SNOOPS)
        judge_samples(file, [problem], [key], config)
        assert (file.executions[key].verdict == "passed") is (isolation == "basic")


def test_the_recipe_knows_three_words() -> None:
    with pytest.raises(ValidationError, match="'auto', 'basic' or 'strict'"):
        EvaluateConfig.model_validate({"sandbox": "kernel"})


@pytest.mark.parametrize("level", levels.LEVELS)
@pytest.mark.parametrize("source", ["0", "'/dev/stdin'"])
def test_standard_input_may_be_opened(level: str, source: str) -> None:
    facts = describe(level)
    if not facts["works"]:
        pytest.skip(f"{level}: {facts['message']}")
    program = StdinProgram("x", f"print(open({source}).read()[::-1])", (Case("12", "21"),), ())
    assert execute(program, Limits(), level).message == ""


THREADS = """
import threading
def f(n):
    found, gate = [], threading.Barrier(n + 1)
    def work(i):
        gate.wait()
        found.append(sum(range(i)))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads: thread.start()
    gate.wait()
    for thread in threads: thread.join()
    return sorted(found)
"""


@pytest.mark.parametrize("level", levels.LEVELS)
def test_a_few_threads(level: str) -> None:
    facts = describe(level)
    if not facts["works"] or not (facts["separate_user"] or facts["own_namespaces"]):
        pytest.skip(f"{level}: {facts}")
    eight, many = (
        execute(
            Program("x", THREADS, (f"assert f({n}) == sorted(sum(range(i)) for i in range({n}))",)),
            Limits(),
            level,
        )
        for n in (8, 9)
    )
    assert eight.verdict == ("failed" if level == "basic" else "passed"), eight.message
    assert "can't start new thread" in many.message


@pytest.mark.parametrize("level", levels.LEVELS)
def test_confining_needs_few_descriptors(level: str) -> None:
    facts = describe(level)
    if not facts["works"]:
        pytest.skip(f"{level}: {facts['message']}")
    program = Program("x", "def f(): return 1", ("assert f() == 1",))
    assert execute(program, Limits(open_files=12), level).message == ""


ENDS = {
    "import ctypes\nctypes.string_at(0)": ("failed", "killed by signal 11"),
    "import os\nos._exit(3)": ("failed", "exited with status 3"),
    "import os\nos._exit(139)": ("failed", ""),
    "while True: pass": ("timeout", "used up 1 s of CPU time"),
    "def f(): return bytearray(1 << 40)": ("failed", "MemoryError"),
}


@pytest.mark.parametrize("level", levels.LEVELS)
@pytest.mark.slow
def test_ends_read_alike_at_every_level(level: str) -> None:
    facts = describe(level)
    if not facts["works"]:
        pytest.skip(f"{level}: {facts['message']}")
    programs = [Program(code, code, ("assert f() == 1",)) for code in ENDS]
    for position, execution in execute_all(programs, Limits(cpu_seconds=1), isolation=level):
        verdict, part = ENDS[programs[position].code]
        assert execution.verdict == verdict, execution.message
        assert part in execution.message


EXERCISE = """
import array, asyncio, bisect, bz2, calendar, collections, csv, ctypes, dataclasses, datetime, decimal, fractions
import functools, hashlib, heapq, itertools, json, lzma, math, multiprocessing, operator, os, pathlib, pickle, random
import re, shutil, signal, socket, sqlite3, ssl, statistics, string, subprocess, sys, tempfile, threading, time
import typing, unicodedata, uuid, zlib, zoneinfo

def f():
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    sys.setrecursionlimit(5000)
    count = lambda n: n and 1 + count(n - 1)
    path = pathlib.Path("directory/file")
    path.parent.mkdir()
    path.write_text("x")
    path.rename("directory/other")
    shutil.copyfile("directory/other", "copy")
    os.symlink("copy", "link")
    with tempfile.TemporaryDirectory() as inner:
        shutil.move("directory", inner)
    database = sqlite3.connect("database")
    database.execute("create table t (x)").execute("insert into t values (1)")
    database.commit()
    with open(os.devnull, "w") as null:
        print("x", file=null)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    time.sleep(0.001)
    now = datetime.datetime(2024, 7, 1, tzinfo=datetime.timezone.utc)
    return [
        count(3000), open("link").read(), database.execute("select x from t").fetchall(), os.urandom(1) != b"",
        hashlib.sha256(b"").hexdigest()[:4], random.Random(0).random() < 1, os.cpu_count() > 0,
        len(uuid.uuid4().hex), now.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).hour, time.localtime(0).tm_year > 0,
        sorted(os.listdir()),
    ]
"""
EXPECTED = "[3000, 'x', [(1,)], True, 'e3b0', True, True, 32, 2, True, ['copy', 'database', 'link']]"


@pytest.mark.parametrize("level", levels.LEVELS)
def test_what_programs_need_works(level: str) -> None:
    facts = describe(level)
    if not facts["works"]:
        pytest.skip(f"{level}: {facts['message']}")
    program = Program("x", EXERCISE, (f"assert f() == {EXPECTED}",))
    assert execute(program, Limits(), level).message == ""
