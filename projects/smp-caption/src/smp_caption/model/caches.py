"""Incremental decoding of the transformers: a step costs what is new in it.

Keys and values of the image are made once an image and shared by all its beams; those of the tokens so far
grow by one a step. A depth has a cache of its own (``exact``), or shares it with the depths whose layer it
shares (``mixed``, the original's ACORT, whose scores depend on it), or none (``none``, the original's pruned
relation transformer, which sees the newest token alone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from prunelab import onednn
from prunelab.decode import State
from smp_caption.model.attention import Map, attend
from smp_caption.model.blocks import Body, DecoderLayer, Encoded
from smp_caption.model.layers import effective

# B images, R rows (beams) an image, N = B * R, T tokens so far, S regions, H heads, W width of a head
# D = H * W model width

USUAL_ROWS = 25
"""Rows of a step that packed weights are sorted for: five images' beams."""

Caching = Literal["exact", "mixed", "none"]
Pair = tuple[Tensor, Tensor]
"""Keys and values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMaps:
    """Linear maps of a decoder layer, each from (N, D) unless said otherwise."""

    own: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    """To queries, keys and values of the attention among tokens."""
    own_mixed: Map
    """What that attention found, to its output."""
    source: Sequence[Map]
    """Those of the attention to the image, in the order of its modules."""
    hidden: Map
    """To the positive hidden values of the feed-forward part."""
    output: Map
    """From those to the part's output."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """Linear maps of a step."""

    layers: Sequence[LayerMaps]
    """Of each distinct decoder layer."""
    words: Map
    """To logits."""
    packed: bool = False
    """Whether they are oneDNN's, for single precision without gradients alone."""


@dataclass(eq=False)
class Kept:
    """What several searches share while weights do not change."""

    maps: Maps | None = None


def _distinct(body: Body) -> list[DecoderLayer]:
    """Each decoder layer once, in the order of their numbers."""
    order, layers = body.decoder.order, body.decoder_layers
    return [layers[order.index(place)] for place in range(max(order) + 1)]


def _maps(body: Body, of: Callable[[nn.Module], Map]) -> Maps:
    """The linear maps, each in the form that ``of`` gives it."""

    def layer_maps(layer: DecoderLayer) -> LayerMaps:
        attention, hidden = layer.self_attn, of(layer.feed_forward.w_1)
        own = [of(linear) for linear in attention.linears]
        return LayerMaps(
            own=lambda x: attention.roles([each(x) for each in own[:-1]]),
            own_mixed=own[-1],
            source=[of(linear) for linear in layer.src_attn.linears],
            hidden=lambda x: hidden(x).relu(),
            output=of(layer.feed_forward.w_2),
        )

    layers = [layer_maps(layer) for layer in _distinct(body)]
    return Maps(layers=layers, words=of(body.generator.proj))


def _called(linear: nn.Module) -> Map:
    """The layer itself, which draws or multiplies its mask at each call."""
    return linear


def _taken(linear: nn.Module) -> Map:
    """The layer with the weight that it has now."""
    weight, bias = effective(linear), linear.get_parameter("bias")
    return lambda x: onednn.linear(x, weight, bias)


def _packed(*linears: nn.Module, relu: bool = False) -> Map:
    """Layers side by side with the weights that they have now, in oneDNN's order."""
    weight = onednn.packed(torch.cat([effective(linear) for linear in linears]), USUAL_ROWS)
    bias = torch.cat([linear.get_parameter("bias") for linear in linears]).detach()
    return lambda x: onednn.mapped(x.flatten(0, -2), weight, bias, relu=relu).view(*x.shape[:-1], -1)


def _packed_maps(body: Body) -> Maps:
    """The linear maps in oneDNN's order, but those that images alone go through, once each."""

    def layer_maps(layer: DecoderLayer) -> LayerMaps:
        attention, source = layer.self_attn, layer.src_attn.linears
        *own, mixed = attention.linears
        joined = _packed(*own)
        return LayerMaps(
            own=lambda x: attention.roles(joined(x).chunk(len(own), dim=-1)),
            own_mixed=_packed(mixed),
            source=[_packed(source[0]), *map(_taken, source[1:-1]), _packed(source[-1])],
            hidden=_packed(layer.feed_forward.w_1, relu=True),
            output=_packed(layer.feed_forward.w_2),
        )

    layers = [layer_maps(layer) for layer in _distinct(body)]
    return Maps(layers=layers, words=_packed(body.generator.proj), packed=True)


