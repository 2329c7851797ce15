"""Networks of timm as ours, with fresh agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from apt_vit.files.recognise import Weights, class_names_of, config_of
from apt_vit.files.timm_weights import WHAT, preprocess_of_timm, translate
from apt_vit.files.weights import fill
from apt_vit.model import VisionTransformer, build
from apt_vit.model.initialise import fresh_agents
from apt_vit.preprocess import Preprocess
from prunelab.errors import UserError
from prunelab.modes import evaluating

CLOSE = 1e-3
"""Largest difference of logits, as a share of the largest logit, between timm's network and ours."""


def adopt_module(
    network: str | nn.Module,
    *,
    clip_layers: Sequence[int] | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> tuple[VisionTransformer, Preprocess, tuple[str, ...]]:
    """A network of timm as one of ours with fresh agents; the two are compared on a picture of noise.

    Args:
        network: a network or a name; see `apt_vit.classifier.Classifier.from_timm`.
        clip_layers: blocks with an agent; None: a quarter, a half and three quarters of the depth.
        pretrained: of a name: with timm's trained weights.
        seed: of the agents.

    Returns:
        The network, the way of pictures to it, and names of its classes, if they are known.

    Raises:
        UserError: timm has no such network, or one that computes something else than ours.
    """
    module = _created(network, pretrained=pretrained) if isinstance(network, str) else network
    where = network if isinstance(network, str) else type(network).__name__
    weights = Weights(path=where, kind="timm", what=WHAT, state=module.state_dict())
    typed: dict[str, Any] = {"clip_layers": clip_layers} if clip_layers is not None else {}
    try:
        typed["num_heads"] = module.get_submodule("blocks.0.attn").num_heads
        typed["img_size"] = tuple(module.get_submodule("patch_embed").img_size)  # pyright: ignore[reportArgumentType]
    except (AttributeError, TypeError) as error:
        raise UserError(f"{where}: not a plain vision transformer of timm ({error})") from error
    cfg = config_of(weights, typed)
    model = build(cfg)
    fresh_agents(model.agents.values(), torch.Generator().manual_seed(seed))
    state, unused = translate(weights.state, model.state_dict(), where=where)
    fill(model, state, where=where, what=WHAT, head="fit", unused=unused)
    _check_same(module, model, where)
    facts: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    return model.eval(), preprocess_of_timm(cfg, facts), class_names_of(weights, cfg)


def _created(name: str, *, pretrained: bool) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # timm and the Hub's client have many ways to say no
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"timm:{name}: not to be had from timm: {reason}") from error


@torch.no_grad()
def _check_same(theirs: nn.Module, ours: VisionTransformer, where: str) -> None:
    """Both give the same logits, which averaged tokens or another activation would change.

    Raises:
        UserError: they do not.
    """
    first = next(theirs.parameters())
    x = torch.randn(1, 3, *ours.cfg.img_size, generator=torch.Generator().manual_seed(0))
    with evaluating(theirs), evaluating(ours):
        wanted, found = theirs(x.to(first)).float().cpu(), ours(x)
    scale = max(1.0, float(wanted.abs().max()))
    if wanted.shape != found.shape or float((wanted - found).abs().max()) > CLOSE * scale:
        raise UserError(
            f"{where}: computes something else than this network (averaged tokens, another activation or "
            "layer norm), expected a plain vision transformer of timm, such as vit_base_patch16_224"
        )
