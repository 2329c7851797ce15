"""What the parity tests of the models share: building from a folder, comparing with tolerances."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model import Inputs, Network, build
from testing.parity import Folder

DENSE, PRUNED = "up_down_lstm", "up_down_lstm_prune"


def model_config(folder: Folder) -> tuple[ModelConfig, dict[str, Any]]:
    """The folder's sizes, and the whole of its configuration."""
    plain = folder.json("config.json")
    known = {field.name for field in fields(ModelConfig)}
    return ModelConfig(**{name: value for name, value in plain.items() if name in known}), plain


def model_of(folder: Folder, *, dense_class: bool = False) -> Network:
    """A fresh model of the folder's configuration in the folder's mode; of its dense twin on request."""
    cfg, plain = model_config(folder)
    spec = None
    if dense_class:
        cfg = replace(cfg, caption_model=cfg.caption_model.removesuffix("_prune"))
    elif folder.kind == "pruned":
        spec = MaskSpec(kind="supermask", init=plain["prune_supermask_init"])
    return build(cfg, spec).train(folder.facts["mode"] == "train")


def recorded_model(folder: Folder) -> Network:
    """The model with the folder's weights."""
    model = model_of(folder)
    model.load_original(folder.weights("*_best.pth"))
    return model


def inputs_of(folder: Folder) -> dict[str, Tensor]:
    """The recorded batch."""
    return folder.arrays("inputs.npz")


def images(batch: dict[str, Tensor]) -> Inputs:
    """What describes the images."""
    return Inputs.of(batch)


def image_of(batch: dict[str, Tensor], place: int) -> Inputs:
    """One of the images alone."""
    return Inputs(*(x if x is None else x[place : place + 1] for x in images(batch)))


def teach(model: Network, batch: dict[str, Tensor], *, last_column: bool = True) -> Tensor:
    """Teacher forcing on the recorded batch."""
    return model(images(batch), batch["seqs"], last_column=last_column)


def assert_within(found: Tensor, expected: Tensor, absolute: float, message: str = "") -> None:
    torch.testing.assert_close(
        found.detach(), expected, atol=absolute, rtol=0.0, msg=lambda m: f"{message}: {m}", check_dtype=False
    )


def assert_gradients(folder: Folder, model: nn.Module, recorded: dict[str, Tensor], prefix: str) -> None:
    """Every recorded gradient under a prefix; a parameter without one counts as zero."""
    tolerance = folder.tolerance
    parameters = dict(model.named_parameters())
    names = [name.removeprefix(prefix) for name in recorded if name.startswith(prefix)]
    assert names
    for name in names:
        gradient = parameters[name].grad
        torch.testing.assert_close(
            torch.zeros_like(parameters[name]) if gradient is None else gradient,
            recorded[prefix + name],
            atol=tolerance["grad_abs"],
            rtol=tolerance["grad_rel"],
            msg=lambda m, name=name: f"gradient of {name}: {m}",
        )
