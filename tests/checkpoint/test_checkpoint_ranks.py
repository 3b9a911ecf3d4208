"""Checkpoints of several processes: any number of them, any layout, and errors on one of them."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from saving import content, flip, make_writer, save_and_wait, training_at, value, write_files
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ranks import run_on_ranks
from wmtp.checkpoint import store as checkpoint
from wmtp.errors import WMTPError

LAYOUTS: dict[str, tuple[int, ...]] = {"plain": (), "sharded": (-1,), "replicated shards": (2, 2)}


class Small(torch.nn.Module):
    """Rows that no number of ranks divides, and fewer of them than ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(5, 7)
        self.b = torch.nn.Linear(7, 3, bias=False)


def parameters_in(layout: str, ranks: int) -> dict[str, Tensor]:
    model = Small()
    if layout != "plain":
        shape = tuple(ranks if n == -1 else n for n in LAYOUTS[layout])
        names = ("replicate", "shard")[-len(shape) :]
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layer in model.children():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return dict(model.named_parameters())


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(tensor: Tensor, full: Tensor) -> None:
    if isinstance(tensor, DTensor):
        full = distribute_tensor(full, tensor.device_mesh, tensor.placements)
    tensor.copy_(full)


def carry_on(
    group: ProcessGroup | None, rank: int, run: Path, ranks: int, layout: str, step: int, in_background: bool
) -> list[str]:
    """Load the state of the step before, as this layout; check it; save the next. What went wrong, if anything."""
    model = parameters_in(layout, ranks)
    moments = {f"exp_avg.{name}": torch.zeros_like(p).detach() for name, p in model.items()}
    training = {**moments, "step": torch.tensor(0.0), f"rng.{rank}": torch.zeros(9, dtype=torch.uint8)}
    tensors = model | training
    wrong = []
    before = checkpoint.newest_good(run, wrong.append, group)
    if before is not None:
        known = checkpoint.tensor_names(before, "training")
        checkpoint.load_tensors(before, "model", model, group)
        mine = {name: t for name, t in training.items() if name in known}
        checkpoint.load_tensors(before, "training", mine, group)
        for name, tensor in (model | mine).items():
            if not torch.equal(whole(tensor), value(name, step - 1, tensor.shape).to(tensor.dtype)):
                wrong.append(name)
    for name, tensor in tensors.items():
        fill(tensor, value(name, step, tensor.shape).to(tensor.dtype))
    own_group = None if group is None else dist.new_group(backend="gloo")
    writer = make_writer(run, group=own_group, in_background=in_background)
    writer.save(step, model=model, training=training, state={}, files=write_files)
    if in_background:  # as training does: change the tensors, and communicate
        for name, tensor in tensors.items():
            fill(tensor, value(name, step + 50, tensor.shape).to(tensor.dtype))
    saved = writer.wait()
    if saved is None or checkpoint.step_of(saved) != step:
        wrong.append(f"{saved} is not of step {step}")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("in_background", [False, True])
def test_any_layout_goes_on_as_any_other(in_background: bool, tmp_path: Path) -> None:
    chain = [
        (1, "plain"),
        (2, "sharded"),
        (4, "replicated shards"),
        (2, "plain"),
        (4, "sharded"),
        (1, "plain"),
    ]
    for step, (ranks, layout) in enumerate(chain, start=1):
        settings = (tmp_path, ranks, layout, step, in_background)
        found = run_on_ranks(carry_on, ranks, *settings) if ranks > 1 else [carry_on(None, 0, *settings)]
        assert found == [[]] * ranks, (ranks, layout)
        saved = checkpoint.checkpoints(tmp_path)[-1]
        assert {f"rng.{rank}" for rank in range(ranks)} <= checkpoint.tensor_names(saved, "training").keys()
        expected = {"config.json", "tokenizer.json", "state.json"}
        for part in ("model", "training/training"):
            expected |= {f"{part}-{rank:05}-of-{ranks:05}.safetensors" for rank in range(1, ranks + 1)}
            expected |= {f"{part}.safetensors.index.json"} if layout == "plain" else set()
        assert checkpoint.digests(saved).keys() == expected
        if layout == "sharded":
            check_that_a_missing_part_is_noticed(saved, tmp_path / f"part-{step}")


