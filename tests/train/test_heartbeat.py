"""Signs of life: written for people, and used to name the rank that holds up the others."""

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from wmtp.rank import RankLost
from wmtp.storage import write_text
from wmtp.train import heartbeat
from wmtp.train.heartbeat import Heartbeat, is_collective_error

TIMEOUT = 1.5


@pytest.fixture
def port() -> Iterator[int]:
    """Of a store that the test's process serves, as the launcher does."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    yield store.port
    del store


def start(port: int, work: Callable[[Heartbeat, int], None], timeout: float = TIMEOUT) -> list[Any]:
    """Two processes of one group that do `work` within a heartbeat; what they print goes to files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "wmtp.train.trainer", "wmtp.train.launch"])
    processes = [
        context.Process(target=_rank, args=(rank, port, os.getcwd(), work, timeout), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    return processes


def _rank(rank: int, port: int, folder: str, work: Callable[[Heartbeat, int], None], timeout: float) -> None:
    os.chdir(folder)
    os.dup2(os.open(f"errors{rank}", os.O_WRONLY | os.O_CREAT), 2)
    torch.set_num_threads(1)
    heartbeat.BEAT_SECONDS, heartbeat.FILE_BEATS = 0.2, 1
    store = dist.TCPStore("localhost", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        with Heartbeat(store, rank, 2, Path.cwd(), timeout) as beating:
            beating.at(40, "optimizer")
            meet()
            work(beating, rank)
    except RankLost as error:
        os.write(2, f"lost: {error}\n".encode())
    except OSError as error:
        os.write(2, f"{error}\n".encode())
    os._exit(7)


def meet() -> None:
    dist.all_reduce(torch.zeros(1))


def finish(processes: list[Any]) -> list[int | None]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def errors() -> str:
    return "".join(Path(f"errors{rank}").read_text() for rank in range(2))


def sleep_in_data(beating: Heartbeat, rank: int) -> None:
    beating.at(41, "data")
    if rank == 1:
        time.sleep(60)
    beating.at(41, "forward")
    meet()


@pytest.mark.slow
def test_a_rank_that_holds_up_the_others_is_named_once_and_the_run_ends(port: int) -> None:
    processes = start(port, sleep_in_data)
    assert finish(processes) == [1, 1]
    expected = (
        r"wmtp: rank 1 has been in 'data' after step 41 for \d+ s while the others wait in 'forward' after step 41 "
        r"\(devices\.collective_timeout 1\.5 s\); go on with --resume auto\n"
    )
    assert re.fullmatch(expected, errors())


def stop_oneself(beating: Heartbeat, rank: int) -> None:
    beating.at(41, "forward")
    if rank == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGSTOP)
    meet()


def test_a_rank_that_is_stopped_is_named(port: int) -> None:
    processes = start(port, stop_oneself)
    assert finish(processes[:1]) == [1]
    processes[1].kill()
    processes[1].join()
    assert errors() == (
        "wmtp: rank 1 no longer answers, last seen in 'forward' after step 41 "
        "(devices.collective_timeout 1.5 s); go on with --resume auto\n"
    )


def kill_oneself(beating: Heartbeat, rank: int) -> None:
    beating.at(41, "forward")
    if rank == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    meet()


def test_a_collective_that_fails_names_the_rank_that_died(port: int) -> None:
    assert finish(start(port, kill_oneself, timeout=30)) == [7, -signal.SIGKILL]
    last_seen = (
        "lost: rank 1 no longer answers, last seen in 'forward' after step 41; go on with --resume auto\n"
    )
    assert errors() == last_seen


def fail_alone(beating: Heartbeat, rank: int) -> None:
    beating.at(41, "data")
    if rank == 1:
        raise OSError("the disk of rank 1 is gone")
    meet()


def test_a_collective_that_fails_tells_the_error_of_the_rank_that_left(port: int) -> None:
    assert finish(start(port, fail_alone, timeout=30)) == [7, 7]
    assert "lost: rank 1 failed: OSError: the disk of rank 1 is gone; go on" in Path("errors0").read_text()
    assert Path("errors1").read_text() == "the disk of rank 1 is gone\n"
    told = json.loads(Path("heartbeat.json").read_text())["ranks"]
    assert [rank["left"] for rank in told] == [True, True]
    assert [rank["failure"] for rank in told] == [None, "OSError: the disk of rank 1 is gone"]


def take_long(beating: Heartbeat, rank: int) -> None:
    for _ in range(6):
        beating.at(41, "validate")
        time.sleep(0.5)
        meet()


@pytest.mark.slow
def test_work_that_goes_on_may_take_long(port: int) -> None:
    started = time.monotonic()
    assert finish(start(port, take_long, timeout=2.5)) == [7, 7]
    assert time.monotonic() - started > 2.5
    assert errors() == ""


def wait_a_little(beating: Heartbeat, rank: int) -> None:
    beating.at(41, "data")
    time.sleep(0.6)  # until it has been seen here
    Path(f"waiting{rank}").touch()
    while not Path("enough").exists():
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_was_suspended_is_not_stuck(port: int) -> None:
    processes = start(port, wait_a_little, timeout=3)
    wait_for("waiting0")
    wait_for("waiting1")
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3.2)
    suspended_at = json.loads(Path("heartbeat.json").read_text())["ranks"][0]["count"]
    for process in processes:
        os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda told: told["ranks"][0]["count"] > suspended_at + heartbeat.SILENT_BEATS + 3)
    Path("enough").touch()
    assert finish(processes) == [7, 7]
    assert errors() == ""


