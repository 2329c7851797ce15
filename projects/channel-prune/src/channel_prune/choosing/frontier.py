"""A network run piece by piece: every layer is computed once for the whole choice, not once a layer.

The pruned network stands still before the convolution that is pruned next, for all mini-batches at once; of
each, only the tensors that are still needed are kept. When the convolution is refitted, the network goes on
from there. The full network runs once, and leaves what every layer is to be refitted to.

Where maps of all pictures need more memory than there is, the network stays where they last did not, and
every layer's inputs are computed from there, a mini-batch at a time: the same numbers, and more time.

`Traced` does so for networks that torch.fx can follow. `Hooked` takes any other: it runs the network from its
beginning and breaks off at the layer.

# B pictures, C channels, H, W height and width
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves, tree_map

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


Values: TypeAlias = dict[fx.Node, Any]
"""What calls have given that is still needed."""
Result = TypeVar("Result")


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
    memory: float = math.inf,
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
        memory: bytes that the tensors may take which are kept between two layers.
    """
    try:
        route = Route(model, example, names)
        return Traced(
            route, model, batches, measured_after, measured_on, added=added, workers=workers, memory=memory
        )
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


def _bytes(values: Iterable[Any]) -> int:
    """Of all tensors in these; what several share counts once."""
    found: dict[int, int] = {}
    for leaf in tree_leaves(list(values)):
        if isinstance(leaf, Tensor):
            place = leaf.untyped_storage().data_ptr()
            found[place] = max(found.get(place, 0), leaf.nbytes)
    return sum(found.values())


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


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
        memory: see `frontier`.
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
        memory: float = math.inf,
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
        self._values: list[Values] = [{} for _ in batches]
        self._at = 0
        begin = len(route.calls) if measured_after is None else route.stops[measured_after]
        self._measured_on = measured_on
        self._measured = [place for place in route.norms if place > begin]
        self._memory = memory / max(1, sum(map(len, batches)))  # of a picture
        self._sizes = self._live() if memory < math.inf else []
        self._in_place = any(_in_place(self._modules, call) for call in route.calls)

    def to(self, name: str) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """See `Frontier`."""
        place = self.route.stops[name]
        call, other = self.route.calls[place], self.route.others.get(name)
        self._measure(place)

        def read(number: int, values: Values) -> tuple[int, Tensor, Tensor | None]:
            return number, values[call.all_input_nodes[0]], None if other is None else values[other]

        yield from self._reach(place, read)

    def finish(self) -> None:
        """See `Frontier`."""
        self._measure(len(self.route.calls))

    @torch.no_grad()
    def _measure(self, end: int) -> None:
        """Give batch normalisations up to here their statistics."""
        while self._measured and self._measured[0] < end:
            place = self._measured.pop(0)
            norm = self.route.calls[place]

            def read(_: int, values: Values, norm: fx.Node = norm) -> Statistics:
                return Statistics.of(values[norm.all_input_nodes[0]])

            seen = Statistics()
            for part in self._reach(place, read, self._measured_on):
                seen.add(part)
            path = str(norm.target)
            seen.give(self._modules[path], added=self._added.get(self._ends.get(path, "")))

    @torch.no_grad()
    def _reach(
        self, end: int, read: Callable[[int, Values], Result], count: int | None = None
    ) -> Iterator[Result]:
        """What is read of the first mini-batches, or of all, in front of a call; the network stays there."""
        stays = not self._sizes or self._sizes[end] <= self._memory

        def run(number: int) -> Values:
            values = self._values[number]
            if not stays:  # what is kept must come out of this as it is
                values = tree_map(_copied, values) if self._in_place else dict(values)
            for place in range(self._at, end):
                self._call(place, number, values)
            return values

        numbers = range(len(self._batches))
        if stays and end > self._at:
            self._workers.each(run, numbers, in_turn=self._in_turn)
            self._at = end
        yield from self._workers.map(
            lambda number: read(number, run(number)), numbers[:count], in_turn=self._in_turn
        )

    @torch.no_grad()
    def _live(self) -> list[int]:
        """Bytes of a picture that are kept in front of each call."""
        values: Values = {}
        images = self._batches[0][:2]
        found = []
        for place in range(len(self.route.calls)):
            found.append(_bytes(values.values()) // len(images))
            self._call(place, 0, values, images)
        return found

    def _call(self, place: int, number: int, values: Values, images: Tensor | None = None) -> Any:
        call = self.route.calls[place]
        args, kwargs = map_arg((call.args, call.kwargs), values.__getitem__)
        target: Any = call.target
        match call.op:
            case "placeholder":
                result: Any = self._batches[number] if images is None else images
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
            values: Values = {}
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
