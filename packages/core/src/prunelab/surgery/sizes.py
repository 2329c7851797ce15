"""Arithmetic with sizes of tensors, as plain data.

A network may compute sizes from its tensors (``size=x.shape[2:]``, ``(h - 1) // 8 * 8 + 1``). Here such a
number is an expression: an int or float; ``["size", tensor, axis]``; or ``[operation, a, b]``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import fx

Expression: TypeAlias = "int | float | list[Any]"
"""See above."""

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
}

_NAMES = {function: name for name, function in OPERATIONS.items()}


def evaluate(expression: Any, shapes: Mapping[str, Any]) -> Any:
    """The value of an expression, or of a list of them, for these shapes of tensors."""
    if not isinstance(expression, list):
        return expression
    if expression and expression[0] == "size":
        return shapes[expression[1]][expression[2]]
    if expression and isinstance(expression[0], str):
        first, second = (evaluate(part, shapes) for part in expression[1:])
        return OPERATIONS[expression[0]](first, second)
    return [evaluate(part, shapes) for part in expression]


def tensors_in(expression: Any) -> set[str]:
    """Names of the tensors whose sizes an expression, or any plain data that holds some, asks for."""
    if isinstance(expression, Mapping):
        return set().union(*(tensors_in(part) for part in expression.values()))
    if not isinstance(expression, list | tuple):
        return set()
    if len(expression) == 3 and expression[0] == "size":
        return {expression[1]}
    return set().union(*(tensors_in(part) for part in expression))


class Sizes:
    """Reads the tracer's calls about sizes."""

    def __init__(self) -> None:
        self.values: dict[fx.Node, Any] = {}

    def read(self, call: fx.Node, shape_of: Callable[[fx.Node], tuple[str, tuple[int, ...]] | None]) -> bool:
        """Read one call; False if it is not about sizes.

        The channel axis is the number that the example has: layers may get fewer channels, what the network
        computes from that number must stay.
        """
        if call.op == "get_attr":
            return False
        first = call.args[0] if call.args else None
        tensor = shape_of(first) if isinstance(first, fx.Node) else None
        if tensor is not None:
            return self._read_shape(call, *tensor)
        if not any(node in self.values for node in call.all_input_nodes):
            return False
        if any(node not in self.values for node in call.all_input_nodes):
            return False
        return self._read_arithmetic(call)

    def _read_shape(self, call: fx.Node, name: str, shape: tuple[int, ...]) -> bool:
        is_shape = call.target is getattr and call.args[1] == "shape"
        is_size = call.op == "call_method" and call.target == "size"
        if not (is_shape or is_size):
            return False
        whole = [size if axis == 1 else ["size", name, axis] for axis, size in enumerate(shape)]
        axis = call.args[1] if is_size and len(call.args) > 1 else call.kwargs.get("dim")
        self.values[call] = whole[axis] if isinstance(axis, int) else whole
        return True

    def _read_arithmetic(self, call: fx.Node) -> bool:
        arguments = [self.plain(argument) for argument in call.args]
        if call.target is operator.getitem:
            self.values[call] = arguments[0][arguments[1]]
            return True
        target: Any = call.target
        name = _NAMES.get(target)
        if name is None:
            return False
        self.values[call] = [name, *arguments]
        return True

    def plain(self, value: Any) -> Any:
        """An argument with the numbers of the tracer replaced by expressions; tuples become lists."""
        if isinstance(value, fx.Node):
            return self.values.get(value, value)
        if isinstance(value, list | tuple):
            return [self.plain(part) for part in value]
        return value