@pytest.mark.parametrize("store", [None, dist.HashStore()])
def test_one_process_tells_where_it_is_and_has_no_time_limit(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "FILE_BEATS", 1)
    monkeypatch.setattr(heartbeat, "SILENT_BEATS", 1)
    with Heartbeat(store, 0, 1, tmp_path, timeout=0.1) as beating:
        beating.at(3, "data")
        told = wait_until(lambda told: told["phase"] == "data" and told["ranks"][0]["seconds"] > 0.3)
    assert (told["step"], told["phase"], told["ranks"][0]["rank"]) == (3, "data", 0)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(told["time"])).total_seconds()) < 60
    assert json.loads((tmp_path / "heartbeat.json").read_text())["ranks"][0]["left"]
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeat.json"]


def wait_until(is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What heartbeat.json tells as soon as it is so."""
    deadline = time.monotonic() + 60
    while not is_so(told := json.loads(Path("heartbeat.json").read_text())):
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


def lose_the_store(beating: Heartbeat, rank: int) -> None:
    beating.at(41, "data")
    Path(f"waiting{rank}").touch()
    time.sleep(TIMEOUT + 2)
    meet()


@pytest.mark.slow
def test_training_goes_on_without_the_store() -> None:
    """As when the launcher was killed; the signal that this sends to the ranks is another matter."""
    host = multiprocessing.get_context("forkserver").Process(target=_serve, args=(os.getcwd(),), daemon=True)
    host.start()
    port = wait_for("port")
    processes = start(int(port), lose_the_store)
    wait_for("waiting0")
    wait_for("waiting1")
    host.kill()
    assert finish(processes) == [7, 7]
    assert "wmtp" not in errors()


def _serve(folder: str) -> None:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    write_text(Path(folder) / "port", str(store.port))
    time.sleep(60)


def wait_for(file: str) -> str:
    deadline = time.monotonic() + 60
    while not Path(file).exists():
        assert time.monotonic() < deadline, file
        time.sleep(0.02)
    return Path(file).read_text()


def test_an_error_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), Heartbeat(None, 0, 1, tmp_path, 60):
        raise ValueError("mine")
    assert json.loads((tmp_path / "heartbeat.json").read_text())["ranks"][0]["failure"] == "ValueError: mine"


def test_errors_of_collectives_are_known_by_their_cause_too() -> None:
    closed = RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer"
    )
    assert is_collective_error(closed)
    assert is_collective_error(dist.DistBackendError("NCCL error"))
    consequence = ValueError("another process is gone")
    consequence.__cause__ = closed
    assert is_collective_error(consequence)
    assert not is_collective_error(RuntimeError("expected scalar type Float"))
    assert not is_collective_error(OSError("No space left on device"))
