"""What a run is beside its model: counters, the optimiser's tensors, random numbers."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wmtp.checkpoint import store as checkpoint
from wmtp.distributed.world import World
from wmtp.train.trainable import Trainable


@dataclass
class Counters:
    """What a run has done so far; saved with it.

    seconds: of training alone, without validation and saving; data_seconds: how many of them it waited for data;
    tokens: without padding, over all ranks;
    nonfinite_scores: entries that got weight 1 for want of a finite score;
    best_validation, best_step: the lowest criterion, and after how many steps; stale_validations: how many came
    since.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    skipped_steps: int = 0
    bad_in_a_row: int = 0
    nonfinite_scores: int = 0
    best_validation: float | None = None
    best_step: int | None = None
    stale_validations: int = 0

    def validated(self, criterion: float) -> bool:
        """Take note of a validation at the present step; whether it is the best so far."""
        is_best = math.isfinite(criterion) and (
            self.best_validation is None or criterion < self.best_validation
        )
        if is_best:
            self.best_validation, self.best_step = criterion, self.step
        self.stale_validations = 0 if is_best else self.stale_validations + 1
        return is_best


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by kind and parameter name (`exp_avg.lm_head.weight`), whatever the layout."""
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for kind, value in optimizer.state[parameter].items()
    }


def rng_tensors(world: World) -> dict[str, Tensor]:
    """The states of this process's random number generators."""
    states = {f"rng.{world.rank}": torch.get_rng_state()}
    if world.device.type == "cuda":
        states[f"cuda_rng.{world.rank}"] = torch.cuda.get_rng_state(world.device)
    return states


def memory_tensors(module: Trainable) -> dict[str, Tensor]:
    """What a module remembers beside parameters."""
    return {f"task.{name}": tensor for name, tensor in module.state().items()}


def restore_training(
    location: Path, module: Trainable, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Load the optimiser's and the module's state, and random numbers where the checkpoint has such a rank."""
    saved = checkpoint.tensor_names(location, "training")
    rng = {name: state for name, state in rng_tensors(world).items() if name in saved}
    checkpoint.load_tensors(
        location,
        "training",
        optimizer_tensors(module.model, optimizer) | memory_tensors(module) | rng,
        world.saving_group,
    )
    if f"rng.{world.rank}" in rng:
        torch.set_rng_state(rng[f"rng.{world.rank}"])
    if f"cuda_rng.{world.rank}" in rng:
        torch.cuda.set_rng_state(rng[f"cuda_rng.{world.rank}"], world.device)
