"""Collectives over an optional process group: no group means one process, and nothing is communicated."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp


def world_size(group: ProcessGroup | None) -> int:
    """The number of processes in the group."""
    return 1 if group is None else dist.get_world_size(group)


def rank(group: ProcessGroup | None) -> int:
    """The place of this process in the group."""
    return 0 if group is None else dist.get_rank(group)


def all_reduce(tensor: Tensor, group: ProcessGroup | None, op: ReduceOp.RedOpType = ReduceOp.SUM) -> Tensor:
    """The element-wise sum (or maximum, minimum) over all processes; the argument is left as it is."""
    if group is None:
        return tensor
    reduced = tensor.clone()
    dist.all_reduce(reduced, op=op, group=group)
    return reduced


def all_gather_ragged(tensor: Tensor, group: ProcessGroup | None) -> list[Tensor]:
    """Every process's tensor, in the order of ranks; only the first dimension may differ, and may be 0."""
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
