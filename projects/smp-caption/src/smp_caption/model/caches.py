"""Incremental decoding of the transformers: a step costs what is new in it.

Keys and values of the image are made once an image and shared by all its beams; those of the tokens so far
grow by one a step. A depth has a cache of its own (``exact``), or shares it with the depths whose layer it
shares (``mixed``, the original's ACORT, whose scores depend on it), or none (the original's pruned relation
transformer, which sees the newest token alone).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunelab.decode import State
from smp_caption.model.attention import attend, split_heads

if TYPE_CHECKING:
    from smp_caption.model.transformer import DecoderLayer, Encoded, TransformerNetwork

# B images, R rows (beams) an image, N = B * R, T tokens so far, S regions, H heads, W width of a head
# D width


def begin(network: TransformerNetwork, encoded: Encoded) -> State:
    """The state before the first token.

    Args:
        network: the captioner.
        encoded: its images.

    Returns:
        A state of one row an image. ``per_image``: ``bias`` (B, 1, 1, S) or None, and ``source``, keys and
        values (B, H, S, W) of each distinct decoder layer. ``per_beam``: ``time``, the number of tokens so
        far, and ``caches``, keys and values (N, H, T, W).
    """
    order, layers = network.body.decoder.order, network.body.decoder_layers
    distinct = [layers[order.index(place)] for place in range(max(order) + 1)]
    source = [layer.src_attn.keys_values(encoded.memory) for layer in distinct]
    return State(per_image={"source": source, "bias": encoded.bias}, per_beam={"time": 0, "caches": {}})


def step(network: TransformerNetwork, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """One step: newest tokens (N,) to log-probabilities (N, V) and the next state."""
    body, kept = network.body, state.per_image
    time: int = state.per_beam["time"]
    caches: dict[int, tuple[Tensor, Tensor]] = dict(state.per_beam["caches"])
    words, positions = body.tgt_embed
    x = positions(words(tokens).unsqueeze(1), time)  # (N, 1, D)
    for depth, (place, layer) in enumerate(zip(body.decoder.order, body.decoder_layers, strict=True)):
        key = {"exact": depth, "mixed": place, "none": None}[network.caching]
        x = _layer(layer, x, caches, key, kept["source"][place], kept["bias"])
    log_probs = body.generator(body.decoder.norm(x)).squeeze(1)
    return log_probs, State(per_image=kept, per_beam={"time": time + 1, "caches": caches})


def _layer(
    layer: DecoderLayer,
    x: Tensor,
    caches: dict[int, tuple[Tensor, Tensor]],
    place: int | None,
    source: tuple[Tensor, Tensor],
    bias: Any,
) -> Tensor:
    """A decoder layer for the newest token x (N, 1, D); its cache in ``caches`` grows."""

    def remember(y: Tensor) -> Tensor:
        query, key, value = layer.self_attn.own(y)
        if place is not None:
            if place in caches:
                key, value = (
                    torch.cat(pair, dim=2) for pair in zip(caches[place], (key, value), strict=True)
                )
            caches[place] = (key, value)
        return layer.self_attn.mixed(attend(query, key, value, None, layer.self_attn.dropout))

    def look(y: Tensor) -> Tensor:
        rows = y.view(len(source[0]), -1, y.shape[-1])  # (B, R, D)
        query = split_heads(layer.src_attn.linears[0](rows), layer.src_attn.heads)
        found = attend(query, *source, bias, layer.src_attn.dropout)
        return layer.src_attn.mixed(found).view_as(y)

    x = layer.sublayer[0](x, remember)
    x = layer.sublayer[1](x, look)
    return layer.sublayer[2](x, layer.feed_forward)
