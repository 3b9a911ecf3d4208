"""Damaged checkpoints, full disks and changed data, met by a run that is to go on."""

import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import DDP, Training, records

from wmtp.checkpoint import store as checkpoint

pytestmark = pytest.mark.slow

Start = Callable[..., Training]
Whole = Callable[..., Path]
INPUTS = ("sums.jsonl", "recipe.yaml", "config.yaml")


def copy_of(run: Path, to: Path, *, without_last: bool = False) -> Path:
    """The same run in another place."""
    shutil.copytree(run, to, symlinks=True)
    if without_last:
        shutil.rmtree(checkpoint.checkpoints(to)[-1])
    return to


def damage(saved: Path) -> str:
    """Flip a bit in the middle of a file with weights; its name."""
    shard = next(saved.glob("model-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return shard.name


@pytest.mark.parametrize(("nproc", "layout"), [(None, ()), (2, DDP)], ids=["1", "2"])
def test_the_checkpoint_before_a_damaged_one_is_taken_and_that_is_said(
    nproc: int | None, layout: tuple[str, ...], start: Start, whole: Whole
) -> None:
    uninterrupted = whole(nproc, *layout)
    run = copy_of(uninterrupted, uninterrupted.with_name(f"damaged-{nproc}"))
    before, last = checkpoint.checkpoints(run)
    name = damage(last)
    ended = start(run.name, *layout, nproc=nproc, resume="auto").end()
    assert ended.status == 0
    assert ended.messages == [
        f"{last.name} is damaged ({name} is not what was saved); going on from {before.name}"
    ]
    assert records(run) == records(uninterrupted)
    checkpoint.verify(last)


def test_without_any_good_checkpoint_nothing_is_trained(start: Start, whole: Whole) -> None:
    run = copy_of(whole(), whole().with_name("all-damaged"))
    before, last = checkpoint.checkpoints(run)
    (last / "state.json").unlink()
    name = damage(before)
    ended = start(run.name, resume="auto").end()
    assert ended.status == 2
    (line,) = ended.messages
    assert line.endswith(
        f"no checkpoint is good: {last.name} (state.json is missing), {before.name} ({name} is not what was "
        f"saved); restore one, or start a new run (name=…)"
    )
    assert records(run) == records(whole())


@pytest.mark.parametrize(
    ("nproc", "layout", "in_background"),
    [(None, (), False), (None, (), True), (2, DDP, True)],
    ids=["1", "1, in the background", "2, in the background"],
)
def test_a_save_that_fails_half_way_leaves_the_one_before(
    nproc: int | None, layout: tuple[str, ...], in_background: bool, start: Start, whole: Whole
) -> None:
    """The limit on the size of files stands in for the end of the disk: writing fails at the kernel's word."""
    uninterrupted = whole(nproc, *layout)
    run = copy_of(uninterrupted, uninterrupted.with_name(f"full-{nproc}-{in_background}"), without_last=True)
    settings = (*layout, f"train.async_save={str(in_background).lower()}")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ended = start(run.name, *settings, nproc=nproc, resume="auto", before=limit).end()
    assert ended.status == 2
    (line,) = ended.messages
    assert "step-00000050: cannot be saved: " in line
    assert line.endswith("step-00000025 is still good")
    assert [p.name for p in checkpoint.checkpoints(run)] == ["step-00000025"]
    assert not list((run / "checkpoints").glob(".*"))
    ended = start(run.name, *settings, nproc=nproc, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(run) == records(uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("free", [8_000_000, 0], ids=["too little", "nothing"])
def test_a_full_disk_is_said_and_survived(free: int, small_disk: Path, start: Start, whole: Whole) -> None:
    run = copy_of(whole(), small_disk / "full", without_last=True)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(b"0" * (shutil.disk_usage(small_disk).free - free))
    where = f"paths.runs={small_disk}"
    ended = start("full", where, resume="auto").end()
    assert ended.status == 2
    (line,) = ended.messages
    if free:
        assert "step-00000050: cannot be saved: needs " in line
        assert line.endswith("MB free on its file system; step-00000025 is still good")
    else:
        assert line == f"wmtp: {run}: No space left on device; make room, and go on with --resume auto"
    assert [p.name for p in checkpoint.checkpoints(run)] == ["step-00000025"]
    filler.unlink()
    ended = start("full", where, resume="auto").end()
    assert (ended.status, ended.messages) == (0, [])
    assert records(run) == records(whole())


def test_changed_data_is_refused_with_its_fingerprint(
    start: Start, whole: Whole, folder: Path, tmp_path: Path
) -> None:
    run = copy_of(whole(), tmp_path / "runs" / "changed")
    for name in INPUTS:
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "reference", tmp_path / "reference")
    rows = (tmp_path / "sums.jsonl").read_text().splitlines(keepends=True)
    rows[3] = rows[3].replace('"completion": "', '"completion": "7')
    (tmp_path / "sums.jsonl").write_text("".join(rows))
    saved = json.loads((run / "checkpoints" / "latest" / "state.json").read_text())["loader"]["data"]
    ended = start("changed", resume="auto", folder=tmp_path).end()
    assert ended.status == 2
    (line,) = ended.messages
    assert "data.source: the training data changed since the checkpoint: fingerprint " in line
    assert f"{saved[:16]} then" in line
    assert records(run) == records(whole())
