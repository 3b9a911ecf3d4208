"""The functions that compute a run's loss, chosen once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from wmtp.config import LossConfig
from wmtp.loss.chunked import weighted_linear_cross_entropy
from wmtp.loss.statistics import TokenStatistics, linear_token_statistics


@dataclass(frozen=True)
class LossKernel:
    """The loss, and the statistics of its tokens, computed one way.

    Attributes:
        weighted_cross_entropy: hidden [N, D], unembedding [V, D], targets [N], weights [N] -> loss, CE [N]; as
            `weighted_linear_cross_entropy`.
        token_statistics: hidden [N, D], unembedding [V, D], targets [N] and which statistics -> `TokenStatistics`;
            as `linear_token_statistics`.
    """

    weighted_cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    token_statistics: Callable[..., TokenStatistics]


def choose_kernel(config: LossConfig) -> LossKernel:
    """The kernel of a recipe: `loss.chunk_size` rows of logits exist at a time."""
    return LossKernel(
        partial(weighted_linear_cross_entropy, chunk_size=config.chunk_size),
        partial(linear_token_statistics, chunk_size=config.chunk_size),
    )
