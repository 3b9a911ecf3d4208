"""What the training loop trains: multi-token prediction, or a critic."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wmtp.config import Recipe
from wmtp.data.loader import Batch
from wmtp.distributed.world import World


class Output(Protocol):
    """What one micro-batch gives: its share of the step's loss, and how many scores were not finite."""

    @property
    def loss(self) -> Tensor: ...

    @property
    def nonfinite_scores(self) -> Tensor: ...


class Trainable(Protocol):
    """A module from a batch to the loss. Its children beside `model` are frozen.

    Attributes:
        model: whose parameters are trained, where they require a gradient, and saved.
        compute_dtype: of matrix products.
    """

    recipe: Recipe
    compute_dtype: torch.dtype

    @property
    def model(self) -> nn.Module: ...

    def prepare(self, batches: Sequence[Batch], step: int) -> list[dict[str, Any]]:
        """The keyword arguments of `forward` for every micro-batch of a step."""
        ...

    def statistics(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """What to record of a step beside its loss, over all ranks."""
        ...

    def validate(self, held_out: Any, world: World, alive: Callable[[], None]) -> dict[str, Any]:
        """What to record of held-out data, over all ranks; `alive` is called before each batch."""
        ...

    def criterion(self, validation: dict[str, Any]) -> float:
        """Of such a record: the lower, the better; not finite for a broken model."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it remembers of earlier steps beside parameters; the same on every rank, restored in place."""
        ...
