"""Out of memory: what would fit, measured where one process can, else an estimate."""

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from wmtp.errors import WMTPError, is_out_of_memory


def largest_fitting(rows: int, attempt: Callable[[int], None], release: Callable[[], None]) -> int | None:
    """The largest divisor of `rows`, below it, that runs; None if even one row does not.

    Call it after the `except` block: until then the traceback keeps the tensors of the failed step alive.

    Args:
        attempt: does with so many rows what training does, two whole optimiser steps: the second one holds the
            optimiser's state.
        release: gives back what a failed attempt left (gradients, cached blocks).
    """
    for smaller in (n for n in range(rows // 2, 0, -1) if rows % n == 0):
        release()
        if _runs(attempt, smaller):
            release()
            return smaller
    release()
    return None


@dataclass(frozen=True)
class Growth:
    """Peak memory of one row and of two, in bytes, from which more are estimated along a line."""

    one_row: int
    two_rows: int

    def rows_within(self, limit: int, still_to_come: int = 0) -> int:
        """How many rows should fit; an estimate, 0 if not even one.

        Args:
            limit: bytes that this process may use, `memory_limit`.
            still_to_come: bytes that training will hold beside what was measured, say the optimiser's state.
        """
        spare = limit - still_to_come - self.one_row
        if spare < 0:
            return 0
        return 1 + spare // max(1, self.two_rows - self.one_row)


def measure_growth(
    attempt: Callable[[int], None], release: Callable[[], None], device: torch.device
) -> Growth:
    """Run one row and then two, on every rank alike, for ranks cannot try and fail: see `out_of_memory_error`."""
    release()
    attempt(1)  # what is allocated once and kept, is in both peaks
    release()
    one = peak_memory(lambda: attempt(1), device)
    release()
    two = peak_memory(lambda: attempt(2), device)
    release()
    return Growth(one, two)


def peak_memory(action: Callable[[], None], device: torch.device) -> int:
    """The most bytes that this process held while the action ran: of the GPU, or resident ones (Linux with glibc)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return torch.cuda.max_memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # else what earlier actions freed counts or not, by luck
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's code for: forget the peak
    action()
    return _bytes_in(Path("/proc/self/status"), "VmHWM")


def memory_limit(device: torch.device) -> int:
    """The bytes that this process could hold now: its own and the free ones."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    own = _bytes_in(Path("/proc/self/status"), "VmRSS")
    free = _bytes_in(Path("/proc/meminfo"), "MemAvailable")
    return own + min(free, _free_in_control_group())


def largest_divisor(rows: int, at_most: int) -> int | None:
    """The largest divisor of `rows` that is not above `at_most`; None if that is 0."""
    return next((n for n in range(min(rows, at_most), 0, -1) if rows % n == 0), None)


def out_of_memory_error(
    rows: int, fits: int | None, *, error: BaseException, rank: int = 0, is_estimate: bool = False
) -> WMTPError:
    """What to tell the user.

    With several ranks `fits` is an estimate, made before training: a rank that fails within a sharded step leaves
    the others waiting in its collectives, so nothing can be tried after that.

    Args:
        rows: of the micro-batch that failed.
        fits: rows that would fit; None if not even one does.
    """
    wanted = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    detail = f" (tried to allocate {wanted[1]})" if wanted else ""
    failed = f"train.micro_batch_size {rows}: out of memory on rank {rank}{detail}"
    if fits is None:
        return WMTPError(
            f"{failed}; not even one row {'would fit' if is_estimate else 'fits'}: lower data.sequence_length, set "
            f"train.gradient_checkpointing=true, or shard the model (more processes with devices.parallel=fsdp, "
            f"devices.cpu_offload=true)"
        )
    found = f"about {fits} would fit, by an estimate from one row and two" if is_estimate else f"{fits} fits"
    return WMTPError(f"{failed}; {found}: set train.micro_batch_size={fits}")


def _runs(attempt: Callable[[int], None], rows: int) -> bool:
    try:
        attempt(rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _free_in_control_group() -> int:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except OSError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else max(0, int(limit) - used)


def _bytes_in(path: Path, field: str) -> int:
    """A field of a /proc file, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    assert found is not None, field
    return int(found.group(1)) * 1024
