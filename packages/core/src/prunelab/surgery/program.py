"""A network as a list of steps in plain data, and the module that runs it.

A structure is ``{"inputs": [...], "outputs": [...], "single": bool, "steps": [...]}``, and of a network for
one size alone ``"shapes"``, those of its inputs by name. A step is a mapping with ``name``, ``op`` (a key of
`prunelab.surgery.operations.OPERATIONS`), ``inputs``, sizes of its weights and the operation's options.
Together with a state dict it is all that is needed: no code of the network it came from.

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.surgery.operations import IN_PLACE, OPERATIONS, VIEWS
from prunelab.surgery.sizes import evaluate, tensors_in

Step = dict[str, Any]

LARGEST = 16 * 2**20
"""Bytes: larger tensors come from the system anew each time, page by page, which takes longer than filling
them."""


class Program(nn.Module):
    """Runs the steps of a structure one after the other.

    Sizes are not part of it: it takes any that the network it was made from takes. Weights are in single
    precision until `load_state_dict` or `to` says otherwise; nothing is trained in it, but gradients flow.

    Args:
        structure: See the top of this file.

    Raises:
        UserError: The structure names an operation or a tensor that is not known.
    """

    def __init__(self, structure: Mapping[str, Any]) -> None:
        super().__init__()
        self.structure: dict[str, Any] = json.loads(json.dumps(structure))  # plain data, and our own copy
        steps: list[Step] = self.structure["steps"]
        _check(self.structure)
        self.steps = nn.ModuleDict({step["name"]: OPERATIONS[step["op"]](step) for step in steps})
        self._measured = frozenset(tensors_in(steps))
        self._dead = _last_uses(self.structure)
        self._in_place = _in_place(self.structure, self._dead)
        self._bytes: dict[tuple[Any, ...], int] = {}  # of the largest tensor of a sample, by sizes of inputs

    @property
    def parameter_count(self) -> int:
        """Numbers in its weights, constants included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, *inputs: Tensor) -> Any:
        """Run all steps on the inputs, in the network's order of them.

        On a CPU, without gradients, many samples are taken some at a time, so that no tensor is larger than
        `LARGEST`.
        """
        names = self.structure["inputs"]
        if len(inputs) != len(names):
            raise TypeError(f"{len(inputs)} inputs, expected {len(names)}: {', '.join(names)}")
        for name, expected in self.structure.get("shapes", {}).items():
            given = list(inputs[names.index(name)].shape)
            if given[1:] != expected[1:]:
                raise UserError(
                    f"input {name!r} is {given}, expected [B, {str(expected[1:])[1:]}: "
                    "the network decided something by that size"
                )
        if _recorded() or torch.is_grad_enabled() or inputs[0].device.type != "cpu":
            return self._result(self._run(inputs))
        count = len(inputs[0])
        shapes = tuple(each.shape[1:] for each in inputs)
        if count < 2 or any(len(each) != count for each in inputs):
            return self._result(self._run(inputs))
        if shapes not in self._bytes:  # one sample shows how large tensors get; it counts for nothing else
            self._run([each[:1] for each in inputs])
        size = max(1, LARGEST // max(1, self._bytes[shapes]))
        if size >= count:
            return self._result(self._run(inputs))
        starts = range(0, count, size)
        parts = [self._run([each[start : start + size] for each in inputs]) for start in starts]
        return self._result([torch.cat(same) for same in zip(*parts, strict=True)])

    def _result(self, results: Sequence[Tensor]) -> Any:
        return results[0] if self.structure["single"] else tuple(results)

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        values: dict[str, Any] = dict(zip(self.structure["inputs"], map(_channels_last, inputs), strict=True))
        shapes = {name: value.shape for name, value in values.items() if name in self._measured}
        largest, recorded = 0, _recorded()
        for step, operation in zip(self.structure["steps"], self.steps.values(), strict=True):
            name = step["name"]
            options: dict[str, Any] = {}
            if "size" in step:
                options["size"] = evaluate(step["size"], shapes)
            if name in self._in_place and not torch.is_grad_enabled():
                options["in_place"] = True
            result = operation(*(values[source] for source in step["inputs"]), **options)
            if "indices" in step:
                values[name], values[step["indices"]] = result
            else:
                values[name] = result
            if name in self._measured:
                shapes[name] = values[name].shape
            if not recorded:
                largest = max(largest, values[name].nbytes)
            for old in self._dead[name]:
                del values[old]
        if not recorded and len(inputs[0]):
            self._bytes[tuple(each.shape[1:] for each in inputs)] = largest // len(inputs[0])
        return [values[name] for name in self.structure["outputs"]]

    def describe(self) -> str:
        """One line a step: name, operation, what it reads, shapes of its weights."""
        lines = [f"inputs: {', '.join(self.structure['inputs'])}"]
        for step in self.structure["steps"]:
            own = self.steps[step["name"]]
            weights = [f"{name} {'x'.join(map(str, p.shape))}" for name, p in own.named_parameters()]
            hidden = {"name", "op", "inputs", "bias", "border"}
            rest = [
                f"{key}={value}" for key, value in step.items() if key not in hidden and value is not None
            ]
            text = f"{step['name']} = {step['op']}({', '.join(step['inputs'])})"
            lines.append("  ".join([text, *weights, *(rest if not weights else [])]))
        return "\n".join([*lines, f"outputs: {', '.join(self.structure['outputs'])}"])


def _recorded() -> bool:
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def _channels_last(x: Tensor) -> Tensor:
    """Pictures in the layout in which small convolutions are fastest; a recorded graph has no layouts."""
    exporting = x.dim() != 4 or torch.compiler.is_exporting()
    return x if exporting else x.contiguous(memory_format=torch.channels_last)


def _check(structure: Mapping[str, Any]) -> None:
    known = set(structure["inputs"])
    for step in structure["steps"]:
        if step["op"] not in OPERATIONS:
            raise UserError(
                f"step {step['name']!r}: operation {step['op']!r}, expected one of {', '.join(OPERATIONS)}"
            )
        for name in [*step["inputs"], *tensors_in(step)]:
            if name not in known:
                raise UserError(f"step {step['name']!r} reads {name!r}, which no step before it makes")
        known |= {step["name"], step.get("indices", step["name"])}
    for name in structure["outputs"]:
        if name not in known:
            raise UserError(f"the structure's output {name!r} is made by no step")


def _last_uses(structure: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each step the tensors that no later one reads."""
    last: dict[str, str] = {}
    for step in structure["steps"]:
        for name in (step["name"], step.get("indices", step["name"]), *step["inputs"]):
            last[name] = step["name"]
    dead: dict[str, list[str]] = {step["name"]: [] for step in structure["steps"]}
    for name, step in last.items():
        if name not in structure["outputs"]:
            dead[step].append(name)
    return dead


def _in_place(structure: Mapping[str, Any], dead: Mapping[str, list[str]]) -> frozenset[str]:
    """Steps that may write over their first input: nothing reads it again, and its memory is its own."""
    owned = {step["name"] for step in structure["steps"] if step["op"] not in VIEWS}
    return frozenset(
        step["name"]
        for step in structure["steps"]
        if step["op"] in IN_PLACE
        and step["inputs"][0] in owned
        and step["inputs"][0] in dead[step["name"]]
        and step["inputs"].count(step["inputs"][0]) == 1
    )
