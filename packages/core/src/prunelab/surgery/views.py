"""Checks of calls that rearrange tensors: do they keep channels what they are?

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from prunelab.surgery.sizes import Sizes

Shape = tuple[int, ...]


def makes_new(call: fx.Node) -> bool:
    """Whether ``x.new_zeros(...)`` or its like has its channels from a number: it reads nothing then."""
    if call.op != "call_method" or call.target not in ("new_zeros", "new_ones", "new_full", "new_empty"):
        return False
    sizes = call.args[1:]
    first = sizes[0] if sizes else None
    sizes = first if isinstance(first, list | tuple) else sizes
    return len(sizes) > 1 and isinstance(sizes[1], int)


def flattens(before: Shape, after: Shape) -> bool:
    """Whether (B, C, ...) becomes (B, C ...)."""
    rest = 1
    for size in before[1:]:
        rest *= size
    return len(before) >= 2 and after == (before[0], rest)


def meets(shapes: Sequence[Shape], out: Shape) -> bool:
    """Whether two tensors with equal numbers of axes meet channel by channel, or one is spread over them."""
    fits = all(len(shape) == len(out) and shape[1:2] in (out[1:2], (1,)) for shape in shapes)
    return len(shapes) == 2 and fits and any(shape[1:2] == out[1:2] for shape in shapes)


def expands(shapes: Sequence[Shape]) -> bool:
    """Whether (B, C, 1, 1) becomes as large as (B, C, H, W)."""
    return len(shapes) == 2 and len(shapes[0]) == len(shapes[1]) and shapes[0][:2] == shapes[1][:2]


def plain_index(index: Any, axes: int, sizes: Sizes) -> list[Any] | None:
    """What ``x[index]`` takes of each axis, if it takes all channels as they are; else None.

    A slice is ``[start, stop, step]``, a single place a number.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * (axes - len(parts) + 1)
    parts += [slice(None)] * (axes - len(parts))
    taken = [
        [sizes.plain(end) for end in (part.start, part.stop, part.step)] if isinstance(part, slice) else part
        for part in parts
    ]
    fits = axes >= 2 and len(taken) == axes and all(isinstance(part, list | int) for part in taken)
    fits = fits and isinstance(taken[0], list) and taken[1] in ([None] * 3, [0, None, None])
    fits = fits and not any(isinstance(end, fx.Node) for part in taken for end in _ends(part))
    return taken if fits else None


def _ends(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]


def selected(given: Mapping[str, Any], values: Mapping[fx.Node, Any]) -> list[int] | None:
    """The channels that ``x.index_select(1, index)`` takes, where the index is a constant; else None."""
    index = given.get("index")
    if given.get("dim") != 1 or not isinstance(index, fx.Node) or index.op != "get_attr":
        return None
    found = values[index]
    return found.tolist() if isinstance(found, Tensor) else None


def pad_of(options: Mapping[str, Any], axes: int) -> dict[str, Any] | None:
    """Padding by one value as ``{"pad": [left, right, top, bottom], "channels": [before, behind], "value"}``.

    None for another kind of padding, for channels that are cut off, and where a number is not known.
    """
    pad = list(options["pad"])
    if options.get("mode", "constant") != "constant" or axes != 4 or len(pad) > 6:
        return None
    if any(isinstance(each, fx.Node) for each in pad):
        return None
    pad += [0] * (6 - len(pad))
    channels = pad[4:]
    if not all(isinstance(each, int) and each >= 0 for each in channels):
        return None
    return {"pad": pad[:4], "channels": channels, "value": options.get("value") or 0.0}
