"""Processes started by torchrun or `wmtp train --nproc`: which one prints for all, and how they end."""

import ctypes
import os
import signal
import sys
import time
from typing import NoReturn

from wmtp.errors import WMTPError
from wmtp.storage import remove_copies

LAUNCHER = "WMTP_LAUNCHER"
"""Environment variable: the process id of `wmtp train --nproc`."""

OWN_TURN_SECONDS = 3.0
LAST_TURN_SECONDS = 8.0


class RankLost(WMTPError):
    """Training cannot go on because of another rank; not the user's mistake, worth a restart, exit status 1."""


def started_by_torchrun() -> bool:
    """Whether torchrun started this process, or `wmtp train --nproc`, which sets the same variables."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def restarts() -> int:
    """How often this machine's launcher has started its processes anew after a crash."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_first_process() -> bool:
    """Whether this process prints for all, or is the only one."""
    return os.environ.get("RANK", "0") == "0"


def report(line: str, *, is_consequence: bool = False) -> None:
    """Print why this process ends, so that a failure of all ranks is reported once and by its cause.

    Rank 0 speaks at once. The others wait, because as soon as one has ended, the launcher ends the rest; who still
    lives then failed alone, and says its rank.

    Args:
        is_consequence: the failure is another rank's, seen from here; it is printed only if that rank could not.
    """
    rank = int(os.environ["RANK"]) if started_by_torchrun() else 0
    if is_consequence and started_by_torchrun():
        time.sleep(LAST_TURN_SECONDS)
    elif rank > 0:
        time.sleep(OWN_TURN_SECONDS)
    print(f"rank {rank}: {line}" if rank > 0 else line, file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process without the interpreter's clean-up, in which FSDP2 on gloo sometimes aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    remove_copies()
    os._exit(status)


def end_with_launcher() -> None:
    """Have the kernel send SIGTERM, which saves and stops, when the launcher dies and nobody else can. Linux only.

    If it is dead already, the store by which the ranks meet is gone, too, and this process ends here.
    """
    if sys.platform == "linux" and started_by_torchrun():
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if LAUNCHER in os.environ and not _is_there(int(os.environ[LAUNCHER])):
            signal.raise_signal(signal.SIGTERM)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True
