"""A process that is killed while it saves loses nothing but what it was saving."""

import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from killed import save_and_die, save_for_ever
from saving import content, make_writer, names, save, save_and_wait

from wmtp.checkpoint import store as checkpoint


def child(target: Any, *args: Any) -> multiprocessing.Process:
    """A process of its own, started quickly: torch is imported once for all of them."""
    multiprocessing.set_forkserver_preload(["torch", "wmtp.checkpoint.writer"])
    process = multiprocessing.get_context("forkserver").Process(target=target, args=args)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("step", "in_background"), [(4, True), (6, False)])
def test_killed_before_any_change_to_the_disk(step: int, in_background: bool, tmp_path: Path) -> None:
    """Replacing a checkpoint (4), and adding one (6) for which an older one goes."""
    start = tmp_path / "start"
    for before in (2, 4):
        save(make_writer(start), before)
    endings = []
    for last in range(1, 200):
        run = tmp_path / str(last)
        shutil.copytree(start, run, symlinks=True)
        process = child(save_and_die, run, step, 60, in_background, last)
        process.join()
        assert step == 4 or (run / "checkpoints" / "latest").exists()
        checkpoint.recover(run)
        said: list[str] = []
        newest = checkpoint.newest_good(run, said.append)
        assert newest is not None
        assert not said
        assert checkpoint.step_of(newest) in (4, step)
        endings.append(content(newest))
        assert endings[-1] in (4, 60)
        assert not any(name.startswith(".") for name in names(run))
        for saved in checkpoint.checkpoints(run):
            checkpoint.verify(saved)
        assert (run / "checkpoints" / "latest").resolve() == newest.resolve()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if last % 10 == 0:
            assert content(save_and_wait(make_writer(run), 8)) == 8
    assert process.exitcode == 0
    assert len(endings) > 20
    assert endings == sorted(endings)
    assert set(endings) == {4, 60}


def kill_at_random(tmp_path: Path, kills: int) -> None:
    chance, told = random.Random(0), tmp_path / "told"
    newest = 0
    for _ in range(kills):
        process = child(save_for_ever, tmp_path, told, chance.random() < 0.5)
        while process.is_alive() and not (told.exists() and told.read_text()):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        confirmed = [int(line) for line in told.read_text().splitlines()]
        told.unlink()
        checkpoint.recover(tmp_path)
        said: list[str] = []
        found = checkpoint.newest_good(tmp_path, said.append)
        assert not said
        assert found is not None or not newest
        reached = 0 if found is None else content(found)
        assert reached == (0 if found is None else checkpoint.step_of(found))
        assert reached >= max(confirmed, default=newest) >= newest
        newest = reached
    assert newest >= kills


@pytest.mark.slow
def test_two_hundred_random_kills(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 200)
