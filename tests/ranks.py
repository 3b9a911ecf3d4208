"""Run a function on several processes that talk through gloo."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from wmtp.config import Recipe, override

RECIPE = override(
    Recipe(),
    {
        "model.hidden_size": 32,
        "model.layers": 2,
        "model.heads": 3,
        "model.attention_heads": 2,
        "model.init_std": 0.1,
        "data.sequence_length": 48,
        "train.batch_size": 8,
        "train.algo": "rho1-wmtp",
        "train.lr": 0.003,
        "train.warmup_steps": 5,
        "train.log_every": 1,
    },
    "test",
)
"""Small enough to be trained on several processes of a test."""


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """What `function(group, rank, *args)` returns on every rank; it must be importable, its result savable."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.set_forkserver_preload(["torch", "wmtp.train.trainer"])  # imported once for all
        torch.multiprocessing.start_processes(
            _worker, (world_size, folder, function, args), nprocs=world_size, start_method="forkserver"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _worker(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    torch.save(function(dist.group.WORLD, rank, *args), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
