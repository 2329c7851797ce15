"""The original's checkpoint files: writing them, and reading their optimizer's state.

Such a file is a dict of the next epoch, the weights (every name with ``module.`` before it) and the
optimizer's state, in which parameters are numbers counted through the blocks in `Network.groups`' order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from acosp.soft_topk import ChannelMaskLayer
from acosp_seg.model.checkpoint import PREFIX
from acosp_seg.model.network import Network
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write


def optimizer_groups(model: Network, *, learnable_weights: bool = True) -> list[list[str]]:
    """Names of parameters by the original's optimizer group, in the order of their numbers.

    Logits keep their number when their mask has become hard and they are gone from the network.

    Args:
        model: the network, dense or masked.
        learnable_weights: whether the logits of masks that are hard now were parameters.
    """
    base, new = model.groups()
    blocks = [list(_parameter_names(model, block, learnable_weights)) for block in (*base, *new)]
    return blocks if new else [[name for block in blocks for name in block]]


def _parameter_names(model: Network, block: str, learnable_weights: bool) -> Iterator[str]:
    for name, module in model.get_submodule(block).named_modules(prefix=block):
        own = [own for own, _ in module.named_parameters(recurse=False)]
        hardened = isinstance(module, ChannelMaskLayer) and not hasattr(module, "weight")
        if hardened and learnable_weights:
            own.append("weight")
        for last in own:
            yield f"{name}.{last}"


def optimizer_state(
    model: Network, optimizer: Optimizer, *, learnable_weights: bool = True
) -> dict[str, Any]:
    """An optimizer's state in the original's numbers, whatever groups it has here.

    Args:
        model: the network whose parameters it holds.
        optimizer: ours. Numbers of logits that are gone have no state.
        learnable_weights: see `optimizer_groups`.
    """
    named = dict(model.named_parameters())
    holder = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    groups: list[dict[str, Any]] = []
    state: dict[int, dict[str, Any]] = {}
    number = 0
    for names in optimizer_groups(model, learnable_weights=learnable_weights):
        first = next(named[name] for name in names if name in named)
        options = {key: _plain(holder[id(first)][key]) for key in optimizer.defaults}
        groups.append({**options, "params": list(range(number, number + len(names)))})
        for place, name in enumerate(names, start=number):
            param = named.get(name)
            if param is not None and param in optimizer.state:
                state[place] = {key: _on_cpu(value) for key, value in optimizer.state[param].items()}
        number += len(names)
    return {"state": state, "param_groups": groups}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def write_original(
    path: StrPath,
    epoch: int,
    model: Network,
    optimizer: Optimizer | None = None,
    *,
    learnable_weights: bool = True,
) -> None:
    """Write a checkpoint as the original does; it loads with ``weights_only=True``.

    Args:
        path: the file.
        epoch: the epoch to go on with.
        model: the network, dense, soft or hard.
        optimizer: its optimizer; None leaves the entry out.
        learnable_weights: see `optimizer_groups`.

    Raises:
        UserError: the file cannot be written.
    """
    weights = OrderedDict((PREFIX + name, value.detach().cpu()) for name, value in model.state_dict().items())
    content: dict[str, Any] = {"epoch": epoch, "state_dict": weights}
    if optimizer is not None:
        content["optimizer"] = optimizer_state(model, optimizer, learnable_weights=learnable_weights)
    with atomic_write(path) as file:
        torch.save(content, file)


def load_optimizer(
    model: Network, optimizer: Optimizer, saved: Mapping[str, Any], *, where: str
) -> tuple[str, ...]:
    """Give an optimizer the state of an original's file, by parameter name.

    Args:
        model: the network, with the file's weights and masks.
        optimizer: ours, over the network's parameters in any groups.
        saved: ``OriginalFile.optimizer``.
        where: the file, for messages.

    Returns:
        Names of parameters whose state was dropped: logits of masks that are hard now.

    Raises:
        UserError: it is the state of another network's optimizer.
    """
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    for learnable in (True, False):
        groups = optimizer_groups(model, learnable_weights=learnable)
        if [len(names) for names in groups] == sizes:
            break
    else:
        wanted = [len(names) for names in optimizer_groups(model)]
        raise UserError(
            f"{where}: the optimizer has groups of {sizes} parameters, expected {wanted} for this network"
        )
    named = dict(model.named_parameters())
    dropped: list[str] = []
    for names, group in zip(groups, saved["param_groups"], strict=True):
        for name, number in zip(names, group["params"], strict=True):
            if number not in saved["state"]:
                continue
            if name in named:
                optimizer.state[named[name]] = _fitting(saved["state"][number], named[name], name, where)
            else:
                dropped.append(name)
    _restore_options(optimizer, groups, saved, named)
    return tuple(dropped)


def _fitting(entry: Mapping[str, Any], param: Tensor, name: str, where: str) -> dict[str, Any]:
    """The state of one parameter, checked against its shape and moved to its device."""
    result = {}
    for key, value in entry.items():
        if isinstance(value, Tensor) and value.dim():
            if value.shape != param.shape:
                raise UserError(
                    f"{where}: {key} of {name} is {tuple(value.shape)}, expected {tuple(param.shape)}"
                )
            value = value.to(param, copy=True)
        result[key] = value
    return result


def _restore_options(
    optimizer: Optimizer, groups: list[list[str]], saved: Mapping[str, Any], named: Mapping[str, Tensor]
) -> None:
    """Set rate, momentum and so on of each of our groups to those of the file's group of its parameters."""
    origin = {
        id(named[name]): group
        for names, group in zip(groups, saved["param_groups"], strict=True)
        for name in names
        if name in named
    }
    for group in optimizer.param_groups:
        source = origin[id(group["params"][0])]
        group.update({key: source[key] for key in optimizer.defaults if key in source})
