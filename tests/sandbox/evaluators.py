"""Users who run an evaluator: root, and one who is not."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from attacks import ATTACKS, KILLED

import wmtp

SOURCE = Path(__file__).with_name("attacks.py").read_text()
PACKAGE = str(Path(wmtp.__file__).parents[1])
ORDINARY_USER = 61_234

EVALUATOR = """
import importlib.util, json, sys, tempfile
from wmtp.sandbox import Limits, Program, describe, execute_all
request = json.load(sys.stdin)
tempfile.tempdir = request["place"]
facts = describe(request["isolation"])
packages = ("numpy",) if request["packages"] and importlib.util.find_spec("numpy") else ()
programs = [Program(name, code, tuple(tests), packages=packages) for name, code, tests in request["programs"]]
limits = Limits(**{"memory_mib": 256, **request["limits"]})
outcomes = {}
for position, execution in execute_all(programs if facts["works"] else [], limits, 2, request["isolation"]):
    outcomes[programs[position].task_id] = [execution.verdict, execution.message, execution.seconds]
json.dump([facts, outcomes], sys.stdout)
"""
CONTROL = """
import json, sys
names, targets = json.load(sys.stdin)
json.dump({name: attempt(name, targets) for name in names}, sys.stdout)
"""


class Person:
    """A user who runs an evaluator, with targets that belong to that user or to everybody."""

    def __init__(self, root: Path, python: str, identity: dict[str, Any]) -> None:
        self.root, self.python, self.identity = root, python, identity
        self.place = root / "place"
        self.targets: dict[str, Any] = {}

    def run(self, arguments: list[str], request: object) -> Any:
        """What an interpreter answers to a request, or how it failed."""
        done = subprocess.run(
            [self.python, *arguments],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=self.root / "work",
            env={"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=120,
            **self.identity,
        )
        return json.loads(done.stdout) if done.returncode == 0 else f"{done.returncode}: {done.stderr}"

    def surroundings(self) -> tuple[dict[str, tuple[object, ...]], list[str]]:
        """What can be seen of the files that the attacks aim at, and of shared memory.

        Semaphores of multiprocessing (`sem.mp-…`) come and go with other tests.
        """
        files = {path.name: (path.lstat(), path) for path in (self.root / "public").iterdir()}
        seen: dict[str, tuple[object, ...]] = {
            name: (
                s.st_mode,
                s.st_uid,
                s.st_mtime_ns,
                s.st_ctime_ns,
                path.read_bytes() if path.is_file() else b"",
            )
            for name, (s, path) in files.items()
        }
        return seen, sorted(name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-"))

    @functools.cached_property
    def unconfined(self) -> dict[str, str]:
        """What each attack gives when nothing stops it."""
        together = [name for name in ATTACKS if name not in KILLED]
        found: dict[str, str] = {}
        for names in (together, *([name] for name in KILLED)):
            answer = self.run(["-c", SOURCE + CONTROL], (names, self.targets))
            found |= answer if isinstance(answer, dict) else dict.fromkeys(names, answer)
        return found

    def attack(self, isolation: str, tests: dict[str, str]) -> dict[str, list[Any]]:
        """Verdict, message and seconds of programs that consist of the attacks, by name."""
        return self.judge(
            isolation, [(name, SOURCE, [test]) for name, test in tests.items()], True, wall_seconds=9
        )

    def judge(
        self, isolation: str, programs: list[Any], packages: bool = False, **limits: float
    ) -> dict[str, list[Any]]:
        """Verdict, message and seconds of programs, by name."""
        request = {
            "isolation": isolation,
            "place": str(self.place),
            "programs": programs,
            "packages": packages,
            "limits": limits,
        }
        answer = self.run(["-c", EVALUATOR], request)
        assert isinstance(answer, list), answer
        facts, outcomes = answer
        assert facts["level"] == isolation
        if not facts["works"]:
            pytest.skip(f"{isolation}: {facts['message']}")
        return outcomes  # type: ignore[no-any-return]

    def possible(self, names: Iterable[str]) -> list[str]:
        """Those of the attacks that succeed unconfined."""
        return [name for name in names if self.unconfined[name] == "reached"]


def interpreter(identity: dict[str, Any]) -> str:
    """A Python that this user may run and that finds the package."""
    for python in (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3"):
        command = [
            python,
            "-c",
            "import sys; assert sys.version_info >= (3, 11); import wmtp.sandbox",
        ]
        try:
            environment = {"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(command, env=environment, cwd="/", capture_output=True, **identity)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip("no interpreter that another user may run")
