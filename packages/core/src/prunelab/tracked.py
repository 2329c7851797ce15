"""The state of the objects that a run tracks: taken for a checkpoint, and given back strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prunelab import dist
from prunelab.errors import UserError
from prunelab.seed import RngState, derive, seed_all

Gradients = dict[str, dict[str, torch.Tensor]]
"""By tracked name and parameter name."""


def is_generator(value: Any) -> bool:
    """Whether this is a random generator; each rank has its own state of it."""
    return isinstance(value, torch.Generator | np.random.Generator)


def check_trackable(name: str, value: Any) -> None:
    """Refuse an object that a checkpoint could not hold.

    Raises:
        UserError: it has no ``state_dict`` and ``load_state_dict`` and is no random generator.
    """
    able = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    if not able and not is_generator(value):
        raise UserError(
            f"track({name}=...): a {type(value).__name__} was given; expected an object with state_dict() and "
            "load_state_dict(), or a random generator"
        )


def load(name: str, value: Any, state: Any) -> None:
    """Give one object (no generator) its state back.

    Raises:
        UserError: the state is of another model or object: the first differing keys and shapes are named.
    """
    if isinstance(value, nn.Module):
        _check_module(name, value, state)
    try:
        value.load_state_dict(state)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        kind = type(value).__name__
        raise UserError(f"the checkpoint's {name} does not fit this run's {kind}: {error}") from error


def _check_module(name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    surplus = [key for key in state if key not in own]
    differing = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if isinstance(value, torch.Tensor) and key in state and state[key].shape != value.shape
    ]
    faults = []
    for what, keys in (("missing", missing), ("not in this model", surplus), ("shapes", differing)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            faults.append(f"{what}: {', '.join(keys[:3])}{more}")
    if faults:
        raise UserError(f"the checkpoint's {name} is of another model: {'; '.join(faults)}")


def _parameters(objects: Mapping[str, Any]) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Each parameter of tracked objects once, modules first: (tracked name, parameter name, parameter)."""
    seen: set[int] = set()
    for name, value in objects.items():
        if isinstance(value, nn.Module):
            for key, param in value.named_parameters():
                if id(param) not in seen:
                    seen.add(id(param))
                    yield name, key, param
    for name, value in objects.items():
        if isinstance(value, torch.optim.Optimizer):
            params = (param for group in value.param_groups for param in group["params"])
            for index, param in enumerate(params):
                if id(param) not in seen:
                    seen.add(id(param))
                    yield name, str(index), param


def gradients(objects: Mapping[str, Any]) -> Gradients:
    """The ``.grad`` of all tracked parameters that have one."""
    found: Gradients = {}
    for name, key, param in _parameters(objects):
        if param.grad is not None:
            found.setdefault(name, {})[key] = param.grad.detach()
    return found


def load_gradients(objects: Mapping[str, Any], saved: Gradients) -> None:
    """Give all tracked parameters their ``.grad`` back; those that had none get None."""
    for name, key, param in _parameters(objects):
        value = saved.get(name, {}).get(key)
        param.grad = None if value is None else value.to(param.device, copy=True)


def _digest(found: Gradients) -> str:
    """A checksum of all gradients, to learn without sending them whether the ranks' are equal."""
    hasher = hashlib.blake2b()
    for name, group in found.items():
        for key, value in group.items():
            hasher.update(f"{name}/{key}".encode())
            flat = value.to("cpu").contiguous().view(-1).view(torch.uint8)
            hasher.update(flat.numpy().data)
    return hasher.hexdigest()


def ranks_state(objects: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each rank has of its own, on rank 0 (elsewhere an empty list). Collective.

    Random states, tracked generators, and gradients. Ranks whose gradients equal rank 0's (after averaging,
    that is all of them) send none.
    """
    state: dict[str, Any] = {
        "random": RngState.capture().state_dict(),
        "generators": {
            name: value.get_state() if isinstance(value, torch.Generator) else value.bit_generator.state
            for name, value in objects.items()
            if is_generator(value)
        },
        "gradients": gradients(objects),
    }
    if dist.world_size() > 1:
        mine = _digest(state["gradients"])
        if not dist.is_main() and dist.broadcast_object(mine) == mine:
            state["gradients"] = None
        elif dist.is_main():
            dist.broadcast_object(mine)
        else:
            cpu = {n: {k: v.to("cpu") for k, v in g.items()} for n, g in state["gradients"].items()}
            state["gradients"] = cpu
    return dist.gather_to_main(state)


def load_ranks(objects: Mapping[str, Any], saved: Sequence[Mapping[str, Any]], seed: int, step: int) -> None:
    """Give this rank its own state back: gradients, generators and, last, the global random states.

    With another number of processes than before, gradients are the mean over the earlier ranks (what
    averaging would have made of them), and a rank that did not exist starts random numbers of its own.
    """
    rank = dist.rank()
    load_gradients(objects, _gradients_for(saved, rank))
    if rank >= len(saved):
        seed_all(derive(seed, "rank", rank, step))
        return
    for name, state in saved[rank]["generators"].items():
        generator = objects.get(name)
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
    RngState.from_state_dict(saved[rank]["random"]).restore()


def _gradients_for(saved: Sequence[Mapping[str, Any]], rank: int) -> Gradients:
    parts: list[Gradients] = [
        saved[0]["gradients"] if part["gradients"] is None else part["gradients"] for part in saved
    ]
    if len(saved) == dist.world_size():
        return parts[rank]
    total: Gradients = {}
    for part in parts:
        for name, group in part.items():
            for key, value in group.items():
                held = total.setdefault(name, {})
                held[key] = held[key] + value if key in held else value
    return {n: {k: v / len(parts) for k, v in group.items()} for n, group in total.items()}
