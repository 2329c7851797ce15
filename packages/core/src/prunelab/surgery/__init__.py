"""Make a pruned network smaller: a graph of producers and consumers, keep-lists, slicing, constants."""

from prunelab.surgery.channels import Channels
from prunelab.surgery.compact import compact
from prunelab.surgery.graph import Graph, Node, channel_mask
from prunelab.surgery.keep import Structure, resize
from prunelab.surgery.program import Program
from prunelab.surgery.shrink import Keep, Shrunk, shrink
from prunelab.surgery.tracing import trace

__all__ = [
    "Channels",
    "Graph",
    "Keep",
    "Node",
    "Program",
    "Shrunk",
    "Structure",
    "channel_mask",
    "compact",
    "resize",
    "shrink",
    "trace",
]
