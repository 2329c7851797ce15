"""Follow a network's code once, with stand-ins for its tensors that know what they are with the example.

torch.fx records what is done to the stand-ins; beside each record the same is done to real tensors. So the
code may ask for sizes (``if x.shape[2] % 2``, ``max(pad, 0)``, ``range(x.dim())``), and an error says in
which layer and which line it happened. Asking for values (``if x.sum() > 0``) is refused: no graph could say
it.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.errors import UserError
from prunelab.modes import evaluating
from prunelab.surgery.graph import Graph, MaskOf, channel_mask
from prunelab.surgery.reading import Recorded, read

_LAYERS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, _BatchNorm)
_PLAIN = (nn.Conv2d.forward, nn.ConvTranspose2d.forward, nn.Linear.forward, _BatchNorm.forward)


def trace(model: nn.Module, example: Tensor | Sequence[Tensor], *, mask_of: MaskOf = channel_mask) -> Graph:
    """Trace a network.

    Args:
        model: The network; its other arguments keep their defaults.
        example: Its input, or its inputs in order; any sizes that it takes.
        mask_of: How masks are recognised.

    Raises:
        UserError: The network cannot be traced (its code asks for values, for example); the line says in
            which layer and where in the code.
    """
    return read(model, record(model, example, mask_of=mask_of), mask_of)


def record(
    model: nn.Module, example: Tensor | Sequence[Tensor], *, mask_of: MaskOf = channel_mask
) -> Recorded:
    """The calls of a network, for one who makes them one by one; the names are those of `trace`'s nodes.

    Args and errors: see `trace`.
    """
    examples = (example,) if isinstance(example, Tensor) else tuple(example)
    names = list(inspect.signature(model.forward).parameters.values())
    rest = {
        p.name: p.default
        for p in names[len(examples) :]
        if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    }
    # tensors of inference mode do not count their changes, which are looked at here
    with evaluating(model), torch.inference_mode(False), torch.no_grad():
        inputs = [each.clone() if each.is_inference() else each for each in examples]
        recorder = _Recorder(mask_of, [*inputs, *rest.values()])
        try:
            graph = recorder.trace(model, concrete_args=rest or None)
        except Exception as error:  # the network's own code runs here
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{type(model).__name__} cannot be traced{recorder.where(error)}: {line}"
            ) from error
    return Recorded(
        graph=graph,
        values=recorder.values,
        unchanged=frozenset(recorder.unchanged),
        decisions=recorder.decisions,
    )


class _Recorder(fx.Tracer):
    """Stops at layers that do what their class says: those of torch, and masks."""

    def __init__(self, mask_of: MaskOf, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.values: dict[fx.Node, Any] = {}
        self.decisions: list[fx.Node] = []
        self.unchanged: set[fx.Node] = set()
        self._mask_of = mask_of
        self._inputs = list(inputs)
        self._computing = False

    def where(self, error: Exception) -> str:
        """In which layer and line the code was, for people."""
        layer = next((path for path, _ in reversed(self.module_stack.values()) if path), "")
        ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if not f.filename.startswith((*ours, "<"))]
        line = f"{Path(theirs[-1].filename).name} line {theirs[-1].lineno}" if theirs else ""
        told = ", ".join(part for part in (layer, line) if part)
        return f" at {told}" if told else ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._mask_of(m) is not None:
            return True
        if isinstance(m, _LAYERS):  # one with a forward of its own is looked into
            return type(m).forward in _PLAIN
        return super().is_leaf_module(m, module_qualified_name)

    # ------------------------------------------------------------------------------------------ values

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        if kind != "output":
            self._computing = True
            try:
                self.values[proxy.node] = self._compute(proxy.node)
            finally:
                self._computing = False
        return proxy

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self._value)
        target: Any = node.target
        if node.op == "placeholder":
            return self._inputs.pop(0) if self._inputs else None
        if node.op == "get_attr":
            return self._attribute(target)
        first = args[0] if args and isinstance(args[0], Tensor) and not args[0].is_inference() else None
        version = -1 if first is None else first._version
        if node.op == "call_module":
            result = self.root.get_submodule(target).forward(*args, **kwargs)
        elif node.op == "call_method":
            result = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            result = target(*args, **kwargs)
        if first is not None and result is first and first._version == version:
            self.unchanged.add(node)
        return result

    def _value(self, node: fx.Node) -> Any:
        if node not in self.values:  # a constant of the code, which gets its node without a stand-in
            self.values[node] = self._attribute(str(node.target))
        return self.values[node]

    def _attribute(self, path: str) -> Any:
        value: Any = self.root
        for part in path.split("."):
            value = getattr(value, part)
        return value

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self._computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    # ----------------------------------------------------------------------------- questions of the code

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _StandIn(node, self)

    def decided(self, node: fx.Node) -> Any:
        """What the code learns when it asks a stand-in for its value."""
        value = self.values[node]
        if isinstance(value, Tensor):
            raise TraceError("the code asks for the values of a tensor, which no graph can say")
        self.decisions.append(node)
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.decided(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        stand_in: Any = obj
        return (stand_in[place] for place in range(len(obj)))

    def keys(self, obj: fx.Proxy) -> Any:
        return self.values[obj.node].keys()


class _StandIn(fx.Proxy):
    """A stand-in that can be asked for a number, as sizes are."""

    tracer: _Recorder

    def __len__(self) -> int:
        value = self.tracer.values[self.node]
        sizes: Any = self.shape
        return int(sizes[0]) if isinstance(value, Tensor) else len(value)

    def __index__(self) -> int:
        return self.tracer.decided(self.node).__index__()

    def __int__(self) -> int:
        return int(self.tracer.decided(self.node))

    def __float__(self) -> float:
        return float(self.tracer.decided(self.node))
