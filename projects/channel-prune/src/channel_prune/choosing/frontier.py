"""A network run piece by piece: every layer is computed once for the whole choice, not once a layer.

The pruned network stands still before the convolution that is pruned next, for all mini-batches at once; of
each, only the tensors that are still needed are kept. When the convolution is refitted, the network goes on
from there. The full network runs once, and leaves what every layer is to be refitted to.

`Traced` does so for networks that torch.fx can follow. `Hooked` takes any other: it runs the network from its
beginning and breaks off at the layer.

# B pictures, C channels, H, W height and width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from channel_prune.choosing.frontier_hooks import Hooked
from channel_prune.choosing.recalibrate import Statistics, norms
from channel_prune.choosing.shortcut import Branch, branches
from channel_prune.choosing.workers import Workers, draws
from prunelab.errors import UserError
from prunelab.seed import preserved, seed_all
from prunelab.surgery import channel_mask
from prunelab.surgery.reading import read
from prunelab.surgery.tracing import record

Look = Callable[[int, str, Tensor, Tensor, "Tensor | None"], None]
"""Called for a mini-batch, by its number, and a convolution, by its path, with its input, its output and the
tensor added to its branch, if one is; for several mini-batches at a time."""


class Frontier(Protocol):
    """See the module's beginning."""

    branches: Mapping[str, Branch]
    """Convolutions whose targets make up for the error beside them."""
    normed: frozenset[str]
    """Convolutions that a batch normalisation alone reads."""

    def to(self, name: str) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Go on to a convolution: of each mini-batch its number, input, and what is added to the branch."""
        ...

    def finish(self) -> None:
        """Go on to the last batch normalisation that is to be measured."""
        ...

    def visit(self, look: Look) -> None:
        """Run the whole network over each mini-batch and show every stop."""
        ...


def frontier(
    model: nn.Module,
    example: Tensor,
    names: Sequence[str],
    batches: Sequence[Tensor],
    *,
    measured_after: str | None = None,
    measured_on: int | None = None,
    added: Mapping[str, Tensor] | None = None,
    workers: Workers | None = None,
) -> Frontier:
    """The best one for a network.

    Args:
        model: the network.
        example: an input (B, 3, H, W).
        names: convolutions in the order in which they will be asked for.
        batches: pictures (B, 3, H, W), on the network's device.
        measured_after: batch normalisations behind this convolution are given the statistics of the
            mini-batches when the network comes by; None: none is.
        measured_on: of so many mini-batches; None: of all.
        added: of convolutions that make up for a shortcut the mean of what was added to their targets (O,),
            known when the network goes on from there (`channel_prune.choosing.recalibrate.Statistics.give`).
        workers: what mini-batches are shared out to; None: the caller takes all.
    """
    try:
        route = Route(model, example, names)
        return Traced(route, model, batches, measured_after, measured_on, added=added, workers=workers)
    except UserError:
        return Hooked(model, batches, names, measured_after, measured_on, workers=workers)


class Route:
    """The calls of a network in the order in which they are made, and where the stops are.

    Args:
        model: the network.
        example: an input (B, 3, H, W).
        names: convolutions to stop at, in order.

    Raises:
        UserError: torch.fx cannot follow it, or it does not come by the stops in this order.
    """

    def __init__(self, model: nn.Module, example: Tensor, names: Sequence[str]) -> None:
        recorded = record(model, example)
        graph = read(model, recorded, channel_mask)
        self._modules = dict(model.named_modules())
        self.calls = [call for call in recorded.graph.nodes if call.op != "output"]
        by_name = {call.name: call for call in self.calls}
        ends = {name: end for name, end in branches(graph).items() if name in names and end.other in by_name}
        self.branches: dict[str, Branch] = {}
        for name in names:
            if name in ends and self._bring_forward(name, by_name[ends[name].other], set(names)):
                self.branches[name] = ends[name]
        self.others = {name: by_name[end.other] for name, end in self.branches.items()}
        self.stops = {str(call.target): i for i, call in enumerate(self.calls) if call.target in names}
        places = [self.stops.get(name, -1) for name in names]
        if places != sorted(places) or -1 in places:
            raise UserError(f"{type(model).__name__} does not run {', '.join(names)} in this order")
        norm_paths = norms(model)
        self.norms = [i for i, call in enumerate(self.calls) if call.target in norm_paths]
        self.normed = frozenset(
            str(call.target)
            for call in self.calls
            if call.target in names and [str(user.target) in norm_paths for user in call.users] == [True]
        )
        self.dropped = self._dropped()

    def _bring_forward(self, name: str, other: fx.Node, stops: set[str]) -> bool:
        """Compute what is added to a branch before the branch's convolution, where that is possible."""
        at = next(i for i, call in enumerate(self.calls) if call.target == name)
        before = set(self.calls[:at])
        missing: list[fx.Node] = []
        waiting = [other]
        while waiting:
            call = waiting.pop()
            if call in before or call in missing:
                continue
            if call.target in stops or _in_place(self._modules, call):
                return False
            missing.append(call)
            waiting.extend(call.all_input_nodes)
        moved = [call for call in self.calls if call in missing]
        rest = [call for call in self.calls[at:] if call not in missing]
        self.calls = [*self.calls[:at], *moved, *rest]
        return True

    def _dropped(self) -> list[list[fx.Node]]:
        """After each call the tensors that are not needed any more."""
        last = {call: i for i, call in enumerate(self.calls)}
        for i, call in enumerate(self.calls):
            last.update(dict.fromkeys(call.all_input_nodes, i))
        found: list[list[fx.Node]] = [[] for _ in self.calls]
        for call, i in last.items():
            found[i].append(call)
        return found


