"""Validation loss per head."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import in_order
from wmtp.distributed.parallel import reshard
from wmtp.distributed.world import World, all_reduce
from wmtp.metrics import finite

if TYPE_CHECKING:
    from wmtp.train.module import WeightedMTP


@torch.no_grad()
def validation_ce(
    module: "WeightedMTP", dataset: TokenDataset, world: World, alive: Callable[[], None]
) -> list[float | None]:
    """Unweighted cross-entropy of each head, the mean over all its valid entries of the data set.

    None where it is not finite: of a broken model, or of a head that has no valid entry.

    Args:
        alive: called before each batch.
    """
    module.eval()
    data, train = module.recipe.data, module.recipe.train
    sums = torch.zeros(2, module.heads, dtype=torch.float64, device=world.device)
    for batch in in_order(
        dataset, data.sequence_length, train.rows_at_once, rank=world.rank, world_size=world.size
    ):
        alive()
        ce_bsh, valid_bsh = module.unweighted_ce(batch.to(world.device))
        sums[0] += torch.where(valid_bsh, ce_bsh, 0).sum((0, 1), dtype=torch.float64)
        sums[1] += valid_bsh.sum((0, 1))
    reshard(module)
    module.train()
    total, count = all_reduce(sums, world.group)
    return [finite(ce) for ce in (total / count).tolist()]
