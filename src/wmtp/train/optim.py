"""AdamW, and the learning rate of every step."""

import math

import torch
from torch import nn

from wmtp.config import TrainConfig
from wmtp.errors import WMTPError


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, fused where the device has it; its state exists from the start."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cuda", "cpu") for p in trained)
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=fused)
    for parameter in trained:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def check_schedule(train: TrainConfig) -> None:
    """Refuse a schedule that does not fit into the run.

    Raises:
        WMTPError: the learning rate would never reach `lr`, or would fall while it still rises.
    """
    if train.warmup > train.steps:
        raise WMTPError(
            f"train.warmup_steps {train.warmup}: the run has {train.steps} steps (train.steps), so the learning rate "
            f"would never reach train.lr; warm up over fewer, or leave it out for a tenth of the steps"
        )
    if train.schedule == "wsd" and train.warmup + _decay_steps(train) > train.steps:
        raise WMTPError(
            f"train.decay_share {train.decay_share:g}: {_decay_steps(train)} steps of decay and {train.warmup} of "
            f"warm-up are more than train.steps {train.steps}; lower one of them"
        )


def learning_rate(step: int, train: TrainConfig) -> float:
    """Learning rate of a step, counted from 0.

    It rises linearly over the first w steps, with lr/w at step 0 and lr at step w - 1. Behind them it is
    lr · (m + (1 - m) · f) with m = `min_lr_ratio` and, at the share p of the way from step w to the last one,
    f = (1 + cos πp)/2 for cosine, 1 - p for linear, 1 for constant. For wsd f is 1 until d steps before the end, and
    falls by 1/d with each of them.
    """
    warmup = train.warmup
    if step < warmup:
        return train.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, train.steps - 1 - warmup))
    if train.schedule == "cosine":
        height = (1 + math.cos(math.pi * progress)) / 2
    elif train.schedule == "linear":
        height = 1 - progress
    elif train.schedule == "constant":
        height = 1.0
    else:
        decay = _decay_steps(train)
        height = min(1.0, max(0, train.steps - 1 - step) / decay)
    return train.lr * (train.min_lr_ratio + (1 - train.min_lr_ratio) * height)


def _decay_steps(train: TrainConfig) -> int:
    return max(1, round(train.decay_share * train.steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
