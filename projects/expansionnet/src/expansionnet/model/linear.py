"""Linear maps that training on a processor computes by oneDNN."""

from __future__ import annotations

from torch import Tensor, nn

from expansionnet.model import fused


class Linear(nn.Linear):
    """A linear map with a bias."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        if fused.faster(input, self.weight):
            return fused.linear(input, self.weight, self.bias)
        return super().forward(input)
