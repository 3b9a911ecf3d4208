"""What an interpreter inside bubblewrap sees: what it needs, and nothing that can be written to but one place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmtp.sandbox import bubblewrap, describe
from wmtp.sandbox.isolated.paths import devices, readable_paths

LOOK = """
import json, os, sys
def is_writable(folder):
    try:
        open(os.path.join(folder, "new"), "w").close()
    except OSError:
        return False
    return True
(paths, place), directories = map(json.loads, sys.argv[1:])
print(json.dumps({
    "same": [path for path in paths if os.path.exists(path) and os.path.isdir(path) == (path in directories)],
    "writable": [path for path in [*paths, "/", "/etc", "/usr", place] if is_writable(path)],
    "first": os.getpid(),
    "names": sorted(os.environ),
}))
"""


def options(command: list[str], name: str) -> list[str]:
    return [command[position + 1] for position, word in enumerate(command) if word == name]


def test_what_is_there_and_what_can_be_written(tmp_path: Path) -> None:
    facts = describe("namespaces")
    if not facts["works"]:
        pytest.skip(facts["message"])
    paths = [*readable_paths(), *devices()]
    directories = json.dumps([path for path in paths if os.path.isdir(path)])
    arguments = ["-I", "-S", "-c", LOOK, json.dumps([paths, str(tmp_path)]), directories]
    done = subprocess.run(
        bubblewrap.command(str(tmp_path), arguments), capture_output=True, text=True, env={}, check=True
    )
    seen = json.loads(done.stdout)
    assert seen["same"] == paths
    assert seen["writable"] == [str(tmp_path)]
    assert (tmp_path / "new").exists()
    assert seen["first"] == 1
    assert not set(seen["names"]) - {"PWD", "LC_CTYPE", "PYTHONHASHSEED"}


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
def test_nothing_is_mounted_twice(tmp_path: Path) -> None:
    bound = options(bubblewrap.command(str(tmp_path), []), "--ro-bind")
    assert len(set(bound)) == len(bound)
    assert [(a, b) for a in bound for b in bound if a.startswith(f"{b}/")] == []
    assert not any(os.path.islink(path) for path in bound)
    for path in readable_paths():
        real = os.path.realpath(path)
        assert any(real == outer or real.startswith(f"{outer}/") for outer in bound), path
