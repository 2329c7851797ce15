"""Count parameters and multiply-accumulates (MACs): dense, and what is left of them where weights are zero.

Matrix products, convolutions, recurrent layers and attention count; element-wise work, norms, softmax,
look-ups and pooling do not (FLOPs = 2 MACs). The counter watches the operators that run, not the layers, so
it needs to know nothing about a model. A slim model, whose pruned channels are gone, is counted like any
other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from prunelab.mask.layers import Masked
from prunelab.mask.supermask import MASK_SUFFIX

WeightNnz = Callable[[nn.Module, str, Tensor], int]


@dataclass(frozen=True, kw_only=True)
class ModuleCount:
    """The share of one submodule, everything inside of it included."""

    kind: str
    """Name of its class."""
    calls: int
    """How often it was called."""
    parameters: int
    """Numbers in its parameters; masks do not count, tied parameters count once."""
    nonzero_parameters: int
    """Those that are not zero or masked."""
    macs: int
    """Multiply-accumulates, zeros included."""
    nonzero_macs: int
    """Multiply-accumulates with weights that are not zero."""


@dataclass(frozen=True, kw_only=True)
class Count(ModuleCount):
    """The whole model, and each submodule by its name."""

    modules: dict[str, ModuleCount]
    """Shares of the submodules that were called or have parameters, in the model's order."""


