"""The transformers the plain way: for tests and benchmarks to compare with.

Relations of boxes embedded anew in every layer, a linear map for each head's weight of them, the image
repeated for every caption and beam, and decoding that reads the whole sentence again for each new token.
Works on a built `TransformerNetwork`; its masked layers are called, each of which makes its weights anew.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from prunelab.decode import State
from smp_caption.model.attention import Attention, BoxAttention
from smp_caption.model.layers import FORBIDDEN, box_attention, box_embedding, box_relations
from smp_caption.model.network import Inputs
from smp_caption.model.relation import RelationTransformer
from smp_caption.model.transformer import Transformer, TransformerNetwork

# B images, S regions, N captions or beams, T tokens, V vocabulary, H heads, D width


def _heads(attention: Attention, linear: nn.Module, x: Tensor) -> Tensor:
    """A projection of x (N, T, D) by heads: (N, H, T, D / H)."""
    return linear(x).view(len(x), -1, attention.heads, x.shape[-1] // attention.heads).transpose(1, 2)


def _project(attention: Attention, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    maps = list(attention.linears[:-1])
    match attention.share:
        case "kv":
            q, k, v = maps[0], maps[1], None
        case "qk":
            q, k, v = maps[0], maps[0], maps[1]
        case _:
            q, k, v = maps
    key = _heads(attention, k, memory)
    return _heads(attention, q, query), key, key if v is None else _heads(attention, v, memory)


def _attend(attention: Attention, query: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of query (N, T, D) to memory (N, S, D); mask broadcastable to (N, H, T, S), 0 is hidden."""
    q, k, v = _project(attention, query, memory)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask == 0, FORBIDDEN)
    found = attention.dropout(scores.softmax(dim=-1)) @ v
    return attention.linears[-1](found.transpose(1, 2).reshape(query.shape))


def _attend_boxes(
    attention: BoxAttention, x: Tensor, boxes: Tensor, mask: Tensor | None, raw: bool
) -> Tensor:
    """Attention of regions x (B, S, D) to each other, with boxes (B, S, 4)."""
    relations = box_relations(boxes) if raw else box_embedding(boxes)
    geometry = torch.cat([linear(relations) for linear in attention.WGs], dim=-1).relu()  # (B, S, S, H)
    q, k, v = _project(attention, x, x)
    found, _ = box_attention(q, k, v, geometry.permute(0, 3, 1, 2), mask, attention.dropout)
    return attention.linears[-1](found.transpose(1, 2).reshape(x.shape))


def _look_around(
    model: TransformerNetwork, attention: Attention, boxes: Tensor | None, mask: Tensor | None, x: Tensor
) -> Tensor:
    """The encoder's self-attention."""
    if boxes is None or not isinstance(attention, BoxAttention):
        return _attend(attention, x, x, mask)
    return _attend_boxes(attention, x, boxes, mask, model.cfg.no_box_trigonometric_embedding)


def encode_plain(model: TransformerNetwork, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Memory (B, S, D) and mask (B, S) or None."""
    masks, boxes = inputs.att_masks, inputs.boxes
    if isinstance(model, Transformer):
        x = model.core.src_embed(inputs.att_feats)
    else:
        assert isinstance(model, RelationTransformer)
        assert boxes is not None
        feats = inputs.att_feats
        if masks is not None:
            longest = int(masks.sum(dim=1).max())
            feats, masks, boxes = feats[:, :longest], masks[:, :longest], boxes[:, :longest]
        x = model.att_embed(feats)
        if masks is not None:
            x = x * masks.unsqueeze(-1)
    hidden = None if masks is None else masks[:, None, None]
    for layer in model.body.encoder_layers:
        x = layer.sublayer[0](x, partial(_look_around, model, layer.self_attn, boxes, hidden))
        x = layer.sublayer[1](x, layer.feed_forward)
    return model.body.encoder.norm(x), masks


def _decode(
    model: TransformerNetwork, memory: Tensor, masks: Tensor | None, seqs: Tensor, seen: Tensor
) -> Tensor:
    """The decoder's output (N, T, D) for tokens (N, T) and memory (N, S, D)."""
    body = model.body
    hidden = None if masks is None else masks[:, None, None]
    x = body.tgt_embed(seqs)
    for layer in body.decoder_layers:
        own, source = layer.self_attn, layer.src_attn
        x = layer.sublayer[0](x, lambda y, own=own: _attend(own, y, y, seen))
        x = layer.sublayer[1](x, lambda y, source=source: _attend(source, y, memory, hidden))
        x = layer.sublayer[2](x, layer.feed_forward)
    return body.decoder.norm(x)


def _repeat(memory: Tensor, masks: Tensor | None, rows: int) -> tuple[Tensor, Tensor | None]:
    times = rows // len(memory)
    repeated = None if masks is None else masks.repeat_interleave(times, dim=0)
    return memory.repeat_interleave(times, dim=0), repeated


def teach_plain(model: TransformerNetwork, inputs: Inputs, seqs: Tensor) -> Tensor:
    """Teacher forcing over all columns of seqs (N, T) but the last: (N, T - 1, V)."""
    seqs = seqs[:, :-1]
    memory, masks = _repeat(*encode_plain(model, inputs), len(seqs))
    length = seqs.shape[1]
    causal = torch.ones(length, length, device=seqs.device).tril()
    seen = (seqs != model.cfg.pad_token_id)[:, None, None] * causal
    return model.body.generator(_decode(model, memory, masks, seqs, seen))


def begin_plain(model: TransformerNetwork, inputs: Inputs) -> State:
    """The decoding state for `step_plain`."""
    memory, masks = encode_plain(model, inputs)
    sentence = torch.empty(len(memory), 0, dtype=torch.int64, device=memory.device)
    return State(per_image=(memory, masks), per_beam=sentence)


def step_plain(model: TransformerNetwork, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """One decoding step, which reads each row's whole sentence; what a search feeds is never padding."""
    sentence = torch.cat([state.per_beam, tokens.unsqueeze(1)], dim=1)  # (N, T)
    memory, masks = state.per_image
    memory, masks = _repeat(memory, masks, len(tokens))
    length = sentence.shape[1]
    seen = torch.ones(length, length, device=tokens.device).tril()
    last = _decode(model, memory, masks, sentence, seen)[:, -1]
    return model.body.generator(last), State(per_image=state.per_image, per_beam=sentence)
