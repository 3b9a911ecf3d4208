"""Processes of a launcher, and what they do without it."""

import os
import signal
import subprocess
import sys

import pytest

CODE = "from wmtp.rank import end_with_launcher; end_with_launcher(); print('goes on')"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize("is_there", [True, False])
def test_a_process_whose_launcher_died_before_it_began_ends(is_there: bool) -> None:
    variables = dict.fromkeys(("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "0")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    launcher = os.getpid() if is_there else ended.pid
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | variables | {"WMTP_LAUNCHER": str(launcher)},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = (0, "goes on\n") if is_there else (-signal.SIGTERM, "")
    assert (found.returncode, found.stdout) == expected
