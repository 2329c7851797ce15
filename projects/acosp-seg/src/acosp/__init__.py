"""ACoSP: prune the channels of any convolutional network while it trains."""

from acosp.conv import UnprunableConv2d
from acosp.pruner import SoftTopKPruner
from acosp.structure import apply_structure, phase, structure

__all__ = ["SoftTopKPruner", "UnprunableConv2d", "apply_structure", "phase", "structure"]