def _maps_for(body: Body, memory: Tensor, kept: Kept | None, redraws: bool) -> Maps:
    """The linear maps in the form that serves a search best."""
    if redraws:
        return _maps(body, _called)
    if kept is None or not onednn.usable(memory):
        return _maps(body, _taken)
    kept.maps = kept.maps or _packed_maps(body)
    return kept.maps


def begin(body: Body, encoded: Encoded, kept: Kept | None = None, *, redraws: bool) -> State:
    """The state before the first token.

    Args:
        body: encoder and decoder of the captioner.
        encoded: its images.
        kept: what searches share; None: each makes its own.
        redraws: whether each call of a layer draws a mask of its own.

    Returns:
        A state of one row an image. ``per_image``: ``bias`` (B, 1, 1, S) or None; ``source``, keys and values
        (B, H, S, W) of each distinct decoder layer; ``maps``. ``per_beam``: ``time``, the number of tokens so
        far, and ``caches``, keys and values (N, H, T, W).
    """
    maps = _maps_for(body, encoded.memory, kept, redraws)
    source = []
    for layer, its in zip(_distinct(body), maps.layers, strict=True):
        attention = layer.src_attn
        pair = attention.keys_values(encoded.memory, its.source)
        source.append(tuple(x.contiguous() for x in attention.split(*pair)))
    return State(
        per_image={"source": source, "bias": encoded.bias, "maps": maps}, per_beam={"time": 0, "caches": {}}
    )


def step(body: Body, tokens: Tensor, state: State, caching: Caching) -> tuple[Tensor, State]:
    """One step: newest tokens (N,) to log-probabilities (N, V) and the next state.

    Layers are called where the state holds no linear maps, or none for the precision at hand.
    """
    kept = state.per_image
    time: int = state.per_beam["time"]
    caches: dict[int, Pair] = dict(state.per_beam["caches"])
    words, positions = body.tgt_embed
    x = positions(words(tokens).unsqueeze(1), time)[:, 0]  # (N, D); an exported graph cannot squeeze here
    maps: Maps | None = kept.get("maps")
    if maps is None or (maps.packed and not onednn.usable(x)):
        maps = _maps(body, _called)
    for depth, (place, layer) in enumerate(zip(body.decoder.order, body.decoder_layers, strict=True)):
        key = {"exact": depth, "mixed": place, "none": None}[caching]
        newest = _Newest(layer, maps.layers[place], None if key is None else caches.get(key))
        x = newest.through(x, kept["source"][place], kept["bias"])
        if key is not None:
            caches[key] = newest.known
    log_probs = maps.words(body.decoder.norm(x)).log_softmax(dim=-1)
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
        query, key, value = (y.unflatten(1, (attention.heads, 1, -1)) for y in self.maps.own(x))
        if self.past is not None:
            key = torch.cat([self.past[0], key], dim=2)
            value = key if attention.share == "kv" else torch.cat([self.past[1], value], dim=2)
        self.known = (key, value)
        found = attend(query, key, value, None, attention.dropout)  # (N, H, 1, W)
        return self.maps.own_mixed(found.reshape(x.shape))

    def _look(self, x: Tensor, source: Pair, bias: Tensor | None) -> Tensor:
        attention, (key, value) = self.layer.src_attn, source
        images, heads, _, width = key.shape
        query = self.maps.source[0](x).view(images, -1, heads, width).transpose(1, 2)  # (B, H, R, W)
        found = attend(query, key, value, bias, attention.dropout)
        return self.maps.source[-1](found.transpose(1, 2).reshape(x.shape))

    def _feed(self, x: Tensor) -> Tensor:
        return self.maps.output(self.layer.feed_forward.dropout(self.maps.hidden(x)))
