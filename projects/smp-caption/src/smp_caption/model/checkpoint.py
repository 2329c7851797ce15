"""Weights in the original's layout: dense, with masks, sparse, half precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.mask import MASK_SUFFIX

POSITIONS = "tgt_embed.1.pe"
"""Ends the name of a transformer's table of positions: 5000 rows that the network computes itself."""


def own_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what the network computes itself: ten megabytes of positions, full size."""
    return {name: value for name, value in state.items() if not name.endswith(POSITIONS)}


def dense(tensor: Tensor) -> Tensor:
    """A strided float32 copy of a stored floating-point tensor; others stay as they are.

    Half-precision COO tensors cannot be made dense on a CPU, so values are widened first.
    """
    if tensor.layout is torch.strided:
        return tensor.float() if tensor.is_floating_point() else tensor
    sparse = tensor.coalesce()
    values = sparse.values().float()
    return torch.sparse_coo_tensor(
        sparse.indices(), values, sparse.shape, check_invariants=True, is_coalesced=True
    ).to_dense()


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(str(size) for size in tensor.shape) or "scalar"


def load_original(
    model: nn.Module, state: Mapping[str, Tensor], source: str = "checkpoint", *, masks_optional: bool = False
) -> None:
    """Load a state dict strictly, in place; only a table of positions may be missing.

    A layer that is shared has its tensors under each of its names, as in the original's files.

    Args:
        model: the network, dense or masked.
        state: name to tensor; sparse COO and half-precision tensors are widened.
        source: the file, for messages.
        masks_optional: leave the masks as they are where the state has none (dense weights into a masked
            network).

    Raises:
        UserError: names or shapes differ; the first differences are listed.
    """
    wanted = model.state_dict()
    if masks_optional and not any(name.endswith(MASK_SUFFIX) for name in state):
        wanted = {name: value for name, value in wanted.items() if not name.endswith(MASK_SUFFIX)}
    wanted = {name: value for name, value in wanted.items() if name in state or not name.endswith(POSITIONS)}
    names = [*wanted, *(name for name in state if name not in wanted)]
    different = [
        name
        for name in names
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    ]
    if different:
        raise UserError(_complaint(wanted, state, different, source))
    _check_shared(model, wanted, state, source)
    target = model.state_dict()
    with torch.no_grad():
        for name in wanted:
            target[name].copy_(dense(state[name]))


def _check_shared(
    model: nn.Module, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> None:
    """Refuse layers of their own where the model has one layer: the last of them would stand for all."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        other = first.setdefault(id(tensor), name)
        if other != name and name in wanted and not torch.equal(dense(state[other]), dense(state[name])):
            raise UserError(
                f"{source} does not fit the model: {other} and {name} differ, expected one tensor of a layer "
                "that is shared (share_layer_encoder, share_layer_decoder)"
            )


def _complaint(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], different: list[str], source: str
) -> str:
    pairs = {name: (state.get(name), wanted.get(name)) for name in different}
    sizes = {_rows(theirs, ours) for theirs, ours in pairs.values()}
    if len(different) > 1 and len(sizes) == 1 and None not in sizes:
        # Nothing but the embedding and the output layer has a row a word.
        ((theirs, ours),) = (size for size in sizes if size is not None)
        return f"{source} has a vocabulary of {theirs} tokens, the model one of {ours} (vocab_size)"
    listed = ", ".join(
        f"{name} {_shape(theirs)} (expected {_shape(ours)})"
        for name, (theirs, ours) in list(pairs.items())[:3]
    )
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    masks_differ = all(name.endswith(MASK_SUFFIX) for name in different)
    hint = ""
    if masks_differ and different[0] in state:
        hint = "; it holds masks: load it into the _prune model, or use its pruned export"
    elif masks_differ:
        hint = "; it holds no masks: load it into the dense model"
    return f"{source} does not fit the model: {listed}{more}{hint}"


def _rows(theirs: Tensor | None, ours: Tensor | None) -> tuple[int, int] | None:
    """The numbers of rows of two tensors that are alike in all else."""
    if theirs is None or ours is None or not theirs.ndim or theirs.shape[1:] != ours.shape[1:]:
        return None
    return theirs.shape[0], ours.shape[0]
