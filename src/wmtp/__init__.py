"""Weighted multi-token prediction.

The legend for shapes, used as suffixes of tensor names (`ce_bsh`, `weights_bsh`):

    B, S   sequences in a micro-batch, positions
    H      heads; head h at position s predicts ids[s + h + 1], head 0 is next-token prediction
    V, D   vocabulary, hidden size
    N      rows of a flattened loss; in a denominator, valid (b, s, h) entries of the whole optimiser step
"""

__version__ = "0.1.0"
