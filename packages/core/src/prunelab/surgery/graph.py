"""A network as a graph of what makes channels, what passes them on, and what reads them.

The network is traced once (torch.fx, evaluation mode) and every call is brought into one of a few kinds,
whether it was written as a module, a function or a method:

| kind | meaning |
|---|---|
| input | an argument of the network |
| conv, deconv, linear | make channels of their own (`Conv2d`, `ConvTranspose2d`, `Linear`) |
| norm, scale | batch norm; multiplication of each channel by a mask |
| pointwise | any function of one value |
| max_pool, indices, unpool | pooling, its second result, and the way back |
| avg_pool, adaptive_avg, adaptive_max, mean, resize | other pooling and interpolation |
| flatten | (B, C, H, W) to (B, C H W) |
| add, mul, cat | two or more tensors meet |
| opaque | anything else; who cannot go on says so with `unknown` |

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError
from prunelab.surgery.pointwise import pointwise_call, pointwise_module
from prunelab.surgery.sizes import Sizes

MaskOf = Callable[[nn.Module], "Tensor | None"]
"""Gives the mask (C,) of a module that multiplies its input's channels by one, and None for all others."""

CHANNEL_AXIS = 1


def channel_mask(module: nn.Module) -> Tensor | None:
    """The mask of a module without children that has a buffer ``mask`` with one number a channel."""
    mask = module._buffers.get("mask")
    return mask if mask is not None and mask.dim() == 1 and not module._modules else None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One tensor of the network."""

    name: str
    """Unique, made by the tracer."""
    kind: str
    """See the table above."""
    inputs: tuple[str, ...] = ()
    """The tensors it is made of."""
    module: str | None = None
    """Path of the module that makes it, where one does."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Plain arguments; sizes may be expressions (`prunelab.surgery.sizes`)."""
    shape: tuple[int, ...] = ()
    """Its shape with the example; empty where it is no tensor."""

    @property
    def channels(self) -> int:
        """C; 0 for what has no channel axis."""
        return self.shape[CHANNEL_AXIS] if len(self.shape) > CHANNEL_AXIS else 0

    def __str__(self) -> str:
        """For people: the module's path, or the kind and the tracer's name."""
        return self.module or f"{self.options.get('what', self.kind)} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What `trace` found."""

    model: nn.Module
    """The traced network."""
    nodes: Mapping[str, Node]
    """All tensors in the order in which they are made."""
    inputs: tuple[str, ...]
    """Arguments."""
    outputs: tuple[str, ...]
    """Results."""
    single: bool
    """The result is a tensor, not a tuple of them."""
    mask_of: MaskOf
    """How masks are recognised."""

    def module(self, node: Node) -> Any:
        """The module behind a node."""
        assert node.module is not None, node
        return self.model.get_submodule(node.module)

    def users(self) -> dict[str, list[Node]]:
        """For each tensor the nodes that read it."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.inputs:
                found[name].append(node)
        return found


def unknown(graph: Graph, node: Node, why: str = "") -> UserError:
    """The error for a node that cannot be handled."""
    what = type(graph.model).__name__
    return UserError(f"{what}: {node} cannot be handled{': ' + why if why else ''}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; every module's mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.train(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace(model: nn.Module, example: Tensor | Sequence[Tensor], *, mask_of: MaskOf = channel_mask) -> Graph:
    """Trace a network.

    Args:
        model: The network; its other arguments keep their defaults.
        example: Its input, or its inputs in order; any sizes that it takes.
        mask_of: How masks are recognised.

    Raises:
        UserError: The network cannot be traced (its code asks for values, for example).
    """
    examples = (example,) if isinstance(example, Tensor) else tuple(example)
    names = list(inspect.signature(model.forward).parameters.values())
    rest = {
        p.name: p.default
        for p in names[len(examples) :]
        if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    }
    with evaluating(model), torch.no_grad():
        tracer = _Tracer(mask_of)
        try:
            traced = fx.GraphModule(model, tracer.trace(model, concrete_args=rest or None))
        except Exception as error:  # the network's own code runs here
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{type(model).__name__} cannot be traced: {line}") from error
        shapes = _Shapes(traced)
        shapes.run(*examples, *rest.values())
    return _Reader(model, traced, shapes.found, mask_of).read()


class _Tracer(fx.Tracer):
    """Stops at layers: those of torch, those made from them, and masks."""

    def __init__(self, mask_of: MaskOf) -> None:
        super().__init__()
        self._mask_of = mask_of

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, _BatchNorm)
        if isinstance(m, layers) or self._mask_of(m) is not None:
            return True
        return super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Runs a traced network and keeps the shapes of its tensors."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.found: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n.name] = tuple(result.shape)
        return result


_FUNCTIONS: dict[Any, str] = {
    F.max_pool2d: "max_pool",
    F.max_pool2d_with_indices: "max_pool",
    F.avg_pool2d: "avg_pool",
    F.adaptive_avg_pool2d: "adaptive_avg",
    F.adaptive_max_pool2d: "adaptive_max",
    F.interpolate: "resize",
    F.max_unpool2d: "unpool",
    F.dropout: "same",
    F.dropout2d: "same",
    torch.flatten: "flatten",
    torch.mean: "mean",
    torch.cat: "cat",
    torch.concat: "cat",
    torch.add: "add",
    torch.mul: "mul",
    operator.add: "add",
    operator.iadd: "add",
    operator.mul: "mul",
    operator.imul: "mul",
}

_METHODS = {
    "add": "add",
    "add_": "add",
    "mul": "mul",
    "mul_": "mul",
    "flatten": "flatten",
    "mean": "mean",
    "view": "reshape",
    "reshape": "reshape",
    "contiguous": "same",
    "clone": "same",
    "detach": "same",
}

_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.ConvTranspose2d, "deconv"),
    (nn.Conv2d, "conv"),
    (nn.Linear, "linear"),
    (_BatchNorm, "norm"),
    (nn.MaxPool2d, "max_pool"),
    (nn.AvgPool2d, "avg_pool"),
    (nn.AdaptiveAvgPool2d, "adaptive_avg"),
    (nn.AdaptiveMaxPool2d, "adaptive_max"),
    (nn.MaxUnpool2d, "unpool"),
    (nn.Upsample, "resize"),
    (nn.Flatten, "flatten"),
    (nn.Identity, "same"),
    (nn.modules.dropout._DropoutNd, "same"),
)

_ATTRIBUTES = {
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg": ("output_size",),
    "adaptive_max": ("output_size", "return_indices"),
    "unpool": ("kernel_size", "stride", "padding"),
    "resize": ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    "flatten": ("start_dim", "end_dim"),
}

_NAMES = {
    "flatten": ("start_dim", "end_dim"),
    "mean": ("dim", "keepdim"),
    "unpool": ("indices", "kernel_size", "stride", "padding", "output_size"),
    "dropout": ("p",),
}
"""Names of the arguments after the first one, for what is written as a method or has no signature."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "max_pool": {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False},
    "avg_pool": {
        "stride": None,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    },
    "unpool": {"stride": None, "padding": 0, "output_size": None},
    "flatten": {"start_dim": 0, "end_dim": -1},
    "mean": {"keepdim": False},
    "resize": {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None},
}


