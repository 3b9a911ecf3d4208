"""What a run is beside its model: counters, the optimiser's tensors, random numbers."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wmtp.train import checkpoint
from wmtp.train.distributed import World


@dataclass
class Counters:
    """What a run has done so far; saved with it.

    seconds: of training alone, without validation and saving; tokens: without padding, over all ranks;
    nonfinite_scores: entries that got weight 1 for want of a finite score;
    best_validation_ce, best_step: the lowest of head 0, and after how many steps.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    bad_in_a_row: int = 0
    nonfinite_scores: int = 0
    best_validation_ce: float | None = None
    best_step: int | None = None

    def validated(self, ce: float) -> None:
        """Take note of a validation at the present step."""
        if math.isfinite(ce) and (self.best_validation_ce is None or ce < self.best_validation_ce):
            self.best_validation_ce, self.best_step = ce, self.step


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


def restore_training(
    location: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Load the optimiser's state, and this rank's random numbers where the checkpoint has such a rank."""
    saved = checkpoint.tensor_names(location, "training")
    rng = {name: state for name, state in rng_tensors(world).items() if name in saved}
    checkpoint.load_tensors(
        location, "training", optimizer_tensors(model, optimizer) | rng, world.saving_group
    )
    if f"rng.{world.rank}" in rng:
        torch.set_rng_state(rng[f"rng.{world.rank}"])
    if f"cuda_rng.{world.rank}" in rng:
        torch.cuda.set_rng_state(rng[f"cuda_rng.{world.rank}"], world.device)
