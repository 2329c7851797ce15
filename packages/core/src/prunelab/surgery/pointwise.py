"""Functions of one value: recognised in every spelling, named, and called by name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

POINTWISE: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "mish": F.mish,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
}
"""By the name under which a program stores them; further arguments are plain numbers and words."""

_MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("relu6", ()),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.ELU: ("elu", ("alpha",)),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    nn.Sigmoid: ("sigmoid", ()),
    nn.Hardsigmoid: ("hardsigmoid", ()),
    nn.Tanh: ("tanh", ()),
    nn.SiLU: ("silu", ()),
    nn.Hardswish: ("hardswish", ()),
    nn.GELU: ("gelu", ("approximate",)),
    nn.Softplus: ("softplus", ("beta", "threshold")),
    nn.Mish: ("mish", ()),
}

_CALLS: dict[Any, str] = {
    **{function: name for name, function in POINTWISE.items()},
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu_: "relu",
    F.sigmoid: "sigmoid",
    F.tanh: "tanh",
    operator.add: "add",
    operator.iadd: "add",
    operator.sub: "sub",
    operator.isub: "sub",
    operator.mul: "mul",
    operator.imul: "mul",
    operator.truediv: "div",
    operator.itruediv: "div",
}

_METHODS = ("relu", "sigmoid", "tanh", "add", "sub", "mul", "div")
_ORDERLESS = ("add", "mul")


def apply_pointwise(x: Tensor, function: str, arguments: list[Any], keywords: Mapping[str, Any]) -> Tensor:
    """Call a function of `POINTWISE` by its name."""
    return POINTWISE[function](x, *arguments, **keywords)


def pointwise_module(module: nn.Module) -> dict[str, Any] | None:
    """Name and arguments of a module that is a function of one value; None for others."""
    found = _MODULES.get(type(module))
    if found is None:
        return None
    name, attributes = found
    keywords = {attribute: getattr(module, attribute) for attribute in attributes}
    return {
        "function": name,
        "arguments": [],
        "keywords": keywords,
        "inplace": getattr(module, "inplace", False),
    }


def pointwise_call(call: fx.Node) -> dict[str, Any] | None:
    """Name and arguments of a call that is a function of one value; None for others.

    A number that meets a tensor (``x * 2``) is one; a tensor that meets a tensor is not.
    """
    if call.op == "call_method":
        stem = str(call.target).removesuffix("_")
        name = stem if stem in _METHODS else None
    else:
        name = _CALLS.get(call.target)
    if call.op == "call_method" and call.target == "clone":  # a tensor of its own, which may change alone
        return {"function": "mul", "arguments": [1], "keywords": {}, "inplace": False}
    if name is None or len(call.all_input_nodes) != 1:
        return None
    first, *rest = call.args
    if not isinstance(first, fx.Node) and name in _ORDERLESS and len(rest) == 1:
        first, rest = rest[0], [first]
    plain = all(isinstance(value, int | float | str | bool) for value in rest)
    if not isinstance(first, fx.Node) or not plain:
        return None
    keywords = {key: value for key, value in call.kwargs.items() if key not in ("inplace", "input")}
    if not all(isinstance(value, int | float | str | bool | None) for value in keywords.values()):
        return None
    return {
        "function": name,
        "arguments": rest,
        "keywords": keywords,
        "inplace": bool(call.kwargs.get("inplace")),
    }
