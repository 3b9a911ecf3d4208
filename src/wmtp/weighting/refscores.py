"""A reference model's cross-entropy of every token of a data set, on disk."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from wmtp.config import Recipe
from wmtp.data.arrays import KeptArray
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Batch, in_order
from wmtp.data.targets import has_next, shift_left, shift_right
from wmtp.environment import autocast
from wmtp.errors import WMTPError
from wmtp.loss import LossKernel, choose_kernel
from wmtp.model.packed import next_token_hidden
from wmtp.progress import progress


def write_scores(
    directory: Path,
    dataset: TokenDataset,
    model: PreTrainedModel,
    recipe: Recipe,
    *,
    model_fingerprint: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Score every token, given those before it in its document: [T] float16, NaN for a document's first.

    Rows are packed, and logits computed, as the recipe says.
    """
    kernel = choose_kernel(recipe.loss)
    model = model.to(device).eval()
    with _kept(directory, dataset, model_fingerprint).writing() as scores:
        scores[:] = np.nan
        done = 0
        with progress("score", len(scores)) as update:
            for batch in in_order(dataset, recipe.data.sequence_length, recipe.train.rows_at_once):
                ce_bs = token_ce(model, batch.to(device), dtype, kernel).cpu().numpy()
                real = batch.token_keys.numpy() >= 0
                scores[batch.token_keys.numpy()[real]] = ce_bs[real]
                done += int(real.sum())
                update(done)


@torch.no_grad()
def token_ce(model: PreTrainedModel, batch: Batch, dtype: torch.dtype, kernel: LossKernel) -> torch.Tensor:
    """[B, S] float32: the model's cross-entropy of the token at each position, NaN for a document's first."""
    with autocast(batch.ids.device, dtype):
        hidden_bsd = next_token_hidden(model, batch).to(dtype)
    targets_bs = shift_left(batch.ids)
    ce = kernel.token_statistics(
        hidden_bsd.flatten(0, 1),
        model.get_output_embeddings().weight,
        targets_bs.flatten(),
        where=has_next(batch.document_ids).flatten(),
    ).ce.view(targets_bs.shape)
    return shift_right(ce, torch.nan)


def load_scores(directory: Path, dataset: TokenDataset, *, model: str | None) -> NDArray[np.float16]:
    """Memory-map the scores of this data set.

    Args:
        model: the fingerprint that the reference must have; None accepts any.
    Raises:
        WMTPError: a fingerprint differs, or the file is truncated.
    """
    try:
        return _kept(directory, dataset, model).read()
    except WMTPError as error:
        raise WMTPError(
            f"data.reference_scores {str(directory)!r}: {error}; write it anew with wmtp score"
        ) from None


def _kept(directory: Path, dataset: TokenDataset, model: str | None) -> KeptArray:
    made_from = {"tokenizer": dataset.tokenizer_fingerprint, "data": dataset.fingerprint, "model": model}
    return KeptArray(directory, "scores", "float16", len(dataset.tokens), made_from)
