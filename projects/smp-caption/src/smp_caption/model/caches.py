"""Incremental decoding of the transformers: a step costs what is new in it.

Keys and values of the image are made once an image and shared by all its beams; those of the tokens so far
grow by one a step. A depth has a cache of its own (``exact``), or shares it with the depths whose layer it
shares (``mixed``, the original's ACORT, whose scores depend on it), or none (``none``, the original's pruned
relation transformer, which sees the newest token alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prunelab import onednn
from prunelab.decode import State
from smp_caption.model.attention import Map, attend
from smp_caption.model.layers import effective

if TYPE_CHECKING:
    from smp_caption.model.transformer import DecoderLayer, Encoded, TransformerNetwork

# B images, R rows (beams) an image, N = B * R, T tokens so far, S regions, H heads, W width of a head
# D = H * W model width

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMaps:
    """Linear maps of a decoder layer, in the order of its modules."""

    self_attn: Sequence[Map]
    src_attn: Sequence[Map]
    hidden: Map
    """From (N, D) to the hidden values of the feed-forward part."""
    output: Map
    """From those to (N, D)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """Linear maps of a step."""

    layers: Sequence[LayerMaps]
    """Of each distinct decoder layer."""
    words: Map
    """To logits."""


def _maps(network: TransformerNetwork, layers: Sequence[DecoderLayer]) -> Maps:
    """Linear maps whose weights are taken once for all steps, unless each call has masks of its own."""
    once = not network.redraws()

    def of(linear: nn.Module) -> Map:
        if not once:
            return linear
        weight, bias = effective(linear), linear.get_parameter("bias")
        return lambda x: onednn.linear(x, weight, bias)

    return Maps(
        layers=[
            LayerMaps(
                self_attn=[of(linear) for linear in layer.self_attn.linears],
                src_attn=[of(linear) for linear in layer.src_attn.linears],
                hidden=of(layer.feed_forward.w_1),
                output=of(layer.feed_forward.w_2),
            )
            for layer in layers
        ],
        words=of(network.body.generator.proj),
    )


def begin(network: TransformerNetwork, encoded: Encoded) -> State:
    """The state before the first token.

    Args:
        network: the captioner.
        encoded: its images.

    Returns:
        A state of one row an image. ``per_image``: ``bias`` (B, 1, 1, S) or None; ``source``, keys and values
        (B, H, S, W) of each distinct decoder layer; ``maps``. ``per_beam``: ``time``, the number of tokens so
        far, and ``caches``, keys and values (N, H, T, W).
    """
    order, layers = network.body.decoder.order, network.body.decoder_layers
    distinct = [layers[order.index(place)] for place in range(max(order) + 1)]
    maps = _maps(network, distinct)
    source = []
    for layer, its in zip(distinct, maps.layers, strict=True):
        pair = layer.src_attn.keys_values(encoded.memory, its.src_attn)
        source.append(tuple(x.contiguous() for x in layer.src_attn.split(*pair)))
    return State(
        per_image={"source": source, "bias": encoded.bias, "maps": maps}, per_beam={"time": 0, "caches": {}}
    )


def step(network: TransformerNetwork, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """One step: newest tokens (N,) to log-probabilities (N, V) and the next state."""
    body, kept = network.body, state.per_image
    time: int = state.per_beam["time"]
    caches: dict[int, Pair] = dict(state.per_beam["caches"])
    words, positions = body.tgt_embed
    x = positions(words(tokens).unsqueeze(1), time).squeeze(1)  # (N, D)
    for depth, (place, layer) in enumerate(zip(body.decoder.order, body.decoder_layers, strict=True)):
        key = {"exact": depth, "mixed": place, "none": None}[network.caching]
        newest = _Newest(layer, kept["maps"].layers[place], None if key is None else caches.get(key))
        x = newest.through(x, kept["source"][place], kept["bias"])
        if key is not None:
            caches[key] = newest.known
    log_probs = kept["maps"].words(body.decoder.norm(x)).log_softmax(dim=-1)
    return log_probs, State(per_image=kept, per_beam={"time": time + 1, "caches": caches})


class _Newest:
    """A decoder layer that the newest tokens go through.

    Args:
        layer: the layer.
        maps: its linear maps.
        past: keys and values (N, H, T, W) of earlier tokens; None: there are none.
    """

    def __init__(self, layer: DecoderLayer, maps: LayerMaps, past: Pair | None) -> None:
        self.layer, self.maps, self.past = layer, maps, past
        self.known: Pair

    def through(self, x: Tensor, source: Pair, bias: Tensor | None) -> Tensor:
        """The layer's output (N, D) for x (N, D); afterwards ``known`` holds the new token, too."""
        x = self.layer.sublayer[0](x, self._recall)
        x = self.layer.sublayer[1](x, lambda y: self._look(y, source, bias))
        return self.layer.sublayer[2](x, self._feed)

    def _recall(self, x: Tensor) -> Tensor:
        attention = self.layer.self_attn
        query, key, value = (
            y.view(len(x), attention.heads, 1, -1) for y in attention.own(x, self.maps.self_attn)
        )
        if self.past is not None:
            key = torch.cat([self.past[0], key], dim=2)
            value = key if attention.share == "kv" else torch.cat([self.past[1], value], dim=2)
        self.known = (key, value)
        found = attend(query, key, value, None, attention.dropout)  # (N, H, 1, W)
        return self.maps.self_attn[-1](found.view_as(x))

    def _look(self, x: Tensor, source: Pair, bias: Tensor | None) -> Tensor:
        attention, (key, value) = self.layer.src_attn, source
        images, heads, _, width = key.shape
        query = self.maps.src_attn[0](x).view(images, -1, heads, width).transpose(1, 2)  # (B, H, R, W)
        found = attend(query, key, value, bias, attention.dropout)
        return self.maps.src_attn[-1](found.transpose(1, 2).reshape(x.shape))

    def _feed(self, x: Tensor) -> Tensor:
        return self.maps.output(self.layer.feed_forward.dropout(self.maps.hidden(x).relu()))
