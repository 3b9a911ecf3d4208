"""Validation loss per head."""

import torch

from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import in_order
from wmtp.train.module import WeightedMTP


@torch.no_grad()
def validation_ce(module: WeightedMTP, dataset: TokenDataset, device: torch.device) -> list[float]:
    """Unweighted cross-entropy of each head, the mean over all its valid entries of the data set."""
    module.eval()
    data, train = module.recipe.data, module.recipe.train
    total = torch.zeros(module.heads, dtype=torch.float64, device=device)
    count = torch.zeros(module.heads, dtype=torch.float64, device=device)
    for batch in in_order(dataset, data.sequence_length, train.rows_at_once):
        ce_bsh, valid_bsh = module.unweighted_ce(batch.to(device))
        total += ce_bsh.nan_to_num().sum((0, 1), dtype=torch.float64)
        count += valid_bsh.sum((0, 1))
    module.train()
    return [float(ce) for ce in total / count]
