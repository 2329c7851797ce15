"""From the tracer's record of calls to the nodes of a graph: every spelling of an operation becomes its kind.

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from prunelab.surgery.graph import CHANNEL_AXIS, Graph, MaskOf, Node
from prunelab.surgery.pointwise import pointwise_call, pointwise_module
from prunelab.surgery.sizes import Sizes, tensors_in
from prunelab.surgery.views import expands, flattens, makes_new, meets, pad_of, plain_index, selected

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
    F.pad: "pad",
    torch.flatten: "flatten",
    torch.mean: "mean",
    torch.cat: "cat",
    torch.concat: "cat",
    torch.add: "add",
    torch.mul: "mul",
    torch.index_select: "select",
    operator.getitem: "slice",
    operator.add: "add",
    operator.iadd: "add",
    operator.mul: "mul",
    operator.imul: "mul",
}

_LAYER_FUNCTIONS: dict[Any, tuple[str, type[nn.Module]]] = {
    F.conv2d: ("conv", nn.Conv2d),
    F.conv_transpose2d: ("deconv", nn.ConvTranspose2d),
    F.linear: ("linear", nn.Linear),
    F.batch_norm: ("norm", _BatchNorm),
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
    "index_select": "select",
    "expand_as": "expand",
    "contiguous": "same",
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
    (nn.ConstantPad2d, "pad"),
    (nn.Identity, "same"),
    (nn.modules.dropout._DropoutNd, "same"),
)

_ATTRIBUTES = {
    "conv": ("stride", "padding", "dilation", "padding_mode"),
    "deconv": ("stride", "padding", "output_padding", "dilation", "padding_mode"),
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg": ("output_size",),
    "adaptive_max": ("output_size", "return_indices"),
    "unpool": ("kernel_size", "stride", "padding"),
    "resize": ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    "flatten": ("start_dim", "end_dim"),
    "pad": ("padding", "value"),
}

_NAMES = {
    "conv": ("weight", "bias", "stride", "padding", "dilation", "groups"),
    "deconv": ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "linear": ("weight", "bias"),
    "norm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "avg_pool": _ATTRIBUTES["avg_pool"],
    "flatten": ("start_dim", "end_dim"),
    "mean": ("dim", "keepdim"),
    "unpool": ("indices", "kernel_size", "stride", "padding", "output_size"),
    "dropout": ("p",),
    "pad": ("pad", "mode", "value"),
    "select": ("dim", "index"),
}
"""Names of the arguments after the first one, for what is written as a method or has no signature."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "conv": {"stride": 1, "padding": 0, "dilation": 1, "padding_mode": "zeros"},
    "deconv": {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "padding_mode": "zeros"},
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

