"""Classifiers of torchvision and timm, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from channel_prune.config import NetConfig
from prunelab.doors import did_you_mean
from prunelab.errors import UserError

WITH_SECOND_HEADS = ("googlenet", "inception_v3")
"""Networks of torchvision that answer with several tensors in training unless they are told not to."""


def foreign(cfg: NetConfig) -> nn.Module:
    """A network of another package with new weights, ``torchvision:NAME`` or ``timm:NAME``.

    Raises:
        UserError: the package has no such network (the nearest names are given) or is not installed.
    """
    package, _, name = cfg.name.partition(":")
    if cfg.width_divisor != 1:
        raise UserError(f"width_divisor is {cfg.width_divisor}, expected 1 for {cfg.name}")
    return _torchvision(name, cfg) if package == "torchvision" else _timm(name, cfg)


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers."""
    from torchvision import models  # slow to import

    return models.list_models(module=models)


def _torchvision(name: str, cfg: NetConfig) -> nn.Module:
    from torchvision import models

    names = torchvision_names()
    if name not in names:
        raise UserError(
            f"net {cfg.name}: torchvision has no classifier {name!r}; {did_you_mean(name, names)}"
        )
    options: dict[str, Any] = {}
    if name in WITH_SECOND_HEADS:
        options = {"aux_logits": False, "init_weights": True}
    return models.get_model(name, weights=None, num_classes=cfg.nb_classes, **options)


def _timm(name: str, cfg: NetConfig) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"net {cfg.name}: timm is not installed, expected the extra of that name: channel-prune[timm]"
        ) from error
    if not timm.is_model(name):
        raise UserError(
            f"net {cfg.name}: timm has no network {name!r}; {did_you_mean(name, timm.list_models())}"
        )
    return timm.create_model(name, pretrained=False, num_classes=cfg.nb_classes)
