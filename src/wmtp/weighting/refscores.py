"""A reference model's cross-entropy of every token of a data set, on disk."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from wmtp.config import Recipe
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Batch, in_order
from wmtp.data.targets import has_next, shift_left, shift_right
from wmtp.environment import autocast
from wmtp.errors import WMTPError
from wmtp.loss import LossKernel, choose_kernel
from wmtp.model.packed import next_token_hidden
from wmtp.progress import progress
from wmtp.storage import new_directory, read_json, write_json

SCORES, HEADER = "scores.float16", "scores.json"


@dataclass(frozen=True)
class Header:
    """What the scores belong to: fingerprints of the data set, its tokenizer and the reference model."""

    tokens: int
    data: str
    tokenizer: str
    model: str


def write_scores(
    directory: Path,
    dataset: TokenDataset,
    model: PreTrainedModel,
    recipe: Recipe,
    *,
    model_fingerprint: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Header:
    """Score every token, given those before it in its document: [T] float16, NaN for a document's first.

    Rows are packed, and logits computed, as the recipe says. Returns the header, which stands beside the scores and
    says what they belong to.
    """
    kernel = choose_kernel(recipe.loss)
    header = Header(
        len(dataset.tokens), dataset.fingerprint, dataset.tokenizer_fingerprint, model_fingerprint
    )
    model = model.to(device).eval()
    with new_directory(directory) as aside:
        scores = np.memmap(aside / SCORES, dtype=np.float16, mode="w+", shape=(header.tokens,))
        scores[:] = np.nan
        done = 0
        with progress("score", header.tokens) as update:
            for batch in in_order(dataset, recipe.data.sequence_length, recipe.train.rows_at_once):
                ce_bs = token_ce(model, batch.to(device), dtype, kernel).cpu().numpy()
                real = batch.token_keys.numpy() >= 0
                scores[batch.token_keys.numpy()[real]] = ce_bs[real]
                done += int(real.sum())
                update(done)
        scores.flush()
        write_json(aside / HEADER, asdict(header))
    return header


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
    header = Header(**read_json(directory / HEADER))
    expected = {"data": dataset.fingerprint, "tokenizer": dataset.tokenizer_fingerprint, "model": model}
    for kind in ("tokenizer", "data", "model"):
        found, wanted = getattr(header, kind), expected[kind]
        if wanted is not None and found != wanted:
            raise WMTPError(
                f"data.reference_scores {str(directory)!r}: scored with another {kind}: fingerprint "
                f"{found[:16]} there, {wanted[:16]} here; write it anew with wmtp score"
            )
    path = directory / SCORES
    size = path.stat().st_size if path.exists() else 0
    if size != 2 * header.tokens:
        raise WMTPError(
            f"data.reference_scores {str(directory)!r}: truncated: {size} bytes for {header.tokens} tokens "
            f"({2 * header.tokens} expected); write it anew with wmtp score"
        )
    return np.memmap(path, dtype=np.float16, mode="r", shape=(header.tokens,))