class _Reader:
    """Turns the tracer's calls into nodes."""

    def __init__(
        self,
        model: nn.Module,
        traced: fx.GraphModule,
        shapes: Mapping[str, tuple[int, ...]],
        mask_of: MaskOf,
    ) -> None:
        self.model, self.traced, self.shapes, self.mask_of = model, traced, shapes, mask_of
        self.nodes: dict[str, Node] = {}
        self.sizes = Sizes()
        self.names: dict[fx.Node, str] = {}  # which tensor of ours a result of the tracer is

    def read(self) -> Graph:
        """The graph."""
        inputs: list[str] = []
        outputs: tuple[str, ...] = ()
        single = True
        for call in self.traced.graph.nodes:
            if call.op == "placeholder":
                if call.name in self.shapes:
                    self._add(call, "input", ())
                    inputs.append(call.name)
            elif call.op == "output":
                single = isinstance(call.args[0], fx.Node)
                outputs = tuple(self.names[result] for result in _given(call))
            else:
                self._read_call(call)
        return Graph(
            model=self.model,
            nodes=self.nodes,
            inputs=tuple(inputs),
            outputs=outputs,
            single=single,
            mask_of=self.mask_of,
        )

    def _read_call(self, call: fx.Node) -> None:
        if self.sizes.read(call, self._shape_of) or self._part(call):
            return
        kind, options = self._kind(call)
        tensors = self._tensors(call)
        if kind == "same":
            self.names[call] = tensors[0]
            return
        if kind == "opaque":
            options = {"what": _title(call)}
        self._add(call, kind, tensors, options)
        self._follow_in_place(call, options)

    def _shape_of(self, node: fx.Node) -> tuple[str, tuple[int, ...]] | None:
        """Our name and the shape of a result of the tracer, where it is a tensor."""
        return (self.names[node], self.shapes[node.name]) if node.name in self.shapes else None

    def _part(self, call: fx.Node) -> bool:
        """Read ``pool(x)[0]`` and ``pool(x)[1]``."""
        if call.target is not operator.getitem or not isinstance(call.args[0], fx.Node):
            return False
        source = self.nodes.get(self.names.get(call.args[0], ""))
        if source is None or not source.options.get("return_indices"):
            return False
        if call.args[1] == 0:
            self.names[call] = source.name
            shape = self.shapes[call.name]
            self.nodes[source.name] = Node(**{**vars(source), "shape": shape})
        else:
            self._add(call, "indices", (source.name,))
        return True

    def _add(
        self, call: fx.Node, kind: str, tensors: tuple[str, ...], options: Mapping[str, Any] | None = None
    ) -> None:
        self.nodes[call.name] = Node(
            name=call.name,
            kind=kind,
            inputs=tensors,
            module=str(call.target) if call.op in ("call_module", "get_attr") else None,
            options={key: value for key, value in (options or {}).items() if key != "inplace"},
            shape=self.shapes.get(call.name, ()),
        )
        self.names[call] = call.name

    def _follow_in_place(self, call: fx.Node, options: Mapping[str, Any]) -> None:
        """After an operation in place, its result is what its first argument's name stands for."""
        target = call.target
        in_place = options.get("inplace") or target in (operator.iadd, operator.imul)
        in_place = in_place or (call.op == "call_method" and str(target).endswith("_"))
        if in_place and call.args and isinstance(call.args[0], fx.Node):
            before = self.names[call.args[0]]
            for other, name in self.names.items():
                if name == before:
                    self.names[other] = call.name

    def _tensors(self, call: fx.Node) -> tuple[str, ...]:
        """The tensors among a call's arguments, in order; one may be there twice."""
        return tuple(self.names[node] for node in _given(call) if node in self.names)

    def _kind(self, call: fx.Node) -> tuple[str, dict[str, Any]]:
        if call.op == "call_module":
            return self._module_kind(call)
        if call.op == "get_attr":
            return "opaque", {}
        found = pointwise_call(call)
        if found is not None:
            return "pointwise", found
        target: Any = call.target
        kind = (_FUNCTIONS if call.op == "call_function" else _METHODS).get(target, "opaque")
        options = self._options(call, kind)
        return (kind, options) if self._fits(call, kind, options) else ("opaque", {})

    def _module_kind(self, call: fx.Node) -> tuple[str, dict[str, Any]]:
        module = self.model.get_submodule(str(call.target))
        if self.mask_of(module) is not None:
            return "scale", {}
        found = pointwise_module(module)
        if found is not None:
            return "pointwise", found
        kind = next((kind for base, kind in _MODULES if isinstance(module, base)), "opaque")
        options = {name: getattr(module, name) for name in _ATTRIBUTES.get(kind, ())}
        if kind == "unpool":
            options["output_size"] = self.sizes.plain(call.kwargs.get("output_size"))
        return (kind, options) if self._fits(call, kind, options) else ("opaque", {})

    def _options(self, call: fx.Node, kind: str) -> dict[str, Any]:
        """Plain arguments by name."""
        if kind in ("add", "mul", "cat", "same", "opaque", "reshape"):
            return {"dim": call.kwargs.get("dim", (*call.args, 0)[1])} if kind == "cat" else {}
        names = _NAMES.get(kind)
        if names is None:
            parameters = inspect.signature(_signature_of(call.target)).parameters
            names = tuple(parameters)[1:]
        given = {**dict(zip(names, call.args[1:], strict=False)), **call.kwargs}
        given.pop("input", None)
        plain = {key: self.sizes.plain(value) for key, value in given.items() if key != "indices"}
        return {**_DEFAULTS.get(kind, {}), **plain}

    def _fits(self, call: fx.Node, kind: str, options: dict[str, Any]) -> bool:
        """Whether the call does what its kind says: on the right axes, with the right shapes."""
        tensors = [node for node in _given(call) if node in self.names]
        shapes = [self.shapes.get(node.name, ()) for node in tensors]
        out = self.shapes.get(call.name, ())
        match kind:
            case "flatten" | "reshape":
                return _flattens(shapes[0], out)
            case "mean":
                axes = options.get("dim")
                given = [axes] if isinstance(axes, int) else list(axes or [])
                return sorted(axis % 4 for axis in given) == [2, 3] and len(shapes[0]) == 4
            case "cat":
                return isinstance(options["dim"], int) and options["dim"] % len(out) == CHANNEL_AXIS
            case "add" | "mul":
                return "alpha" not in call.kwargs and _meets(shapes, out) and len(call.args) == 2
            case "linear":
                return len(out) == 2
            case "adaptive_max":
                return not options.get("return_indices")
            case "unpool":
                return len(tensors) >= 2
        return True


def _given(call: fx.Node) -> list[fx.Node]:
    """The tracer's results among a call's arguments."""
    return [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, fx.Node)]


def _signature_of(target: Any) -> Any:
    """The function that shows the arguments of one that hides them behind a dispatcher."""
    hidden = {
        F.max_pool2d: F.max_pool2d_with_indices,
        F.adaptive_max_pool2d: F.adaptive_max_pool2d_with_indices,
    }
    return hidden.get(target, target)


def _flattens(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether (B, C, ...) becomes (B, C ...)."""
    rest = 1
    for size in before[1:]:
        rest *= size
    return len(before) >= 2 and after == (before[0], rest)


def _meets(shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> bool:
    """Whether two tensors with equal numbers of axes meet channel by channel, or one is spread over them."""
    fits = all(len(shape) == len(out) and shape[1:2] in (out[1:2], (1,)) for shape in shapes)
    return len(shapes) == 2 and fits and any(shape[1:2] == out[1:2] for shape in shapes)


def _title(call: fx.Node) -> str:
    """What a call is called, for people."""
    target = call.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
