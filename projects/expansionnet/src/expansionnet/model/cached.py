"""Exact incremental decoding: a step costs what is new in it.

The dynamic expansion of a new token looks back at every earlier token, through E queries and E expanded
vectors for each. Both are sums, ``q[u, e] = Q[e] + C[u]``, so nothing of width D is kept for them:

* ``Z[(u, e), v] = (Q[e] . K[v] + C[u] . K[v]) / sqrt(D)``: Q K^T is kept, C K^T comes from kept C and K;
* with F the normalised forward weights and G those of the new token's backward row,
  ``A' = sum_v (sum_(u,e) G[u,e] F[u,e,v]) Va[v] + sum_e (sum_u G[u,e]) b[e] + sum_u (sum_e G[u,e]) C[u]``.

Beams of an image share their beginnings, so the image keeps one *tree* of tokens, to which every step adds
one node for each beam, and a beam is the *path* of its tokens through it: reordering beams moves nodes'
numbers alone. Where a product over all nodes is cheaper than copying those of a path, other nodes weigh 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expansionnet.model.attention import HIDDEN
from expansionnet.model.dynamic import DynamicExpansion
from expansionnet.model.layers import DecoderLayer
from prunelab import onednn
from prunelab.decode import State, StepFunction

if TYPE_CHECKING:
    from expansionnet.model.body import ExpansionNet

# B images, R rows (beams) an image, N = B * R, T tokens of a row so far, M nodes of an image's tree
# S visual tokens, D width, H heads, E expansion vectors of a token, V vocabulary

Map: TypeAlias = Callable[[Tensor], Tensor]
"""A linear map."""


def decoder_layers(model: ExpansionNet) -> list[DecoderLayer]:
    """The decoder's layers, by their type."""
    return [layer for layer in model.decoders if isinstance(layer, DecoderLayer)]


@torch.no_grad()
def _empty_tree(model: ExpansionNet, encoded: Tensor) -> dict[str, Tensor]:
    """The tree of one layer before the first token; dimension 0 is B."""
    images, width, expansions = encoded.shape[0], model.cfg.model_dim, model.cfg.num_exp_dec
    vectors = encoded.new_zeros(images, 0, width)
    return {
        "key": vectors,  # (B, M, D)
        "cond": vectors,  # (B, M, D)
        "class_a": vectors,  # (B, M, D)
        "class_b": vectors,  # (B, M, D)
        "query_key": encoded.new_zeros(images, 0, expansions),  # (B, M, E)
        "forward": encoded.new_zeros(images, 2, 0, expansions, 0),  # (B, 2, M, E, T): F_a, F_b of each node
    }


def begin(model: ExpansionNet, encoded: Tensor, enc_pads: Tensor | None = None) -> State:
    """Start decoding: cross-attention keys and values, once an image.

    Args:
        model: the captioner; dropout plays no part in incremental decoding, whatever its mode.
        encoded: (B, S, D), what `ExpansionNet.encode` returned.
        enc_pads: (B,) int64, padded visual tokens at the end of each image; None: there are none.

    Returns:
        A state of one row an image, without any token yet.
    """
    images, visible = encoded.shape[:2]
    layers = []
    for layer in decoder_layers(model):
        key, value = (
            layer.mha.split(_map(linear)(encoded)).contiguous()  # (B, H, S, D/H)
            for linear in (layer.mha.Wk, layer.mha.Wv)
        )
        layers.append({"key": key, "value": value, "tree": _empty_tree(model, encoded)})
    hidden = None
    if enc_pads is not None:
        place = torch.arange(visible, device=encoded.device)
        hidden = (place >= visible - enc_pads.unsqueeze(1)).view(images, 1, 1, visible)
    path = torch.zeros(images, 0, dtype=torch.int64, device=encoded.device)
    return State(per_image={"layers": layers, "hidden": hidden}, per_beam=path)


