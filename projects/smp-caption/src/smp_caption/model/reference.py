"""The Up-Down captioner the plain way: for tests and benchmarks to compare with.

Time step by time step through the layers, image features repeated for every caption, the vocabulary
projected at each step, the last column fed. Works on a built `UpDown`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunelab.decode import State
from smp_caption.model.up_down import UpDown

# B images, S regions, K captions an image, N = B * K, T tokens, V vocabulary, R hidden units


def _encode(model: UpDown, att_feats: Tensor, att_masks: Tensor, fc_feats: Tensor) -> tuple[Tensor, ...]:
    """Embedded mean feature, regions, projected regions and mask."""
    lengths = att_masks.long().sum(1)
    longest = int(lengths.max())
    att_feats, att_masks = att_feats[:, :longest], att_masks[:, :longest]
    packed = nn.utils.rnn.pack_padded_sequence(
        att_feats, lengths.cpu(), batch_first=True, enforce_sorted=False
    )
    embedded = packed._replace(data=model.att_embed(packed.data))
    att, _ = nn.utils.rnn.pad_packed_sequence(embedded, batch_first=True)
    return model.fc_embed(fc_feats), att, model.ctx2att(att), att_masks


def _step(
    model: UpDown, tokens: Tensor, image: tuple[Tensor, ...], hidden: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    fc, att, p_att, mask = image
    (h_att, h_lang), (c_att, c_lang) = hidden
    core = model.core
    words = model.embed(tokens)
    h_att, c_att = core.att_lstm(torch.cat([h_lang, fc, words], 1), (h_att, c_att))
    query = core.attention.h2att(h_att).unsqueeze(1).expand_as(p_att)
    scores = core.attention.alpha_net(torch.tanh(p_att + query)).squeeze(2)  # (N, S)
    weight = torch.softmax(scores, dim=1) * mask
    weight = weight / weight.sum(1, keepdim=True)
    context = torch.bmm(weight.unsqueeze(1), att).squeeze(1)  # (N, R)
    h_lang, c_lang = core.lang_lstm(torch.cat([context, h_att], 1), (h_lang, c_lang))
    log_probs = torch.log_softmax(model.logit(model.dropout(h_lang)), dim=1)
    return log_probs, (torch.stack([h_att, h_lang]), torch.stack([c_att, c_lang]))


def _zeros(model: UpDown, fc: Tensor) -> tuple[Tensor, Tensor]:
    zeros = fc.new_zeros(2, len(fc), model.cfg.rnn_size)
    return zeros, zeros


def teach_plain(
    model: UpDown, att_feats: Tensor, att_masks: Tensor, fc_feats: Tensor, seqs: Tensor
) -> Tensor:
    """Teacher forcing over all T columns: (N, T, V), as ``model(..., last_column=True)``."""
    captions = len(seqs) // len(att_feats)
    image = tuple(
        x.repeat_interleave(captions, dim=0) for x in _encode(model, att_feats, att_masks, fc_feats)
    )
    hidden = _zeros(model, image[0])
    outputs = image[0].new_zeros(*seqs.shape, model.cfg.vocab_size)
    for column in range(seqs.shape[1]):
        if column >= 1 and seqs[:, column].sum() == 0:
            break
        log_probs, hidden = _step(model, seqs[:, column], image, hidden)
        outputs[:, column] = log_probs
    return outputs


def begin_plain(model: UpDown, att_feats: Tensor, att_masks: Tensor, fc_feats: Tensor) -> State:
    """The decoding state for `step_plain`; for searches that repeat ``per_image`` for every beam."""
    image = _encode(model, att_feats, att_masks, fc_feats)
    (h, _), (c, _) = _zeros(model, image[0])
    return State(per_image=image, per_beam=((h, h), (c, c)))


def step_plain(model: UpDown, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """One decoding step with as many images as rows."""
    (h_att, h_lang), (c_att, c_lang) = state.per_beam
    hidden = (torch.stack([h_att, h_lang]), torch.stack([c_att, c_lang]))
    log_probs, (h, c) = _step(model, tokens, state.per_image, hidden)
    return log_probs, State(per_image=state.per_image, per_beam=((h[0], h[1]), (c[0], c[1])))