def count(
    model: nn.Module,
    *inputs: Any,
    run: Callable[[], Any] | None = None,
    weight_nnz: WeightNnz | None = None,
    **options: Any,
) -> Count:
    """Run a model once and count.

    The model runs in evaluation mode without gradients; modes are restored. A weight's zeros save MACs: a
    weight is an operand that was made of parameters alone (a parameter, its transpose, weight times mask),
    so zeros in activations save nothing. Without values (meta device) nothing counts as zero.

    Args:
        model: The model.
        *inputs: Its inputs; MACs are those of this batch.
        run: What to run instead of ``model(*inputs)``, e.g. a decoding loop.
        weight_nnz: Gives the numbers of a parameter that are left, called with (submodule, name, parameter);
            the default counts what is not zero, and for masked layers what the mask leaves.
        **options: Keyword inputs of the model.
    """
    counter = _Counter(model)
    training = {module: module.training for module in model.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides products inside one operator
    model.eval()
    try:
        with torch.no_grad(), counter.watching(), counter:
            if run is None:
                model(*inputs, **options)
            else:
                run()
        return _assemble(model, counter, weight_nnz or _nonzero)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in training.items():
            module.training = mode


def _nonzero(module: nn.Module, name: str, parameter: Tensor) -> int:
    """Numbers of a parameter that are left."""
    if parameter.device.type == "meta":
        return parameter.numel()
    if isinstance(module, Masked) and name in module.masked_names:
        with torch.no_grad():
            parameter = module.effective(name)
    return int(torch.count_nonzero(parameter))


def _assemble(model: nn.Module, counter: _Counter, weight_nnz: WeightNnz) -> Count:
    left: dict[int, int] = {}  # by identity: tied parameters are counted once
    size: dict[int, int] = {}
    own: dict[str, set[int]] = {}
    for path, module in model.named_modules():
        own[path] = set()
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith(MASK_SUFFIX):
                continue
            own[path].add(id(parameter))
            if id(parameter) not in left:
                left[id(parameter)] = weight_nnz(module, name, parameter)
                size[id(parameter)] = parameter.numel()

    def share(path: str, module: nn.Module) -> ModuleCount:
        inside = "" if path == "" else path + "."
        held = set().union(*(ids for name, ids in own.items() if name == path or name.startswith(inside)))
        macs, nonzero = counter.macs.get(path, (0, 0))
        return ModuleCount(
            kind=type(module).__name__,
            calls=counter.calls.get(path, 0),
            parameters=sum(size[i] for i in held),
            nonzero_parameters=sum(left[i] for i in held),
            macs=macs,
            nonzero_macs=nonzero,
        )

    shares = {path: share(path, module) for path, module in model.named_modules()}
    whole = shares.pop("")
    # what ran outside of every submodule's call belongs to the whole as well
    macs, nonzero = counter.total
    return Count(
        kind=whole.kind,
        calls=whole.calls,
        parameters=whole.parameters,
        nonzero_parameters=whole.nonzero_parameters,
        macs=macs,
        nonzero_macs=nonzero,
        modules={path: each for path, each in shares.items() if each.calls or each.parameters},
    )


class _Counter(TorchDispatchMode):
    """Adds up the MACs of every operator that runs, for the submodules that are being called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._stack: list[str] = []
        self._weights: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for parameter in model.parameters():
            self._weights[parameter] = True
        for buffer in model.buffers():  # a fixed mask may be a buffer
            self._weights[buffer] = True
        self.calls: dict[str, int] = {}
        self.macs: dict[str, tuple[int, int]] = {}
        self.total = (0, 0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # asked by torch; True would import the whole compiler, which takes seconds

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep track of the submodules that are being called."""
        handles = []
        for path, module in self._model.named_modules():

            def enter(_module: nn.Module, _inputs: Any, path: str = path) -> None:
                self._stack.append(path)
                self.calls[path] = self.calls.get(path, 0) + 1

            def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
                self._stack.pop()

            handles.append(module.register_forward_pre_hook(enter, prepend=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        name = packet.__name__
        formula = _formula(name)
        if formula is None:
            with self:  # an operator that is made of others is taken apart
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self._add(formula, args, out)
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # scalars may come from anywhere; made of parameters alone is what counts
        real = [operand for operand in operands if operand.dim() > 0]
        if real and all(operand in self._weights for operand in real):
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._weights[leaf] = True
        return out

    def _add(self, formula: Formula, args: Any, out: Any) -> None:
        macs, operands = formula(args, out)
        nonzero = macs
        weights = [operand for operand in operands if operand in self._weights]
        if weights and macs and weights[-1].device.type != "meta":
            # of two operands that are weights the last one is: a weight stands behind what it multiplies
            weight = weights[-1]
            nonzero = round(macs * (int(torch.count_nonzero(weight)) / weight.numel()))
        for path in dict.fromkeys(self._stack):
            old = self.macs.get(path, (0, 0))
            self.macs[path] = (old[0] + macs, old[1] + nonzero)
        self.total = (self.total[0] + macs, self.total[1] + nonzero)


Formula = Callable[[Any, Any], tuple[int, list[Tensor]]]
"""From arguments and output of an operator to its MACs and the operands that may be weights."""


def _product(first: int) -> Formula:
    """A (..., M, K) times B (..., K, N), the operands ``first`` and the one after it: M K N a matrix."""

    def macs(args: Any, out: Any) -> tuple[int, list[Tensor]]:
        a, b = args[first], args[first + 1]
        return out.numel() * a.shape[-1], [a, b]

    return macs


def _convolution(args: Any, out: Any) -> tuple[int, list[Tensor]]:
    """Input (B, C, ...) with weight (C', C / groups, ...), transposed: (C, C' / groups, ...)."""
    source, weight, transposed = args[0], args[1], len(args) > 6 and bool(args[6])
    positions = source.numel() if transposed else out.numel()
    return positions * (weight.numel() // weight.shape[0]), [weight]


def _bilinear(args: Any, out: Any) -> tuple[int, list[Tensor]]:
    """Inputs (B, I) and (B, J) around a weight (O, I, J)."""
    weight = args[1]
    return out.numel() * (weight.numel() // weight.shape[0]), [weight]


def _attention(args: Any, out: Any) -> tuple[int, list[Tensor]]:
    """Queries (..., L, E), keys (..., S, E), values (..., S, V): L S (E + V) a head."""
    query, key, value = args[:3]
    heads = math.prod(query.shape[:-2])
    return heads * query.shape[-2] * key.shape[-2] * (query.shape[-1] + value.shape[-1]), []


def _recurrent_layer(args: Any, out: Any) -> tuple[int, list[Tensor]]:
    """One direction of one layer: both weights once a step and row."""
    source, inner, hidden = args[:3]
    return source.numel() // source.shape[-1] * (inner.numel() + hidden.numel()), []


def _recurrent_stack(args: Any, out: Any) -> tuple[int, list[Tensor]]:
    """All layers at once: every matrix once a step and row."""
    source, weights = args[:2]
    matrices = sum(weight.numel() for weight in weights if weight.dim() == 2)
    return source.numel() // source.shape[-1] * matrices, []


_FORMULAS: dict[str, Formula] = {
    "mm": _product(0),
    "bmm": _product(0),
    "mv": _product(0),
    "dot": _product(0),
    "vdot": _product(0),
    "addmm": _product(1),
    "addmv": _product(1),
    "baddbmm": _product(1),
    "addbmm": lambda args, out: (args[1].numel() * args[2].shape[-1], [args[1], args[2]]),
    "_addmm_activation": _product(1),
    "convolution": _convolution,
    "_convolution": _convolution,
    "_trilinear": _bilinear,
    "mkldnn_rnn_layer": _recurrent_layer,
    "_cudnn_rnn": _recurrent_stack,
    "miopen_rnn": _recurrent_stack,
}


def _formula(name: str) -> Formula | None:
    if name.startswith("_scaled_dot_product") and "backward" not in name:
        return None if name.endswith("_math") else _attention
    return _FORMULAS.get(name)