@dataclass(frozen=True, kw_only=True)
class LayerMaps:
    """Linear maps of a decoder layer, each from (N, D)."""

    expansion: Callable[[Tensor], Sequence[Tensor]]
    """To key, condition, class a, class b and selector, (N, D) each."""
    query: Map
    """To the query of the attention."""
    mixed: Map
    """What the attention found, to its output."""
    hidden: Map
    """To the hidden values of the feed-forward block."""
    output: Map
    """From those to its output."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Linear maps of a step."""

    layers: Sequence[LayerMaps]
    """Of each decoder layer."""
    reduce: Map
    """From all layers' outputs (N, layers * D)."""
    words: Map
    """To logits."""


def plain_maps(model: ExpansionNet) -> Maps:
    """The captioner's linear maps as they are."""
    return Maps(
        layers=[_layer_maps(layer) for layer in decoder_layers(model)],
        reduce=_map(model.dec_reduce_group),
        words=_map(model.vocab_linear),
    )


def expansion_linears(block: DynamicExpansion) -> tuple[nn.Linear, ...]:
    """A block's linear maps in the order of `LayerMaps.expansion`."""
    return (
        block.key_linear,
        block.cond_embed,
        block.class_a_embed,
        block.class_b_embed,
        block.selector_embed,
    )


def _layer_maps(layer: DecoderLayer) -> LayerMaps:
    expansion = [_map(linear) for linear in expansion_linears(layer.dyn_exp)]
    return LayerMaps(
        expansion=lambda x: [each(x) for each in expansion],
        query=_map(layer.mha.Wq),
        mixed=_map(layer.mha.out_linear),
        hidden=_map(layer.ff.linear_1),
        output=_map(layer.ff.linear_2),
    )


def _map(linear: nn.Linear) -> Map:
    return lambda x: onednn.linear(x, linear.weight, linear.bias)


def stepper(model: ExpansionNet, maps: Maps | None = None) -> StepFunction:
    """The step function of a captioner, for states that `begin` made.

    Log-probabilities are those of a decoder that reads the whole sentence without dropout, but for rounding.

    Args:
        model: the captioner; dropout plays no part, whatever its mode.
        maps: its linear maps in another form; None: as they are.
    """
    maps = maps or plain_maps(model)

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        path = state.per_beam
        time, layers = path.shape[1], state.per_image["layers"]
        images = layers[0]["key"].shape[0]
        nodes = layers[0]["tree"]["key"].shape[1]
        rows = tokens.shape[0] // images  # `len` would fix the number in an exported graph
        added = torch.arange(nodes, nodes + rows, device=path.device).repeat(images)
        path = torch.cat([path, added.unsqueeze(1)], dim=1)  # (N, T)
        x = model.out_embedder.embed(tokens) * math.sqrt(model.cfg.model_dim) + model.pos_encoder.weight[time]
        outputs, after = [], []
        for layer, its, kept in zip(decoder_layers(model), maps.layers, layers, strict=True):
            found, tree = _expand(layer.dyn_exp, its.expansion(layer.norm_1(x)), kept["tree"], path, rows)
            x = x + found
            x = x + its.mixed(_attend(its.query(layer.norm_2(x)), kept, state.per_image["hidden"]))
            x = x + its.output(F.relu(its.hidden(layer.norm_3(x))))
            outputs.append(x)
            after.append({**kept, "tree": tree})
        x = model.dec_reduce_norm(x + maps.reduce(torch.cat(outputs, dim=-1)))
        log_probs = maps.words(x).log_softmax(dim=-1)
        return log_probs, State(per_image={**state.per_image, "layers": after}, per_beam=path)

    return step


