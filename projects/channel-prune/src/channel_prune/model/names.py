"""Variables of the original by name: from its layouts to torch's and back.

A TensorFlow checkpoint has variables such as ``pruned_model/resnet_model/conv2d_5/kernel``: a scope that the
graph was built in, and a name that the order of creation numbers. Kernels are (height, width, inputs,
outputs), depthwise ones (height, width, channels, 1), dense ones (inputs, outputs).

Each network says by `original_names` how its weights are called there; here is what is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

GRAPH_SCOPES = ("model/", "pruned_model/", "distilled_model/")
"""Scopes of the original's graphs, which are no part of a variable's name."""
OF_TRAINING = ("global_step", "/Momentum", "/Adam", "/Adam_1", "beta1_power", "beta2_power")
"""Ends of names of variables that belong to the training, not to the network."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What an API of TensorFlow calls a layer's variables."""

    kernel: str
    depthwise: str
    bias: str
    norm: str
    """Scope of the batch norm behind a layer, inside the layer's; empty: it has a scope of its own."""


LAYERS = Dialect(kernel="kernel", depthwise="depthwise_kernel", bias="bias", norm="")
"""``tf.layers``."""
SLIM = Dialect(kernel="weights", depthwise="depthwise_weights", bias="biases", norm="BatchNorm")
"""``tf.contrib.slim``."""

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def variables(scoped: Iterable[tuple[str, nn.Module, str]], dialect: Dialect) -> dict[str, str]:
    """The original's names of the weights of some layers.

    Args:
        scoped: path, module and the original's scope of each layer (convolution, dense layer or batch norm),
            in the order of their creation there.
        dialect: how the original calls a layer's variables.

    Returns:
        By the name in the state dict.
    """
    return {ours: theirs for layer in scoped for ours, theirs in _variables(*layer, dialect)}


def _variables(path: str, module: nn.Module, scope: str, dialect: Dialect) -> Iterator[tuple[str, str]]:
    if isinstance(module, _BatchNorm):
        for ours, theirs in _NORM.items():
            yield f"{path}.{ours}", "/".join(part for part in (scope, dialect.norm, theirs) if part)
        return
    yield f"{path}.weight", f"{scope}/{dialect.depthwise if _is_depthwise(module) else dialect.kernel}"
    if module.bias is not None:
        yield f"{path}.bias", f"{scope}/{dialect.bias}"


def numbered(stem: str, number: int) -> str:
    """The name that TensorFlow gives to the layer with this number, from 0 on, of its kind."""
    return f"{stem}_{number}" if number else stem


def original_names(model: nn.Module) -> dict[str, str]:
    """The original's names of a network's weights; empty for a network that the original has not."""
    names: Callable[[], dict[str, str]] = getattr(model, "original_names", dict)
    return names()


def without_scope(name: str) -> str:
    """A variable's name without the scope of the graph and without a tensor's ``:0``."""
    name = name.removesuffix(":0")
    return name.removeprefix(next((scope for scope in GRAPH_SCOPES if name.startswith(scope)), ""))


def from_original(arrays: Mapping[str, np.ndarray], model: nn.Module) -> dict[str, Tensor]:
    """Variables of the original as a state dict of a network.

    Args:
        arrays: variables by name, with or without the scope of the graph. Those of the training are left out.
        model: the network, which has `original_names`.

    Returns:
        Tensors in torch's layouts under the network's names; variables that the network has not keep theirs.
    """
    ours = {theirs: key for key, theirs in original_names(model).items()}
    depthwise = _depthwise_weights(model)
    state = {}
    for name, array in arrays.items():
        plain = without_scope(name)
        if not plain.endswith(OF_TRAINING):
            key = ours.get(plain, plain)
            state[key] = to_torch(array, depthwise=key in depthwise)
    return state


def to_original(model: nn.Module) -> dict[str, np.ndarray]:
    """The weights of a network under the original's names and in its layouts, in its order of creation."""
    depthwise = _depthwise_weights(model)
    state = model.state_dict()
    return {
        theirs: to_tensorflow(state[ours], depthwise=ours in depthwise)
        for ours, theirs in original_names(model).items()
    }


def to_torch(array: np.ndarray, *, depthwise: bool = False) -> Tensor:
    """A variable in torch's layout: a kernel (O, I, h, w) or (C, 1, h, w), a matrix (out, in)."""
    axes = {4: (2, 3, 0, 1) if depthwise else (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return torch.from_numpy(np.array(array if axes is None else array.transpose(axes), order="C"))


def to_tensorflow(tensor: Tensor, *, depthwise: bool = False) -> np.ndarray:
    """The inverse of `to_torch`."""
    axes = {4: (2, 3, 0, 1) if depthwise else (2, 3, 1, 0), 2: (1, 0)}.get(tensor.dim())
    array = tensor.detach().cpu().numpy()
    return np.array(array if axes is None else array.transpose(axes), order="C")


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def _depthwise_weights(model: nn.Module) -> set[str]:
    return {f"{path}.weight" for path, module in model.named_modules() if _is_depthwise(module)}
