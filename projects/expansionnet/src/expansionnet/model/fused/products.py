"""Products of matrices in written passes, by oneDNN where it is faster.

# M rows, K of the sum, N columns
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from prunelab import onednn

_BLOCK = 1 << 19
"""Numbers that are taken out of oneDNN's layout at once: what a cache holds."""
_LEAST_ROWS = 256
"""Rows that are multiplied at once at least, since each time the other matrix is read."""


def times(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias``.

    Args:
        x: (M, K).
        w: (N, K).
        bias: (N,), or None.

    Returns:
        (M, N).
    """
    if w.numel() < onednn.LEAST or not onednn.usable(x):
        return F.linear(x, w, bias)
    w = w.contiguous()
    step = max(_LEAST_ROWS, _BLOCK // len(w))
    if len(x) <= step:
        return F.linear(x.to_mkldnn(), w, bias).to_dense()
    out = x.new_empty(len(x), len(w))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        out[part] = F.linear(x[part].to_mkldnn(), w, bias).to_dense()
    return out


def batched(x: Tensor, w: Tensor) -> Tensor:
    """``x @ w.T`` of each sample: (b, M, K) and (b, N, K) to (b, M, N)."""
    if w[0].numel() < onednn.LEAST or not onednn.usable(x):
        return torch.bmm(x, w.transpose(1, 2))
    if len(x) == 1:
        return times(x[0], w[0])[None]
    return torch.stack([times(one, other) for one, other in zip(x, w, strict=True)])


def outer(x: Tensor, w: Tensor) -> Tensor:
    """``x.T @ w``, a sum over rows: (M, K) and (M, N) to (K, N)."""
    if min(x.shape[1], w.shape[1]) * len(x) < onednn.LEAST or not onednn.usable(x):
        return x.t() @ w
    return times(x.t().contiguous(), w.t())  # turned as a whole, which is faster than part by part