def _attend(query: Tensor, kept: Mapping[str, Tensor], hidden: Tensor | None) -> Tensor:
    """What queries (N, D) find at the rows' image, heads next to each other (N, D)."""
    images, heads, _, width = kept["key"].shape
    split = query.view(images, -1, heads, width).transpose(1, 2)  # (B, H, R, D/H)
    scores = split @ kept["key"].transpose(2, 3) / math.sqrt(width)  # (B, H, R, S)
    if hidden is not None:
        scores = scores.masked_fill(hidden, HIDDEN)
    mixed = scores.softmax(dim=-1) @ kept["value"]
    return mixed.transpose(1, 2).reshape(query.shape)


def _expand(
    block: DynamicExpansion, parts: Sequence[Tensor], tree: Mapping[str, Tensor], path: Tensor, rows: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The dynamic expansion of the newest token.

    Args:
        block: a ``dyn_exp`` module.
        parts: what `LayerMaps.expansion` made of the normed token, (N, D) each.
        tree: of this layer, without the new nodes.
        path: (N, T), the new node last.
        rows: R.

    Returns:
        The block's output (N, D) and the tree with the new nodes.
    """
    width, time, expansions = parts[0].shape[1], path.shape[1], block.vectors
    scale = 1 / math.sqrt(width)
    key, cond, class_a, class_b, selector = (part.view(-1, rows, width) for part in parts)
    query_key = key @ block.query_exp_vectors.weight.t()  # (B, R, E)
    grown = {"key": key, "cond": cond, "class_a": class_a, "class_b": class_b, "query_key": query_key}
    grown = {name: torch.cat([tree[name], new], dim=1) for name, new in grown.items()}
    images, nodes = grown["key"].shape[:2]
    way = path.view(images, rows, time)

    # What the new token's queries make of all tokens before it, and of itself.
    along = grown["query_key"].gather(1, way.flatten(1).unsqueeze(2).expand(-1, -1, expansions))
    along = along.view(images, rows, time, expansions).transpose(2, 3)  # (B, R, E, T)
    seen = (cond @ grown["key"].transpose(1, 2)).gather(2, way)  # (B, R, T)
    forward = _weights((along + seen.unsqueeze(2)) * scale, (-1,), block.eps)  # (B, 2, R, E, T)
    grown["forward"] = torch.cat([F.pad(tree["forward"], (0, 1)), forward], dim=2)

    # What the new token takes of every token's expanded vectors.
    asked = (key @ grown["cond"].transpose(1, 2)).gather(2, way)  # (B, R, T)
    backward = _weights((query_key.unsqueeze(3) + asked.unsqueeze(2)) * scale, (-2, -1), block.eps)
    spread = key.new_zeros(images, 2, rows, expansions, nodes)
    spread = spread.scatter(4, way.view(images, 1, rows, 1, time).expand_as(backward), backward)
    flat = spread.transpose(3, 4).reshape(images, 2, rows, nodes * expansions)  # (B, 2, R, M * E)
    mixed = flat @ grown["forward"].reshape(images, 2, nodes * expansions, time)  # (B, 2, R, T)
    mixed = key.new_zeros(images, 2, rows, nodes).scatter(
        3, way.unsqueeze(1).expand(-1, 2, -1, -1), mixed
    )  # (B, 2, R, M)
    of_cond = spread.sum(dim=3)  # (B, 2, R, M)
    of_bias = backward.sum(dim=4)  # (B, 2, R, E)
    common = of_cond @ grown["cond"].unsqueeze(1) + of_bias @ block.bias_exp_vectors.weight
    a = common[:, 0] + mixed[:, 0] @ grown["class_a"]
    b = common[:, 1] + mixed[:, 1] @ grown["class_b"]
    return torch.lerp(b, a, torch.sigmoid(selector)).view(-1, width), grown


def _weights(z: Tensor, over: tuple[int, ...], eps: float) -> Tensor:
    """Positive and negative part of z (B, R, ...), each divided by its sum: (B, 2, R, ...)."""
    parts = torch.stack([z.relu(), (-z).relu()], dim=1)
    return parts / (parts.sum(dim=over, keepdim=True) + eps)
