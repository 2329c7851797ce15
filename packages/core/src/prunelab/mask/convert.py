"""Give any module masks, and take them away again; `prunelab.mask.Pruning` does the rest of every method.

```python
from prunelab import mask

model = mask.convert(torchvision.models.resnet18(), mask.MaskSpec(kind="fixed"))
mask.assign(model, mask.magnitude(mask.weights_of(model), target=0.9, scheme="uniform"))
state = mask.apply_masks(model)  # dense, zeros where pruned; or mask.strip(model) for plain layers
```
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.mask.layers import (
    Masked,
    MaskedConv2d,
    MaskedEmbedding,
    MaskedLinear,
    MaskedLSTMCell,
    masked_layers,
    masks,
)
from prunelab.mask.supermask import MASK_SUFFIX, MaskSpec, round_mask

_MASKED: dict[type[nn.Module], type[Masked]] = {
    nn.Linear: MaskedLinear,
    nn.Embedding: MaskedEmbedding,
    nn.LSTMCell: MaskedLSTMCell,
    nn.Conv2d: MaskedConv2d,
}
_PLAIN: dict[type[Masked], type[nn.Module]] = {masked: plain for plain, masked in _MASKED.items()}


LeaveOut = Collection[str | type[nn.Module]]
"""Paths of layers, or of modules around them, and classes of layers."""


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module another class of the same layout; parameters, hooks and references are untouched."""
    module.__class__ = kind


def convert(
    model: nn.Module,
    spec: MaskSpec,
    only: Callable[[str, nn.Module], bool] | None = None,
    *,
    leave_out: LeaveOut = (),
) -> nn.Module:
    """Turn the Linear, Embedding, LSTMCell and Conv2d layers of a model into masked ones, in place.

    Weights, devices, hooks, tied parameters and references to the layers stay as they are: each layer
    changes its class and gains masks. Only layers of exactly these classes are converted; a subclass
    (such as the output layer inside `torch.nn.MultiheadAttention`) may be read by its owner past
    `forward`, where a mask would have no effect.

    Args:
        model: any module; may itself be one of the layers.
        spec: how the masks behave.
        only: takes a layer's path and the layer; a layer is converted where this returns True (default: all).
        leave_out: layers that stay as they are.

    Returns:
        The model.

    Raises:
        UserError: no layer was found to convert, or a name in ``leave_out`` is no layer's.
    """
    left_out = _left_out(model, leave_out)
    by_weight: dict[int, nn.Parameter] = {}  # tied weights share one mask
    converted = 0
    for path, module in list(model.named_modules()):
        masked = _MASKED.get(type(module))
        if masked is None or left_out(path, module) or (only is not None and not only(path, module)):
            continue
        plain = type(module)
        _become(module, masked)
        assert isinstance(module, Masked)
        try:
            module.add_masks(spec)
        except UserError:
            _become(module, plain)
            raise
        for name in module.masked_names:
            shared = by_weight.setdefault(id(module.get_parameter(name)), module.mask_of(name))
            setattr(module, name + MASK_SUFFIX, shared)
        converted += 1
    if not converted:
        kinds = ", ".join(kind.__name__ for kind in _MASKED)
        raise UserError(
            f"model {type(model).__name__} has no layer to mask: expected at least one of {kinds}"
        )
    return model


def _left_out(model: nn.Module, leave_out: LeaveOut) -> Callable[[str, nn.Module], bool]:
    """Whether a layer is left out, by its path and class."""
    names = tuple(item for item in leave_out if isinstance(item, str))
    kinds = tuple(item for item in leave_out if not isinstance(item, str))
    paths = [path for path, _ in model.named_modules() if path]
    for name in names:
        if name not in paths:
            near = difflib.get_close_matches(name, paths, n=3) or paths[:3]
            raise UserError(f"leave_out {name!r} is no layer of the model: did you mean {', '.join(near)}?")
    return lambda path, layer: (
        isinstance(layer, kinds) or any(path == name or path.startswith(f"{name}.") for name in names)
    )


def assign(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set mask parameters by name, as `masks` names them.

    Raises:
        UserError: a name that the model lacks, or a wrong shape.
    """
    known = masks(model)
    for name, value in values.items():
        if name not in known:
            raise UserError(f"mask {name!r} is not in the model: expected one of {', '.join(known)}")
        if value.shape != known[name].shape:
            raise UserError(
                f"mask {name!r} has shape {tuple(value.shape)}: expected {tuple(known[name].shape)}"
            )
    with torch.no_grad():
        for name, value in values.items():
            known[name].copy_(value)


def _pruned(layer: Masked, name: str) -> Tensor:
    """The weight with its pruned entries +0.0 (a product would leave -0.0 behind negative weights)."""
    weight, mask = layer.get_parameter(name).detach(), layer.mask_of(name).detach()
    if layer.mask_spec.kind == "supermask":
        return torch.where(round_mask(mask), weight, torch.zeros_like(weight))
    return torch.where(mask != 0, weight * mask, torch.zeros_like(weight))


def apply_masks(model: nn.Module, *, keep_masks: bool = False) -> dict[str, Tensor]:
    """A state dict with every masked weight pruned for good, the model untouched.

    Args:
        model: a module with masked layers.
        keep_masks: keep the masks in the result, as 0/1 numbers; otherwise only the entries of the plain
            model stay.

    Returns:
        Name to tensor, detached copies in the order of ``model.state_dict()``.
    """
    replaced: dict[str, Tensor] = {}
    for path, layer in model.named_modules(remove_duplicate=False):
        if not isinstance(layer, Masked):
            continue
        prefix = f"{path}." if path else ""
        for name in layer.masked_names:
            mask = layer.mask_of(name).detach()
            replaced[prefix + name] = _pruned(layer, name)
            if layer.mask_spec.kind == "supermask":
                replaced[prefix + name + MASK_SUFFIX] = round_mask(mask).to(mask.dtype)
    return {
        key: replaced[key] if key in replaced else value.detach().clone()
        for key, value in model.state_dict().items()
        if keep_masks or not key.endswith(MASK_SUFFIX)
    }


def strip(model: nn.Module) -> nn.Module:
    """Prune every masked weight for good and turn masked layers back into torch's own, in place.

    Returns:
        The model, without masks; its state dict loads into the plain model.
    """
    done: dict[tuple[int, int], Tensor] = {}
    for _, layer in list(masked_layers(model)):
        for name in layer.masked_names:
            weight, mask = layer.get_parameter(name), layer.mask_of(name)
            if (id(weight), id(mask)) not in done:
                done[id(weight), id(mask)] = _pruned(layer, name)
                with torch.no_grad():
                    weight.copy_(done[id(weight), id(mask)])
        for name in layer.masked_names:
            delattr(layer, name + MASK_SUFFIX)
        del layer.mask_spec
        layer.__dict__.pop("_held", None)
        layer.__dict__.pop("_never_sampled", None)
        _become(layer, _PLAIN[type(layer)])
    return model
