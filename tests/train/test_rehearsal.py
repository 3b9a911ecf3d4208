"""Out of memory is answered with the micro-batch that fits."""

import gc
import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from ranks import run_on_ranks
from wmtp.config import Config, Recipe, to_yaml
from wmtp.distributed.world import World
from wmtp.errors import is_out_of_memory
from wmtp.train.rehearsal import Rehearsal

Make = Callable[..., Recipe]

ALONE = World(torch.device("cpu"))

with_little_memory = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")


def start(work: Callable[..., None], *arguments: Any, output: str = "output") -> Any:
    """A process that does `work` in this folder; what it prints goes to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "wmtp.train.trainer", "wmtp.train.launch"])
    process = context.Process(target=_work, args=(os.getcwd(), output, work, arguments), daemon=True)
    process.start()
    return process


def _work(folder: str, output: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(1)
    work(*arguments)


def status(process: Any) -> int | None:
    process.join(240)
    return process.exitcode  # type: ignore[no-any-return]


def leave_free(mib: int) -> None:
    """The limit on address space stands in for a small machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20,) * 2)


def rehearse() -> None:
    leave_free(400)
    layer = torch.nn.Linear(2**4, 2**13)
    tried = []

    def attempt(rows: int, micro_batches: int) -> None:
        tried.append(rows)
        assert micro_batches == 48 // rows
        layer(torch.ones(rows * 2**9, 2**4)).square().mean().backward()

    def release() -> None:
        layer.zero_grad()
        gc.collect()

    with pytest.raises(RuntimeError) as failed:
        attempt(24, 2)
    failure = failed.value.with_traceback(None)
    del failed
    assert is_out_of_memory(failure), failure
    print(Rehearsal(attempt, release, 24, 48, ALONE).advice(failure))
    attempt(tried[-1], 48 // tried[-1])
    print(*tried)
    with pytest.raises(MemoryError) as too_large:
        bytearray(2**40)
    print(is_out_of_memory(too_large.value))


@pytest.mark.slow
@with_little_memory
def test_the_largest_micro_batch_that_fits_is_found_by_trying() -> None:
    ended = status(start(rehearse))
    assert ended == 0, Path("output").read_text()
    message, tried, memory_error = Path("output").read_text().splitlines()
    *failed, fits, again = (int(rows) for rows in tried.split())
    divisors = [24, 12, 8, 6, 4, 3, 2, 1]
    assert [*failed, fits] == divisors[: divisors.index(fits) + 1]
    assert again == fits
    assert 1 < fits < 12
    assert message.startswith("train.micro_batch_size 24: out of memory on rank 0 (tried to allocate ")
    assert message.endswith(f" bytes); {fits} fits: set train.micro_batch_size={fits}")
    assert memory_error == "True"


def train(arguments: list[str], environment: dict[str, str]) -> None:
    import wmtp.report.terminal
    import wmtp.tracking.tracker
    import wmtp.train.run  # noqa: F401
    from wmtp import rank
    from wmtp.cli import main

    rank.OWN_TURN_SECONDS = 0.0
    os.environ.update(environment)
    sys.argv = ["wmtp", "train", "r.yaml", "--config", "c.yaml", *arguments]
    leave_free(700)
    main()


@pytest.fixture
def big_step(make_recipe: Make, config: Config) -> None:
    changes = {"train.batch_size": 256, "model.hidden_size": 64, "loss.chunk_size": 65536, "train.steps": 2}
    Path("r.yaml").write_text(to_yaml(make_recipe(**changes)))
    Path("c.yaml").write_text(to_yaml(config))


@pytest.mark.slow
@with_little_memory
@pytest.mark.usefixtures("big_step")
def test_the_micro_batch_that_is_named_fits() -> None:
    failed = status(start(train, [], {}))
    output = Path("output").read_text()
    assert failed == 2, output
    said = re.fullmatch(
        r"wmtp: train.micro_batch_size 256: out of memory on rank 0 .* (\d+) fits: set (\S+)\n", output
    )
    assert said is not None, output
    fitting = status(start(train, [said[2], "name=fitting"], {}))
    assert fitting == 0, Path("output").read_text()


@pytest.mark.slow
@with_little_memory
@pytest.mark.usefixtures("big_step")
def test_every_rank_that_has_too_little_memory_names_a_smaller_micro_batch() -> None:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    ranks = [
        start(train, [], place | {"RANK": rank, "LOCAL_RANK": rank}, output=f"output{rank}") for rank in "01"
    ]
    ended = [status(rank) for rank in ranks]
    output = [Path(f"output{rank}").read_text() for rank in range(2)]
    assert ended == [2, 2], output
    failed = r"train.micro_batch_size 128: out of memory on rank {} \(tried to allocate \d+ bytes\); try {}\n"
    for rank in range(2):
        assert re.search(failed.format(rank, "train.micro_batch_size=64"), output[rank]), output


def out_of_memory(rows: int, micro_batches: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 1")


def rehearse_together(group: ProcessGroup, rank: int) -> tuple[list[tuple[int, int]], list[str]]:
    attempted: list[tuple[int, int]] = []

    def attempt(rows: int, micro_batches: int) -> None:
        attempted.append((rows, micro_batches))

    world = World(torch.device("cpu"), group)
    rehearsals = [Rehearsal(attempt, lambda: None, rows, 24, world) for rows in (12, 7, 1)]
    rehearsals[0].run()
    return attempted, [str(rehearsal.advice(MemoryError())) for rehearsal in rehearsals]


def test_several_ranks_rehearse_once_and_try_nothing_when_memory_runs_out() -> None:
    none = "not even one row fits: lower data.sequence_length"
    for rank, (attempted, advice) in enumerate(run_on_ranks(rehearse_together, 2)):
        assert attempted == [(1, 1)]
        failed = f": out of memory on rank {rank}; "
        assert advice[0] == f"train.micro_batch_size 12{failed}try train.micro_batch_size=6"
        assert advice[1] == f"train.micro_batch_size 7{failed}try train.micro_batch_size=1"
        assert advice[2].startswith(f"train.micro_batch_size 1{failed}{none}")


def test_nothing_fits() -> None:
    done = []

    def attempt(rows: int, micro_batches: int) -> None:
        done.append(f"attempt {rows}")
        out_of_memory(rows, micro_batches)

    rehearsal = Rehearsal(attempt, lambda: done.append("release"), 4, 8, ALONE)
    advice = rehearsal.advice(torch.OutOfMemoryError("Tried to allocate 2.00 GiB. GPU 0"))
    assert done == ["release", "attempt 2", "release", "attempt 1"]
    assert str(advice).startswith(
        "train.micro_batch_size 4: out of memory on rank 0 (tried to allocate 2.00 GiB); not even one row fits: "
        "lower data.sequence_length, set train.gradient_checkpointing=true, or "
    )


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    def attempt(rows: int, micro_batches: int) -> None:
        raise RuntimeError("expected scalar type Float")

    with pytest.raises(RuntimeError, match="scalar type"):
        Rehearsal(attempt, lambda: None, 4, 4, ALONE).advice(MemoryError())
    assert not is_out_of_memory(OSError("No space left on device"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
