"""How well each head predicts held-out documents: accuracy, cross-entropy and perplexity."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from wmtp.config import Recipe
from wmtp.data.corpus import load_rows
from wmtp.data.dataset import TokenDataset, tokenise
from wmtp.data.documents import documents_from
from wmtp.data.loader import in_order
from wmtp.data.targets import make_targets
from wmtp.decode.batch import evaluation_mode
from wmtp.environment import dtype_name
from wmtp.errors import WMTPError
from wmtp.layout import HEADS_FILE
from wmtp.loss.chunked import chunks, cross_entropy_
from wmtp.model.modeling import MTPForCausalLM
from wmtp.model.packed import packed_trunk
from wmtp.progress import progress
from wmtp.run import Run
from wmtp.storage import check_can_write, write_json

TOP = 5


@dataclass(frozen=True)
class HeadMeasures:
    """One head on all targets that its loss supervises.

    Attributes:
        head: h, which predicts the token h + 1 places further on.
        targets: how many there are. Without any, the other values are None.
        top_1: share of targets that are the head's most probable token. Of equally probable tokens the one with the
            lower number comes first, as in greedy decoding.
        top_5: share of targets among its five most probable ones.
        ce: mean cross-entropy, nats a token.
        perplexity: exp(ce); None where that is beyond the range of float64.
    """

    head: int
    targets: int
    top_1: float | None
    top_5: float | None
    ce: float | None
    perplexity: float | None


def evaluate_heads(run: Run) -> dict[str, Any]:
    """Measure the heads of a run's newest checkpoint on its validation data; writes `evaluation-heads.json`."""
    path, recipe = run.directory / HEADS_FILE, run.recipe
    check_can_write(path)
    dataset = validation_documents(recipe, run.tokenizer)
    measured = measure_heads(
        run.model,
        dataset,
        sequence_length=recipe.data.sequence_length,
        batch_size=recipe.train.rows_at_once,
        chunk_size=recipe.loss.chunk_size,
    )
    result = {
        "checkpoint": run.checkpoint.name,
        "documents": len(dataset),
        "data": dataset.fingerprint,
        "dtype": dtype_name(run.model.dtype),
        "heads": [asdict(each) for each in measured],
    }
    write_json(path, result)
    return result


def validation_documents(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> TokenDataset:
    """The recipe's validation data in the tokens of a model.

    Raises:
        WMTPError: unknown source, missing file or field, or nothing to validate on.
    """
    rows, data = load_rows(recipe), recipe.data
    documents = documents_from(rows.validation, rows.fields)
    name = f"data.source {data.source}, validation"
    return tokenise(documents, tokenizer, data.sequence_length, data.overlong, name)


def measure_heads(
    model: MTPForCausalLM,
    dataset: TokenDataset,
    *,
    sequence_length: int,
    batch_size: int,
    chunk_size: int = 512,
) -> list[HeadMeasures]:
    """Measure every head on every document, in the model's dtype and on its device.

    Args:
        model: of H heads.
        dataset: documents of at most `sequence_length` tokens.
        sequence_length: tokens of a packed row.
        batch_size: rows that the model reads at once.
        chunk_size: positions whose logits are in memory at a time.

    Raises:
        WMTPError: a cross-entropy is not finite.
    """
    heads, device = model.config.heads, model.unembedding.device
    sums = torch.zeros(heads, 4, dtype=torch.float64, device=device)
    done = 0
    with evaluation_mode(model), progress("measure heads", len(dataset)) as update:
        for batch in in_order(dataset, sequence_length, batch_size):
            batch = batch.to(device)
            targets_bsh, valid_bsh = make_targets(batch.ids, batch.document_ids, batch.supervised, heads)
            trunk = packed_trunk(model, batch)
            for h in range(heads):
                targets, valid = targets_bsh[..., h].flatten(), valid_bsh[..., h].flatten()
                sums[h] += _sums(
                    model.head(trunk, h).flatten(0, 1), model.unembedding, targets, valid, chunk_size
                )
            done += int(batch.document_ids.amax(1).sum())
            update(done)
    return [_measures(h, own) for h, own in enumerate(sums.tolist())]


def _sums(hidden: Tensor, unembedding: Tensor, targets: Tensor, valid: Tensor, chunk_size: int) -> Tensor:
    """[4] float64: valid targets, how many come first, how many among the first five, and their cross-entropy."""
    sums = torch.zeros(4, dtype=torch.float64, device=hidden.device)
    for rows, _, logits in chunks(hidden, unembedding.to(hidden.dtype), valid, chunk_size):
        before = _tokens_before(logits, targets[rows])
        ce = cross_entropy_(logits, targets[rows])
        sums += torch.stack(
            [valid[rows].sum(), (before < 1).sum(), (before < TOP).sum(), ce.sum(dtype=torch.float64)]
        )
    return sums


def _tokens_before(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    """[n]: how many tokens come before the target in descending order of probability, and then of number."""
    target_logits = logits_nv.gather(1, targets_n[:, None])
    tokens = torch.arange(logits_nv.shape[1], device=logits_nv.device)
    ties = (logits_nv == target_logits) & (tokens < targets_n[:, None])
    return ((logits_nv > target_logits) | ties).sum(1)


def _measures(head: int, sums: list[float]) -> HeadMeasures:
    targets, first, among_first, total = sums
    if targets == 0:
        return HeadMeasures(head, 0, None, None, None, None)
    ce = total / targets
    if not math.isfinite(ce):
        raise WMTPError(
            f"head {head}: its cross-entropy is not finite: the weights are damaged, or training diverged"
        )
    try:
        perplexity = math.exp(ce)
    except OverflowError:
        perplexity = None
    return HeadMeasures(head, int(targets), first / targets, among_first / targets, ce, perplexity)
