"""Out of memory, for real: allocations that the kernel refuses."""

import subprocess
import sys

import pytest
import torch

from wmtp.train.memory import (
    Growth,
    is_out_of_memory,
    largest_divisor,
    largest_fitting,
    measure_growth,
    memory_limit,
    out_of_memory_error,
    peak_memory,
)

CPU = torch.device("cpu")
MIB = 2**20

LIMITED = """
import gc, resource
from pathlib import Path
import torch
from wmtp.train.memory import is_out_of_memory, largest_fitting, out_of_memory_error

torch.set_num_threads(1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
layer = torch.nn.Linear(2**4, 2**13)

def attempt(rows):
    layer(torch.ones(rows * 2**9, 2**4)).square().mean().backward()

def release():
    layer.zero_grad()
    gc.collect()

tried = []
def recorded(rows):
    tried.append(rows)
    attempt(rows)

failure = None
try:
    attempt(24)
except RuntimeError as error:
    assert is_out_of_memory(error), error
    failure = error.with_traceback(None)
fits = largest_fitting(24, recorded, release)
attempt(fits)
print(tried, fits)
print(out_of_memory_error(24, fits, error=failure))
try:
    bytearray(2**40)
except MemoryError as error:
    print(is_out_of_memory(error))
"""


@pytest.mark.slow
def test_the_largest_micro_batch_that_fits_is_found_by_trying() -> None:
    result = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    tried, message, memory_error = result.stdout.splitlines()
    fits = int(tried.rpartition(" ")[2])
    divisors = [12, 8, 6, 4, 3, 2, 1]
    assert tried == f"{divisors[: divisors.index(fits) + 1]} {fits}"
    assert 1 < fits < 12
    assert message.startswith("train.micro_batch_size 24: out of memory on rank 0 (tried to allocate ")
    assert message.endswith(f" bytes); {fits} fits: set train.micro_batch_size={fits}")
    assert memory_error == "True"


def test_nothing_fits() -> None:
    released = []

    def attempt(rows: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 1")

    assert largest_fitting(4, attempt, lambda: released.append(1)) is None
    assert len(released) == 3
    error = out_of_memory_error(
        4, None, error=torch.OutOfMemoryError("Tried to allocate 2.00 GiB. GPU 0"), rank=3
    )
    assert str(error).startswith(
        "train.micro_batch_size 4: out of memory on rank 3 (tried to allocate 2.00 GiB); not even one row fits: "
        "lower data.sequence_length, set train.gradient_checkpointing=true, or "
    )


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    def attempt(rows: int) -> None:
        raise RuntimeError("expected scalar type Float")

    with pytest.raises(RuntimeError, match="scalar type"):
        largest_fitting(4, attempt, lambda: None)
    assert not is_out_of_memory(OSError("No space left on device"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))


def test_what_would_fit_is_estimated_from_one_row_and_two() -> None:
    model = torch.ones(64 * MIB // 4)

    def attempt(rows: int) -> None:
        torch.ones(rows * 32 * MIB // 4).add_(model[:1])

    growth = measure_growth(attempt, lambda: None, CPU)
    assert (growth.two_rows - growth.one_row) / MIB == pytest.approx(32, abs=4)
    for rows in (1, 2, 7):
        needed = peak_memory(lambda rows=rows: attempt(rows), CPU)
        assert growth.rows_within(needed + 8 * MIB) == rows
        assert growth.rows_within(needed + 8 * MIB, still_to_come=24 * MIB) == rows - 1
        assert growth.rows_within(needed - 24 * MIB) == rows - 1


def test_an_estimate_is_called_one() -> None:
    error = out_of_memory_error(64, 16, error=MemoryError(), rank=1, is_estimate=True)
    assert str(error) == (
        "train.micro_batch_size 64: out of memory on rank 1; about 16 would fit, by an estimate from one row and "
        "two: set train.micro_batch_size=16"
    )


@pytest.mark.parametrize(
    ("rows", "at_most", "expected"), [(24, 11, 8), (24, 100, 24), (7, 6, 1), (8, 0, None)]
)
def test_only_divisors_are_proposed(rows: int, at_most: int, expected: int | None) -> None:
    assert largest_divisor(rows, at_most) == expected


def test_the_limit_is_between_what_is_held_and_what_the_machine_has() -> None:
    held = peak_memory(lambda: None, CPU)
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert held < memory_limit(CPU) <= total
    assert Growth(10, 10).rows_within(5) == 0
