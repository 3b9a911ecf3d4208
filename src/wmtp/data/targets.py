"""The one place that shifts: tokens to the targets of H heads, and to their neighbours in a document."""

import torch
from torch import Tensor


def lookahead(x_bs: Tensor, heads: int) -> Tensor:
    """out[b, s, h] = x[b, s + h], zero beyond the end of the row: [B, S] -> [B, S, H]."""
    padded = torch.nn.functional.pad(x_bs, (0, heads - 1))
    return padded.unfold(1, heads, 1)


def shift_left(x_bs: Tensor) -> Tensor:
    """out[b, s] = x[b, s + 1], zero in the last place."""
    return torch.nn.functional.pad(x_bs[:, 1:], (0, 1))


def shift_right(x: Tensor, first: float = 0) -> Tensor:
    """out[b, s] = x[b, s - 1], `first` in the first place: [B, S] or [B, S, D]."""
    places = (1, 0) if x.ndim == 2 else (0, 0, 1, 0)
    return torch.nn.functional.pad(x[:, :-1], places, value=first)


def has_next(document_ids_bs: Tensor) -> Tensor:
    """[B, S] bool: where a token of the same document follows."""
    return (shift_left(document_ids_bs) == document_ids_bs) & (document_ids_bs > 0)


def has_previous(document_ids_bs: Tensor) -> Tensor:
    """[B, S] bool: where a token of the same document precedes."""
    return shift_right(has_next(document_ids_bs))


def is_last(document_ids_bs: Tensor) -> Tensor:
    """[B, S] bool: each document's last token."""
    return (document_ids_bs > 0) & ~has_next(document_ids_bs)


def make_targets(
    ids_bs: Tensor, document_ids_bs: Tensor, supervised_bs: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """What every head has to predict, and where it counts.

    targets[b, s, h] = ids[b, s + h + 1]; valid[b, s, h] where that target is supervised and belongs to the
    document of position s.

    Args:
        ids_bs: [B, S] int64 tokens.
        document_ids_bs: [B, S] int64, the document of each position, from 1; 0 is padding.
        supervised_bs: [B, S] bool, whether the token at a position may be a target.
        heads: H.
    Returns:
        targets [B, S, H] int64 and valid [B, S, H] bool.
    """
    targets_bsh = lookahead(shift_left(ids_bs), heads)
    target_documents_bsh = lookahead(shift_left(document_ids_bs), heads)
    target_supervised_bsh = lookahead(shift_left(supervised_bs), heads)
    same_document = (target_documents_bsh == document_ids_bs[..., None]) & (document_ids_bs[..., None] > 0)
    return targets_bsh, same_document & target_supervised_bsh