_WITHOUT_OPTIONS = ("add", "mul", "same", "opaque", "reshape", "expand")
_PLAIN = (int, float, str, torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the tracer found."""

    graph: fx.Graph
    """The calls, in order."""
    values: Mapping[fx.Node, Any]
    """What each of them gave with the example."""
    unchanged: frozenset[fx.Node]
    """Calls that gave back their first argument and did nothing to it."""
    decisions: Sequence[fx.Node]
    """Numbers that the code asked for, to decide by them."""


def read(model: nn.Module, recorded: Recorded, mask_of: MaskOf) -> Graph:
    """The graph of a recorded network."""
    return _Reader(model, recorded, mask_of).read()


class _Reader:
    """Turns the tracer's calls into nodes."""

    def __init__(self, model: nn.Module, recorded: Recorded, mask_of: MaskOf) -> None:
        self.model, self.recorded, self.mask_of = model, recorded, mask_of
        self.shapes = {
            call: tuple(value.shape) for call, value in recorded.values.items() if isinstance(value, Tensor)
        }
        self.nodes: dict[str, Node] = {}
        self.sizes = Sizes()
        self.names: dict[fx.Node, str] = {}  # which tensor of ours a result of the tracer is
        self.fixed_size = False

    def read(self) -> Graph:
        """The graph."""
        inputs: list[str] = []
        outputs: tuple[str, ...] = ()
        single = True
        for call in self.recorded.graph.nodes:
            if call.op == "placeholder":
                if call in self.shapes:
                    self._add(call, "input", ())
                    inputs.append(call.name)
            elif call.op == "output":
                single = isinstance(call.args[0], fx.Node)
                outputs = self._tensors(call)
            elif call.op != "get_attr":  # parameters get a node where they are used
                self._read_call(call)
        return Graph(
            model=self.model,
            nodes=self.nodes,
            inputs=tuple(inputs),
            outputs=outputs,
            single=single,
            mask_of=self.mask_of,
            fixed_size=self.fixed_size,
        )

    def _read_call(self, call: fx.Node) -> None:
        if self.sizes.read(call, self._shape_of) or self._part(call) or self._number(call):
            return
        kind, options = self._kind(call)
        if kind == "same" or (kind == "opaque" and call in self.recorded.unchanged):
            self.names[call] = self._name(_given(call)[0])
            return
        tensors = (self._name(_given(call)[0]),) if kind in _ONE_INPUT else self._tensors(call)
        if kind == "opaque":
            options = {"what": _title(call)}
            tensors = () if makes_new(call) else tensors
        self._add(call, kind, tensors, options)
        self._follow_in_place(call, options)

    # ----------------------------------------------------------------------------------------- numbers

    def _shape_of(self, call: fx.Node) -> tuple[str, tuple[int, ...]] | None:
        """Our name and the shape of a result of the tracer, where it is a tensor of the network's."""
        known = call in self.shapes and call.op != "get_attr"
        return (self.names[call], self.shapes[call]) if known else None

    def _number(self, call: fx.Node) -> bool:
        """Take what is no tensor for what it was with the example."""
        value = self.recorded.values[call]
        parts = value if isinstance(value, tuple) else (value,)
        asserted = value is None and call.target is torch._assert
        if not asserted and not all(isinstance(part, _PLAIN) for part in parts):
            return False
        self.fixed_size |= self._by_size(call) and self._matters(call)
        self.sizes.values[call] = list(value) if isinstance(value, tuple) else value
        return True

    def _by_size(self, call: fx.Node) -> bool:
        """Whether a number was computed from sizes that may vary."""
        known = [self.sizes.values.get(source) for source in call.all_input_nodes]
        return bool(tensors_in(known)) or any(
            self._by_size(source) for source in call.all_input_nodes if source not in self.shapes
        )

    def _matters(self, call: fx.Node) -> bool:
        """Whether tensors are made with a number, or the code decided by it."""
        return call in self.recorded.decisions or any(
            user in self.shapes or self._matters(user) for user in call.users if user.op != "output"
        )

    def _part(self, call: fx.Node) -> bool:
        """Read ``pool(x)[0]`` and ``pool(x)[1]``."""
        if call.target is not operator.getitem or not isinstance(call.args[0], fx.Node):
            return False
        source = self.nodes.get(self.names.get(call.args[0], ""))
        if source is None or not source.options.get("return_indices"):
            return False
        if call.args[1] == 0:
            self.names[call] = source.name
            self.nodes[source.name] = Node(**{**vars(source), "shape": self.shapes[call]})
        else:
            self._add(call, "indices", (source.name,))
        return True

    # ------------------------------------------------------------------------------------------- nodes

    def _add(
        self, call: fx.Node, kind: str, tensors: tuple[str, ...], options: Mapping[str, Any] | None = None
    ) -> None:
        given = dict(options or {})
        module = given.pop("module", None)
        if call.op in ("call_module", "get_attr"):
            module = str(call.target)
        self.nodes[call.name] = Node(
            name=call.name,
            kind=kind,
            inputs=tensors,
            module=module,
            options={key: value for key, value in given.items() if key != "inplace"},
            shape=self.shapes.get(call, ()),
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

    def _name(self, call: fx.Node) -> str:
        """Our name of a tensor."""
        if call not in self.names and call.op == "get_attr":
            self._add(call, "opaque", (), {"what": str(call.target)})
        return self.names[call]

    def _tensors(self, call: fx.Node) -> tuple[str, ...]:
        """The tensors among a call's arguments, in order; one may be there twice."""
        return tuple(self._name(node) for node in self._among(call))

    def _among(self, call: fx.Node) -> list[fx.Node]:
        return [node for node in _given(call) if node in self.names or node.op == "get_attr"]

    # ------------------------------------------------------------------------------------------- kinds

    def _kind(self, call: fx.Node) -> tuple[str, dict[str, Any]]:
        if call.op == "call_module":
            return self._module_kind(call)
        found = pointwise_call(call)
        if found is not None:
            return "pointwise", found
        target: Any = call.target
        if target in _LAYER_FUNCTIONS:
            return self._layer(call)
        kind = (_FUNCTIONS if call.op == "call_function" else _METHODS).get(target, "opaque")
        options = self._options(call, kind)
        return self._checked(call, kind, options)

    def _module_kind(self, call: fx.Node) -> tuple[str, dict[str, Any]]:
        module = self.model.get_submodule(str(call.target))
        if self.mask_of(module) is not None:
            return "scale", {}
        found = pointwise_module(module)
        if found is not None:
            return "pointwise", found
        kind = next((kind for base, kind in _MODULES if isinstance(module, base)), "opaque")
        options = {name: getattr(module, name) for name in _ATTRIBUTES.get(kind, ())}
        if kind == "pad":
            options = {"pad": list(options["padding"]), "value": options["value"]}
        if kind == "unpool":
            options["output_size"] = self.sizes.plain(call.kwargs.get("output_size"))
        return self._checked(call, kind, options)

    def _layer(self, call: fx.Node) -> tuple[str, dict[str, Any]]:
        """``F.conv2d(x, weight, bias, ...)`` with the weight and the bias of one layer."""
        target: Any = call.target
        kind, base = _LAYER_FUNCTIONS[target]
        given = self._named(call, _NAMES[kind])
        owner = None
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = given.pop(name, None)
            if value is None:
                continue
            path, _, last = str(value.target).rpartition(".") if isinstance(value, fx.Node) else ("", "", "")
            if not isinstance(value, fx.Node) or value.op != "get_attr" or last != name:
                return "opaque", {}
            if owner not in (None, path):
                return "opaque", {}
            owner = path
        module = None if owner is None else self.model.get_submodule(owner)
        fits = isinstance(module, base) and given.pop("groups", 1) == getattr(module, "groups", 1)
        if not fits or given.pop("training", False):
            return "opaque", {}
        options = {name: value for name, value in given.items() if name not in ("momentum", "eps")}
        return self._checked(call, kind, {**_DEFAULTS.get(kind, {}), **options, "module": owner})

    def _named(self, call: fx.Node, names: Sequence[str]) -> dict[str, Any]:
        """Arguments after the first one, by name."""
        given = {**dict(zip(names, call.args[1:], strict=False)), **call.kwargs}
        return {key: self.sizes.plain(value) for key, value in given.items() if key not in ("input", "x")}

    def _options(self, call: fx.Node, kind: str) -> dict[str, Any]:
        """Plain arguments by name."""
        if kind in _WITHOUT_OPTIONS:
            return {}
        if kind == "cat":
            return {"dim": call.kwargs.get("dim", (*call.args, 0)[1])}
        if kind == "slice":
            return {"index": plain_index(call.args[1], len(self.shapes.get(_given(call)[0], ())), self.sizes)}
        names = _NAMES.get(kind)
        if names is None:
            names = tuple(inspect.signature(_signature_of(call.target)).parameters)[1:]
        given = self._named(call, names)
        if kind == "select":
            return {"places": selected(given, self.recorded.values)}
        given.pop("indices", None)
        return {**_DEFAULTS.get(kind, {}), **given}

    def _checked(self, call: fx.Node, kind: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The kind and its options, if the call does what its kind says on the right axes; else opaque."""
        if kind == "reshape":
            kind = self._reshaped(call)
        elif kind == "pad":
            pads = pad_of(options, len(self.shapes.get(call, ())))
            kind, options = ("opaque", {}) if pads is None else (kind, pads)
        return (kind, options) if self._fits(call, kind, options) else ("opaque", {})

    def _reshaped(self, call: fx.Node) -> str:
        """What a ``view`` is; one whose code says how many channels there are is not understood."""
        sizes = call.args[1:]
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
        source = self.shapes.get(_given(call)[0], ())
        if len(sizes) < 2 or (isinstance(sizes[1], int) and sizes[1] != -1):
            return "opaque"
        return "flatten" if flattens(source, self.shapes[call]) else "unflatten"

    def _fits(self, call: fx.Node, kind: str, options: dict[str, Any]) -> bool:
        tensors = self._among(call)
        shapes = [self.shapes.get(node, ()) for node in tensors]
        out = self.shapes.get(call, ())
        match kind:
            case "flatten":
                return flattens(shapes[0], out)
            case "unflatten":
                return len(shapes[0]) == 2 and out == (*shapes[0], 1, 1)
            case "mean":
                axes = options.get("dim")
                given = [axes] if isinstance(axes, int) else list(axes or [])
                return sorted(axis % 4 for axis in given) == [2, 3] and len(shapes[0]) == 4
            case "cat":
                return isinstance(options["dim"], int) and options["dim"] % len(out) == CHANNEL_AXIS
            case "add" | "mul":
                return "alpha" not in call.kwargs and meets(shapes, out) and len(call.args) == 2
            case "expand":
                return expands(shapes)
            case "linear":
                return len(out) == 2
            case "adaptive_max":
                return not options.get("return_indices")
            case "unpool":
                return len(tensors) >= 2
            case "slice" | "select":
                return next(iter(options.values())) is not None
        return True


_ONE_INPUT = ("conv", "deconv", "linear", "norm", "select")
"""Kinds whose other tensors belong to them."""


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


def _title(call: fx.Node) -> str:
    """What a call is called, for people."""
    target = call.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
