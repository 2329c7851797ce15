"""What the parity tests of the models share: building from a folder, comparing with tolerances."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig, QuirksConfig
from smp_caption.model import Inputs, Network, build, choose_caching
from testing.parity import Folder


def model_config(folder: Folder) -> tuple[ModelConfig, dict[str, Any]]:
    """The folder's sizes, and the whole of its configuration."""
    plain = folder.json("config.json")
    known = {field.name for field in fields(ModelConfig)}
    sizes = {name: tuple(x) if isinstance(x, list) else x for name, x in plain.items() if name in known}
    if sizes.get("unk_token_id", 0) is None:  # tokens of which words are made: no one of them is unknown
        sizes["unk_token_id"] = -1
    # The recorded networks drop nothing out, with rates that no key of the configuration holds either.
    return ModelConfig(**{"drop_prob_layer": folder.facts["dropout"], **sizes}), plain


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


def decoding_as(model: Network, *, original: bool) -> Network:
    """The model, from now on with the original's caches, defects included, or with exact ones."""
    choose_caching(model, QuirksConfig.of("faithful" if original else "fixed"))
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
