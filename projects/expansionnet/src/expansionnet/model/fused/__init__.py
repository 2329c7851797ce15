"""Training steps of the blocks with written backward passes, which keep less and compute it again.

Autograd keeps every intermediate of the expansion blocks, most of them as large as vectors times width. Here
a block keeps its scores, and of each dropout one byte an element; weights, mixtures and whatever else follows
from them are computed again in the backward pass, a few pictures at a time so that they stay in the cache.
Results are those of the plain forms in `static`, `dynamic` and `layers`, up to the order of sums.

A dropout multiplies by 0 or by one constant. Each is drawn once, in the order of the plain form.
"""

from expansionnet.model.fused.dynamic import dynamic_expansion
from expansionnet.model.fused.pieces import add_dropped, faster, feed_forward, gate, linear, usable
from expansionnet.model.fused.static import static_expansion

__all__ = [
    "add_dropped",
    "dynamic_expansion",
    "faster",
    "feed_forward",
    "gate",
    "linear",
    "static_expansion",
    "usable",
]
