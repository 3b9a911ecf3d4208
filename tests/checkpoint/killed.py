"""What the processes do that are killed; apart from the tests, so that they start quickly."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from saving import content, make_writer, save_and_wait

from wmtp.checkpoint import store as checkpoint

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate"}


def save_and_die(run: Path, step: int, of: int, in_background: bool, last: int) -> None:
    """Save, and be killed right before the `last`-th change to the file system."""
    seen = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    save_and_wait(make_writer(run, keep=1, in_background=in_background), step, of=of)


def save_for_ever(run: Path, told: Path, in_background: bool) -> None:
    """Go on from the newest checkpoint; tell the step of each save that has returned."""
    found = checkpoint.newest_good(run, print)
    step = 0 if found is None else content(found)
    writer = make_writer(run, in_background=in_background)
    with told.open("w", buffering=1) as file:
        while True:
            step += 1
            save_and_wait(writer, step)
            file.write(f"{step}\n")
