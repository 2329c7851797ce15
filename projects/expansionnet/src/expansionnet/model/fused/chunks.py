"""Parts of a batch that are computed at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch

CHUNK = 1 << 19
"""Elements of the largest intermediate that are computed at once on a CPU: what a cache holds."""


def chunks(batch: int, size: int, device: torch.device) -> Iterator[slice]:
    """Parts of a batch whose samples have ``size`` elements; the whole of it but on a CPU."""
    step = max(1, CHUNK // size if device.type == "cpu" else batch)
    return (slice(start, start + step) for start in range(0, batch, step))