def check_that_a_missing_part_is_noticed(saved: Path, copied: Path) -> None:
    """Checksums are not compared whenever a model is read."""
    shutil.copytree(saved, copied)
    next(copied.glob("model-00001-*")).unlink()
    with pytest.raises(WMTPError, match=r"part-\d: damaged: a part of 'a\..*' is missing"):
        checkpoint.load_tensors(copied, "model", {"a.weight": torch.zeros(7, 5)})


def message(action: Callable[[], Any]) -> str:
    try:
        action()
    except WMTPError as error:
        return str(error)
    return "no error"


def go_wrong(group: ProcessGroup, rank: int, run: Path, in_background: bool) -> list[str]:
    """What every rank says when something fails on one of them; in between, that saving still works."""
    writer = make_writer(run, group=group, in_background=in_background)

    def no_files(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    heard = [message(lambda: save_and_wait(writer, 1, files=no_files))]
    first = save_and_wait(writer, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    heard.append(message(lambda: save_and_wait(writer, 2)))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    second = save_and_wait(writer, 2)
    shape = (9, 4) if rank == 0 else (4, 9)
    heard.append(
        message(
            lambda: checkpoint.load_tensors(second, "model", {"lm_head.weight": torch.zeros(shape)}, group)
        )
    )
    if rank == 1:
        flip(second / "model-00001-of-00002.safetensors")
    dist.barrier()
    heard.append(message(lambda: checkpoint.verify(second, group)))
    said: list[str] = []
    good = checkpoint.newest_good(run, said.append, group)
    heard.append("it fell back" if good == first else f"not {good}")
    assert len(said) == (1 if rank == 0 else 0)
    assert content(first) == 1
    return heard


@pytest.mark.parametrize("in_background", [False, True])
def test_an_error_on_one_rank_is_an_error_on_all(in_background: bool, tmp_path: Path) -> None:
    one, other = run_on_ranks(go_wrong, 2, tmp_path, in_background)
    assert one == other
    assert "rank 0: [Errno 28] No space left on device; there is none before it" in one[0]
    assert (
        "rank 1: Error while serializing: I/O error: File too large (os error 27); step-00000001 is still good"
        in one[1]
    )
    assert "'lm_head.weight' has shape [9, 4], and [4, 9] is wanted" in one[2]
    assert "damaged: model-00001-of-00002.safetensors is not what was saved" in one[3]
    assert one[4] == "it fell back"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "latest",
        "step-00000001",
        "step-00000002",
    ]


def fail_to_copy(group: ProcessGroup, rank: int, run: Path) -> str:
    writer = make_writer(run, group=group, in_background=True)
    training = training_at(1)
    if rank == 1:
        training["rng.0"] = torch.empty(10, dtype=torch.uint8, device="meta")  # nothing there to copy
    return message(lambda: writer.save(1, model={}, training=training, state={}, files=write_files))


def test_a_copy_that_fails_on_one_rank_fails_on_all(tmp_path: Path) -> None:
    one, other = run_on_ranks(fail_to_copy, 2, tmp_path)
    assert one == other
    assert "step-00000001: cannot be saved: rank 1: Cannot copy out of meta tensor" in one
    assert one.endswith("; there is none before it")


def save_apart(group: ProcessGroup, rank: int, run: Path) -> str:
    return message(lambda: save_and_wait(make_writer(run / str(rank), group=group), 1))


def test_machines_that_do_not_share_the_run_directory_are_refused(tmp_path: Path) -> None:
    for said in run_on_ranks(save_apart, 2, tmp_path):
        assert "cannot be saved: rank 1: another machine's run directory is not this one's" in said
    assert not any(tmp_path.glob("*/checkpoints/*"))