def _in_place(modules: Mapping[str, nn.Module], call: fx.Node) -> bool:
    if call.op == "call_module":
        return bool(getattr(modules[str(call.target)], "inplace", False))
    name = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", "")
    return bool(call.kwargs.get("inplace")) or name.endswith("_") or name in ("iadd", "imul")


@contextmanager
def drawing(module: Any, *seed: int) -> Iterator[None]:
    """Let dropout draw the same whenever it comes to this place, in an interrupted choice too."""
    if not isinstance(module, _DropoutNd) or not module.training:
        yield
        return
    with preserved():
        seed_all(int(np.random.default_rng(seed).integers(2**31)))
        yield


class Traced:
    """A network that torch.fx can follow.

    Args:
        route: of this network, or of one with the same code.
        model: the network.
        batches: pictures (B, 3, H, W) each.
        measured_after: see `frontier`.
        measured_on: see `frontier`.
        added: see `frontier`.
        workers: see `frontier`.
    """

    def __init__(
        self,
        route: Route,
        model: nn.Module,
        batches: Sequence[Tensor],
        measured_after: str | None = None,
        measured_on: int | None = None,
        *,
        added: Mapping[str, Tensor] | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._ends = {end.norm: end.conv for end in route.branches.values()}
        self._added = {} if added is None else added
        self.route = route
        self.branches: Mapping[str, Branch] = route.branches
        self.normed = route.normed
        self._modules = dict(model.named_modules())
        self._model = model
        self._batches = batches
        self._workers = Workers() if workers is None else workers
        self._in_turn = model.training and draws(model, batches[0])
        self._values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._at = 0
        begin = len(route.calls) if measured_after is None else route.stops[measured_after]
        self._measured_on = measured_on
        self._measured = [place for place in route.norms if place > begin]

    def to(self, name: str) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """See `Frontier`."""
        self._advance(self.route.stops[name])
        call, other = self.route.calls[self._at], self.route.others.get(name)
        for number, values in enumerate(self._values):
            yield number, values[call.all_input_nodes[0]], None if other is None else values[other]

    def finish(self) -> None:
        """See `Frontier`."""
        if self._measured:
            self._advance(self._measured[-1] + 1)

    @torch.no_grad()
    def _advance(self, end: int) -> None:
        for place in [place for place in self._measured if self._at <= place < end]:
            self._run(place)
            norm = self.route.calls[place]
            read = [values[norm.all_input_nodes[0]] for values in self._values[: self._measured_on]]
            seen = Statistics()
            for part in self._workers.map(Statistics.of, read):
                seen.add(part)
            path = str(norm.target)
            seen.give(self._modules[path], added=self._added.get(self._ends.get(path, "")))
        self._run(end)

    @torch.no_grad()
    def _run(self, end: int) -> None:
        def run(number: int) -> None:
            for place in range(self._at, end):
                self._call(place, number, self._values[number])

        self._workers.each(run, range(len(self._batches)), in_turn=self._in_turn)
        self._at = max(end, self._at)

    def _call(self, place: int, number: int, values: dict[fx.Node, Any]) -> Any:
        call = self.route.calls[place]
        args, kwargs = map_arg((call.args, call.kwargs), values.__getitem__)
        target: Any = call.target
        match call.op:
            case "placeholder":
                result: Any = self._batches[number]
            case "get_attr":
                result = self._attribute(target)
            case "call_module":
                run = self._narrow(target) if target in self.route.stops else self._modules[target]
                with drawing(run, place, number):
                    result = run(*args, **kwargs)
            case "call_method":
                result = getattr(args[0], target)(*args[1:], **kwargs)
            case _:
                result = target(*args, **kwargs)
        values[call] = result
        for done in self.route.dropped[place]:
            values.pop(done, None)
        return result

    def _narrow(self, name: str) -> Callable[..., Tensor]:
        """A convolution that leaves out input channels whose weights are zero."""
        conv: Any = self._modules[name]
        weight = conv.weight
        kept = torch.nonzero(weight.abs().sum((0, 2, 3))).flatten()
        if len(kept) in (0, weight.shape[1]) or conv.padding_mode != "zeros":
            return conv
        few = weight[:, kept]

        def run(x: Tensor) -> Tensor:
            read = x.permute(0, 2, 3, 1).index_select(3, kept).permute(0, 3, 1, 2)  # channels stay last
            return F.conv2d(read, few, conv.bias, conv.stride, conv.padding, conv.dilation)

        return run

    def _attribute(self, path: str) -> Any:
        value: Any = self._model
        for part in path.split("."):
            value = getattr(value, part)
        return value

    def visit(self, look: Look) -> None:
        """See `Frontier`."""
        stops = {place: name for name, place in self.route.stops.items()}

        def run(number: int) -> None:
            values: dict[fx.Node, Any] = {}
            for place in range(max(stops) + 1):
                call = self.route.calls[place]
                name = stops.get(place)
                if name is None:
                    self._call(place, number, values)
                    continue
                x = values[call.all_input_nodes[0]]
                other = self.route.others.get(name)
                added = None if other is None else values[other]
                look(number, name, x, self._call(place, number, values), added)

        self._workers.each(run, range(len(self._batches)), in_turn=self._in_turn)
