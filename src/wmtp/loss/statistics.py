"""What the output distribution and the gradient say of every token, with one chunk of logits alive.

With p = softmax(W · h), e = onehot(target) and G any matrix of W's shape, a chunk of p - e gives

    ∂CE/∂h        = Wᵀ · (p - e)
    ⟨∂CE/∂W, G⟩   = (p - e) · (G · h) = h · (Gᵀ · (p - e))

so each of the two costs one matrix product more, into [chunk, D]: neither a backward pass nor more logits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wmtp.loss.chunked import chunks, cross_entropy_, not_computed


@dataclass(frozen=True)
class TokenStatistics:
    """Of every row, [N] float32 (float64 if `hidden` is) without gradient, NaN outside `where`.

    Attributes:
        ce: cross-entropy in nats.
        entropy: -Σ p log p in nats, never below 0. None where not asked for, like the others below.
        gradient_norm: ‖∂CE/∂hidden‖₂.
        alignment: ⟨∂CE/∂unembedding, clean_gradient⟩, the inner product of all V · D entries.
    """

    ce: Tensor
    entropy: Tensor | None
    gradient_norm: Tensor | None
    alignment: Tensor | None


@torch.no_grad()
def linear_token_statistics(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    *,
    where: Tensor | None = None,
    entropy: bool = False,
    gradient_norm: bool = False,
    clean_gradient: Tensor | None = None,
    chunk_size: int = 512,
) -> TokenStatistics:
    """Statistics of every token, without gradient, one chunk of logits at a time; CE always.

    CE equals that of `linear_cross_entropy_per_token`, bit by bit. Rows outside `where` are not read and cost
    nothing. `torch.autocast` has no effect.

    Args:
        hidden: [N, D] floating point; its dtype is that of the matrix products.
        unembedding: [V, D] floating point.
        targets: [N] int64, in [0, V) inside `where`.
        where: [N] bool, the rows to compute; all of them if None.
        entropy: whether to compute it. It costs no matrix product.
        gradient_norm: whether to compute it.
        clean_gradient: [V, D] floating point, what the gradients are compared with; None for no alignment.
        chunk_size: rows whose logits are in memory at a time.
    """
    assert targets.shape == hidden.shape[:1]
    ce = not_computed(hidden)
    entropies = not_computed(hidden) if entropy else None
    norms = not_computed(hidden) if gradient_norm else None
    alignments = not_computed(hidden) if clean_gradient is not None else None
    with torch.autocast(hidden.device.type, enabled=False):
        matrix = unembedding.to(hidden.dtype)
        if clean_gradient is not None:
            clean_matrix, clean_scale = _scaled_to(hidden.dtype, clean_gradient)
        for rows, hidden_rows, logits in chunks(hidden, matrix, where, chunk_size):
            weights = ce.new_ones(len(logits)) if gradient_norm or clean_gradient is not None else None
            chunk_entropy = ce.new_empty(len(logits))
            ce[rows] = cross_entropy_(logits, targets[rows], weights, chunk_entropy if entropy else None)
            if entropies is not None:
                entropies[rows] = chunk_entropy
            if norms is not None:
                norms[rows] = torch.linalg.vector_norm(logits @ matrix, dim=1, dtype=ce.dtype)
            if alignments is not None:
                products = (logits @ clean_matrix).to(ce.dtype).mul_(hidden_rows)
                alignments[rows] = products.sum(1) * clean_scale
    return TokenStatistics(ce, entropies, norms, alignments)


def _scaled_to(dtype: torch.dtype, matrix: Tensor) -> tuple[Tensor, Tensor | float]:
    """A matrix of `dtype`, and what to multiply it by to have `matrix` again.

    In float16 its greatest entry is brought to between 1 and 2, where the gradient of a mean would underflow.
    Scales are powers of two, so nothing is rounded twice.
    """
    if dtype != torch.float16:
        return matrix.to(dtype), 1.0
    largest = torch.linalg.vector_norm(matrix, torch.inf).float()
    scale = torch.exp2(torch.frexp(largest).exponent - 1)
    return (matrix / scale).to(dtype), scale
