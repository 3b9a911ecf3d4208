"""The weight of each token of a document, for people to look at."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from wmtp.data.dataset import Document, TokenDataset
from wmtp.data.loader import Batch, Columns, collate, pack
from wmtp.data.tokenizer import completion_anchor, document_start, encode, places_in_text
from wmtp.train.module import WeightedMTP

Places = Sequence[Sequence[int]]


def token_weights(
    module: WeightedMTP,
    dataset: TokenDataset,
    documents: Sequence[int],
    *,
    device: torch.device,
    columns: Columns | None = None,
) -> dict[int, list[float | None]]:
    """Weights that one training step would give these documents, normalised over all of them.

    Returns:
        document -> the weight of each of its tokens as head 0's target, None where it is not supervised.
    """
    length = module.recipe.data.sequence_length
    rows = pack(dataset.lengths.tolist(), documents, length)
    batch = collate(dataset, rows, length, columns).to(device)
    valid_bsh = module.targets(batch)[1]
    weights_bsh = weighed(module, batch)[1]
    of_token: dict[int, float] = {
        int(key): float(weight)
        for key, weight in zip(
            batch.token_keys[:, 1:][valid_bsh[:, :-1, 0]], weights_bsh[..., 0][valid_bsh[..., 0]], strict=True
        )
    }
    return {
        document: [
            of_token.get(key) for key in range(dataset.offsets[document], dataset.offsets[document + 1])
        ]
        for document in documents
    }


def weighed(module: WeightedMTP, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scores and weights [B, S, H] as the last step of training would give them, without learning from it."""
    module.eval()
    last = module.recipe.train.steps - 1
    arguments = module.prepare([batch], last)[0]
    raw = module.scores(batch, arguments["clean_gradient"])
    return module.weigh([raw], [module.targets(batch)[1]], [batch], last)[0]


def token_pieces(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[tuple[str, int, int]]:
    """Each token's text and its place [start, end) in the completion; the prompt's places are negative."""
    anchor = completion_anchor(tokenizer) if document.prompt else ""
    [before] = encode(tokenizer, [anchor])
    pieces: list[tuple[str, int, int]] = []
    for text, skipped, shift in (
        (document.prompt, 0, -len(document.prompt)),
        (anchor + document.completion, len(before), -len(anchor)),
    ):
        offsets = places_in_text(tokenizer, text)[skipped:]
        pieces += [(text[start:end], start + shift, end + shift) for start, end in offsets]
    end = len(document.completion)
    return [*pieces, (str(tokenizer.eos_token), end, end + 1)]


def start_pieces(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[tuple[str, int, int]]:
    """Also the tokens that begin the document, and every piece of it: they have no place."""
    begin = -len(document.prompt)
    return [(tokenizer.convert_ids_to_tokens(id_), begin, begin) for id_ in document_start(tokenizer)]


def planted_tokens(pieces: Sequence[tuple[str, int, int]], row: Mapping[str, Any]) -> list[bool]:
    """Whether each token overlaps one of the row's `error_spans` (character places in the completion)."""
    spans: Places = row.get("error_spans") or ()
    return [any(start < high and low < end for low, high in spans) for _, start, end in pieces]
