"""Processes and their collectives. Without a group there is one process, and nothing is communicated."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from wmtp.config import DevicesConfig
from wmtp.environment import choose_device
from wmtp.errors import WMTPError
from wmtp.rank import restarts, started_by_torchrun


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    group: all of them; saving_group: the same processes, for checkpoints, whose collectives may run concurrently with
    training's; store: the one used for the rendezvous. All None for a single process.
    """

    device: torch.device
    group: ProcessGroup | None = None
    saving_group: ProcessGroup | None = None
    store: Store | None = None

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return rank(self.group)

    @property
    def size(self) -> int:
        """The number of processes."""
        return world_size(self.group)

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Whether `value` is true on any process."""
        return bool(all_reduce(torch.tensor(int(value)), self.group, ReduceOp.MAX))

    def barrier(self) -> None:
        """Wait until every process gets here."""
        if self.group is not None:
            all_reduce(torch.zeros(()), self.group)

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """Run the block on rank 0 before the others, so that they find what it caches."""
        if not self.is_first:
            self.barrier()
        yield
        if self.is_first:
            self.barrier()


@contextmanager
def processes(devices: DevicesConfig) -> Iterator[World]:
    """Join the processes that torchrun started; a single process forms a group only for sharding.

    Raises:
        WMTPError: there are fewer GPUs than processes, or the mesh has another size.
    """
    is_one_of_many = started_by_torchrun() or dist.is_initialized()
    if not is_one_of_many and devices.parallel != "fsdp":
        if devices.mesh is not None:
            raise WMTPError("devices.mesh: one process cannot shard; start with --nproc or torchrun")
        yield World(choose_device(devices))
        return
    device = _local_device(devices)
    started_here = not dist.is_initialized()
    if started_here:
        # By then the heartbeat has ended a stuck run and named the stuck rank.
        timeout = timedelta(seconds=2 * devices.collective_timeout)
        store, place, size = _meeting_place(timeout)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=place, world_size=size, timeout=timeout)
    world = World(
        device,
        group=dist.group.WORLD,
        saving_group=dist.new_group(backend="gloo"),
        store=dist.distributed_c10d._get_default_store(),
    )
    try:
        if devices.mesh is not None and devices.mesh.replicate * devices.mesh.shard != world.size:
            raise WMTPError(
                f"devices.mesh: replicate {devices.mesh.replicate} × shard {devices.mesh.shard} "
                f"should be the number of processes, {world.size}"
            )
        yield world
    except BaseException:
        if started_here and not started_by_torchrun():  # others may be in a collective, and this process ends
            dist.destroy_process_group()
        raise
    if started_here:
        dist.destroy_process_group()


def _meeting_place(timeout: timedelta) -> tuple[Store, int, int]:
    """The store of the rendezvous, this process's rank, and the number of processes.

    torchrun keeps its store over restarts, with the addresses of processes that are gone, so every start gets its own
    keys. On several machines that is left to torchrun, whose agents there do not count restarts alike.
    """
    if not started_by_torchrun():
        return dist.HashStore(), 0, 1  # type: ignore[attr-defined]
    store, place, size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        store = PrefixStore(f"start {restarts()}", store)
    return store, place, size


def _local_device(devices: DevicesConfig) -> torch.device:
    device = choose_device(devices)
    if device.type != "cuda":
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.index is not None and local_rank != device.index:
        raise WMTPError(
            f"devices.device {devices.device!r}: every process needs a GPU of its own; use cuda or auto"
        )
    if local_rank >= torch.cuda.device_count():
        raise WMTPError(
            f"--nproc: process {local_rank + 1} of this machine has no GPU (it has {torch.cuda.device_count()})"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def world_size(group: ProcessGroup | None) -> int:
    """The number of processes in the group."""
    return 1 if group is None else dist.get_world_size(group)


def rank(group: ProcessGroup | None) -> int:
    """Rank of this process in the group."""
    return 0 if group is None else dist.get_rank(group)


def all_reduce(tensor: Tensor, group: ProcessGroup | None, op: ReduceOp.RedOpType = ReduceOp.SUM) -> Tensor:
    """The element-wise sum (or maximum, minimum) over all processes; the argument is not changed."""
    if group is None:
        return tensor
    reduced = tensor.clone()
    dist.all_reduce(reduced, op=op, group=group)
    return reduced


def all_gather_ragged(tensor: Tensor, group: ProcessGroup | None) -> list[Tensor]:
    """Every process's tensor, in order of rank; only the first dimension may differ, and may be 0."""
    if group is None:
        return [tensor]
    length = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.empty_like(length) for _ in range(world_size(group))]
    dist.all_gather(lengths, length, group=group)
    sizes = [int(n) for n in lengths]
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded, group=group)
    return [part[:size] for part, size in zip(gathered, sizes, strict=True)]
