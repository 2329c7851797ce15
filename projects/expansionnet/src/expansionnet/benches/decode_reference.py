"""The original's way to encode and to decode, written down plainly: what the benchmark's rows compare with.

The encoder runs once; at every step the decoder reads all sentences from their start, with the visual tokens
repeated for every beam, masks made by loops over the batch, and keys and values of the attention made anew.
Dropouts are in their places, for the rows of training.

# B images, K beams, N = B * K, L words, S visual tokens, D width, P and E expansion vectors
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expansionnet.decoding import Captions
from expansionnet.model import ExpansionNet
from expansionnet.model.attention import HIDDEN, CrossAttention
from expansionnet.model.dynamic import DynamicExpansion
from expansionnet.model.layers import DecoderLayer, EncoderLayer, FeedForward
from expansionnet.model.static import StaticExpansion

ENDED = -999.0
"""Log-probability of the continuations of an ended beam that must not be chosen."""


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    """As torch computes it: ours may go another way to oneDNN."""
    return F.linear(x, module.weight, module.bias)


# --- masks ---


def pad_mask_plain(rows: int, columns: int, pad_rows: Sequence[int], pad_columns: Sequence[int]) -> Tensor:
    """1 where visible, (B, R, C): not in the padded rows and columns at the end."""
    mask = torch.ones(len(pad_rows), rows, columns, dtype=torch.int8)
    for i, (row, column) in enumerate(zip(pad_rows, pad_columns, strict=True)):
        mask[i, :, columns - column :] = 0
        mask[i, rows - row :, :] = 0
    return mask


def causal_mask_plain(length: int, pads: Sequence[int]) -> Tensor:
    """1 where visible, (B, L, L): not later, and not in the padded rows and columns at the end."""
    mask = torch.tril(torch.ones(length, length, dtype=torch.int8)).repeat(len(pads), 1, 1)
    for i, pad in enumerate(pads):
        mask[i, :, length - pad :] = 0
        mask[i, length - pad :, :] = 0
    return mask


# --- the network ---


def encode_plain(model: ExpansionNet, x: Tensor, pads: Sequence[int]) -> Tensor:
    """Visual tokens (B, S, F) as the decoder reads them, (B, S, D)."""
    x = _drop(model.enc_input_drop, _linear(model.input_linear, x.float()))
    vectors = sum(model.cfg.num_exp_enc_list)
    mask = pad_mask_plain(vectors, x.shape[1], [0] * len(x), pads)
    outputs = []
    for layer in model.encoders:
        assert isinstance(layer, EncoderLayer)
        x = x + _drop(layer.drop_1, _static_plain(layer.stc_exp, layer.norm_1(x), mask))
        x = x + _drop(layer.drop_2, _feed_forward_plain(layer.ff, layer.norm_2(x)))
        outputs.append(x)
    joined = _linear(model.enc_reduce_group, torch.cat(outputs, dim=-1))
    return model.enc_reduce_norm(x + _drop(model.enc_reduce_drop, joined))


def decode_plain(
    model: ExpansionNet, encoded: Tensor, enc_pads: Sequence[int], tokens: Tensor, pads: Sequence[int]
) -> Tensor:
    """Log-probabilities (N, L, V) of the words after the words (N, L), given visual tokens (N, S, D)."""
    length = tokens.shape[1]
    y = _drop(model.dec_input_drop, model.out_embedder(tokens)) * math.sqrt(model.cfg.model_dim)
    y = y + model.pos_encoder(torch.arange(length).repeat(len(tokens), 1))
    mask = causal_mask_plain(length, pads)
    cross = pad_mask_plain(length, encoded.shape[1], pads, enc_pads)
    outputs = []
    for layer in model.decoders:
        assert isinstance(layer, DecoderLayer)
        y = y + _drop(layer.drop_1, _dynamic_plain(layer.dyn_exp, layer.norm_1(y), mask))
        y = y + _drop(layer.drop_2, _attention_plain(layer.mha, layer.norm_2(y), encoded, cross))
        y = y + _drop(layer.drop_3, _feed_forward_plain(layer.ff, layer.norm_3(y)))
        outputs.append(y)
    joined = _linear(model.dec_reduce_group, torch.cat(outputs, dim=-1))
    y = model.dec_reduce_norm(y + _drop(model.dec_reduce_drop, joined))
    return F.log_softmax(_linear(model.vocab_linear, y), dim=-1)


def _drop(dropout: nn.Dropout, x: Tensor) -> Tensor:
    return F.dropout(x, dropout.p, dropout.training)


def _feed_forward_plain(ff: FeedForward, x: Tensor) -> Tensor:
    return _linear(ff.linear_2, _drop(ff.drop, torch.relu(_linear(ff.linear_1, x))))


def _static_plain(block: StaticExpansion, x: Tensor, mask: Tensor) -> Tensor:
    batch, width = len(x), x.shape[-1]
    query = block.query_exp_vectors.weight.repeat(batch, 1, 1)  # (B, P, D)
    bias = block.bias_exp_vectors.weight.repeat(batch, 1, 1)  # (B, P, D)
    z = _drop(
        block.drop_scores, query @ _linear(block.key_embed, x).transpose(1, 2) / math.sqrt(width)
    )  # (B, P, S)

    def expand(signed: Tensor, values: Tensor) -> Tensor:
        forward = torch.relu(signed).masked_fill(mask == 0, 0.0)
        forward = forward / (forward.sum(dim=-1, keepdim=True) + block.eps)
        return forward @ values + bias  # (B, P, D)

    def contract(signed: Tensor, expanded: Tensor) -> Tensor:
        backward = torch.relu(signed).transpose(1, 2)  # (B, S, P)
        groups = [
            part / (part.sum(dim=-1, keepdim=True) + block.eps) for part in backward.split(block.groups, -1)
        ]
        return torch.cat(groups, dim=-1) @ expanded / len(block.groups)

    a = _drop(block.drop_a, expand(z, _linear(block.class_a_embed, x)))
    b = _drop(block.drop_b, expand(-z, _linear(block.class_b_embed, x)))
    a, b = _drop(block.drop_mixed_a, contract(z, a)), _drop(block.drop_mixed_b, contract(-z, b))
    share = torch.sigmoid(_linear(block.selector_embed, x))
    return share * a + (1 - share) * b


def _dynamic_plain(block: DynamicExpansion, x: Tensor, mask: Tensor) -> Tensor:
    batch, length, width = x.shape
    vectors = block.vectors
    condition = _linear(block.cond_embed, x).unsqueeze(2)  # (N, L, 1, D)
    query = (block.query_exp_vectors.weight + condition).view(batch, length * vectors, width)
    bias = (block.bias_exp_vectors.weight + condition).view(batch, length * vectors, width)
    z = _drop(
        block.drop_scores, query @ _linear(block.key_linear, x).transpose(1, 2) / math.sqrt(width)
    )  # (N, L*E, L)
    down = mask.unsqueeze(2).expand(-1, -1, vectors, -1).reshape(batch, length * vectors, length)
    across = mask.unsqueeze(3).expand(-1, -1, -1, vectors).reshape(batch, length, length * vectors)

    def expand(signed: Tensor, values: Tensor) -> Tensor:
        forward = torch.relu(signed).masked_fill(down == 0, 0.0)
        return forward / (forward.sum(dim=-1, keepdim=True) + block.eps) @ values  # (N, L*E, D)

    def contract(signed: Tensor, expanded: Tensor) -> Tensor:
        backward = torch.relu(signed).transpose(1, 2).masked_fill(across == 0, 0.0)
        return backward / (backward.sum(dim=-1, keepdim=True) + block.eps) @ expanded  # (N, L, D)

    a = _drop(block.drop_a, expand(z, _linear(block.class_a_embed, x))) + bias
    b = _drop(block.drop_b, expand(-z, _linear(block.class_b_embed, x))) + bias
    a, b = _drop(block.drop_mixed_a, contract(z, a)), _drop(block.drop_mixed_b, contract(-z, b))
    share = torch.sigmoid(_linear(block.selector_embed, x))
    return share * a + (1 - share) * b


def _attention_plain(mha: CrossAttention, x: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
    def split(y: Tensor) -> Tensor:
        return y.view(len(y), -1, mha.heads, y.shape[-1] // mha.heads).transpose(1, 2)  # (N, H, L, D/H)

    query, key, value = (
        split(_linear(mha.Wq, x)),
        split(_linear(mha.Wk, encoded)),
        split(_linear(mha.Wv, encoded)),
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    scores = scores.masked_fill(mask.unsqueeze(1) == 0, HIDDEN)
    mixed = torch.softmax(scores, dim=-1) @ value
    return _linear(mha.out_linear, mixed.transpose(1, 2).reshape(x.shape))


# --- beam search ---


def beam_search_plain(
    model: ExpansionNet,
    x: Tensor,
    *,
    beam_size: int,
    max_len: int,
    sos: int,
    eos: int,
    outputs: int = 1,
    enc_pads: Sequence[int] | None = None,
) -> Captions:
    """The original's beam search; arguments as of `expansionnet.decoding.beam_search`."""
    images = len(x)
    pads = [0] * images if enc_pads is None else list(enc_pads)
    encoded = encode_plain(model, x, pads)
    tokens = torch.full((images, 1), sos)
    first = decode_plain(model, encoded, pads, tokens, [0] * images)[:, -1]
    values, index = first.topk(beam_size, dim=-1)  # (B, K)
    tokens = torch.stack([torch.full_like(index, sos), index], dim=-1)  # (B, K, t)
    history = torch.stack([torch.zeros_like(values), values], dim=-1)  # (B, K, t)
    lengths = torch.full((images, beam_size), 2)
    encoded = encoded.repeat_interleave(beam_size, dim=0)
    pads = [pad for pad in pads for _ in range(beam_size)]
    for time in range(2, max_len):
        padded = (time - lengths).flatten().tolist()
        log_probs = decode_plain(model, encoded, pads, tokens.flatten(0, 1), padded)[:, -1]
        ended = (tokens == eos).any(dim=-1)  # (B, K)
        values, index = log_probs.view(images, beam_size, -1).topk(beam_size, dim=-1)  # (B, K, K)
        values[ended] = torch.tensor([0.0] + [ENDED] * (beam_size - 1))
        totals = history.sum(dim=-1, keepdim=True) + values
        chosen = totals.flatten(1).topk(beam_size, dim=-1).indices  # (B, K)
        parent = chosen // beam_size
        past = parent.unsqueeze(2).expand(-1, -1, time)
        value, token = (pair.flatten(1).gather(1, chosen).unsqueeze(2) for pair in (values, index))
        tokens = torch.cat([tokens.gather(1, past), token], dim=2)
        history = torch.cat([history.gather(1, past), value], dim=2)
        lengths = lengths.gather(1, parent) + (~ended.gather(1, parent)).long()
        if bool((lengths < time + 1).all()):
            break
    means, order = (history.sum(dim=-1) / lengths).topk(beam_size, dim=-1)
    means, order = means[:, :outputs], order[:, :outputs]
    lengths = lengths.gather(1, order)
    past = order.unsqueeze(2).expand(-1, -1, tokens.shape[2])
    tokens, history = tokens.gather(1, past), history.gather(1, past)
    after = torch.arange(tokens.shape[2]) >= lengths.unsqueeze(2)
    rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
    return Captions(
        tokens=[[ids[:n] for ids, n in zip(image, many, strict=True)] for image, many in rows],
        log_probs=history.masked_fill(after, 0.0)[:, :, : int(lengths.max())],
        mean_log_prob=means.double(),
    )
