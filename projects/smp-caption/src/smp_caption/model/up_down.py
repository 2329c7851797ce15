"""The Up-Down captioner (Anderson et al. 2018): attention over image regions between two LSTM layers.

Dense, or with a mask on every weight matrix. Names and order of parameters are the original's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.decode import State
from prunelab.mask import MaskedEmbedding, MaskedLSTMCell, MaskSpec, Redrawn
from smp_caption.config import ModelConfig
from smp_caption.model.layers import effective, make_embedding, make_linear
from smp_caption.model.network import Inputs, Network, check_size
from smp_caption.model.products import Deferred

# B images, S regions, D feature size, K captions an image, N = B * K, T tokens
# V vocabulary, E word width, R hidden units, A attention units


class Hidden(NamedTuple):
    """State of both LSTM layers, (N, R) each."""

    h_att: Tensor
    c_att: Tensor
    h_lang: Tensor
    c_lang: Tensor


class Encoded(NamedTuple):
    """An image as the time loop reads it."""

    att: Tensor
    """(B, S, R) embedded regions; padded rows are 0."""
    p_att: Tensor
    """(B, S, A) their projection; padded rows are the bias."""
    mask: Tensor | None
    """(B, S) 1 on real regions; None where all are."""
    fc: Tensor
    """(B, R) embedded mean feature."""


class Attention(nn.Module):
    """Additive attention: one score for each region."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None) -> None:
        super().__init__()
        self.h2att = make_linear(cfg.rnn_size, cfg.att_hid_size, mask)
        self.alpha_net = make_linear(cfg.att_hid_size, 1, mask)


class Core(nn.Module):
    """The attention LSTM, the language LSTM and the attention between them."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None) -> None:
        super().__init__()
        size = cfg.rnn_size
        self.att_lstm = _lstm_cell(cfg.input_encoding_size + 2 * size, size, mask)
        self.lang_lstm = _lstm_cell(2 * size, size, mask)
        self.attention = Attention(cfg, mask)


def _lstm_cell(inputs: int, hidden: int, mask: MaskSpec | None) -> nn.LSTMCell:
    return nn.LSTMCell(inputs, hidden) if mask is None else MaskedLSTMCell(inputs, hidden, mask=mask)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The pointwise half of an LSTM cell: gates (N, 4R) in torch's order and cell (N, R) to (h, c)."""
    i, f, g, o = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _attend(scores: Tensor, encoded: Encoded, rows: int) -> Tensor:
    """Scores (B, K, S) to the context (N, R): softmax over all regions, then without the padded ones."""
    weights = scores.softmax(dim=-1)
    if encoded.mask is not None:
        weights = weights * encoded.mask.unsqueeze(1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.bmm(weights, encoded.att).view(rows, -1)  # (B, K, S) x (B, S, R) -> (N, R)


@dataclass(frozen=True, eq=False)
class _Shared:
    """Weights that a whole time loop shares, in the form that it needs them in.

    Each layer's two products become one: [h_lang, h_att] times [W_ih's first columns, W_hh]. The parts of
    the attention LSTM's input that do not depend on time (the mean feature and the bias) are computed once
    an image, and those of the words (in teacher forcing) once for all tokens.
    """

    att_fc: Tensor  # (4R, R)
    att_word: Tensor  # (4R, E)
    att_bias: Tensor  # (4R,)
    att_recurrent: Deferred  # (4R, 2R) for [h_lang, h_att]
    lang: Deferred  # (4R, 3R) for [context, h_att, h_lang]
    h2att: Tensor  # (A, R)
    h2att_bias: Tensor  # (A,)
    alpha: Tensor  # (1, A)
    alpha_bias: Tensor  # (1,)

    @classmethod
    def of(cls, core: Core) -> _Shared:
        """Take each effective weight once."""
        size = core.att_lstm.hidden_size
        att_ih, att_hh = effective(core.att_lstm, "weight_ih"), effective(core.att_lstm, "weight_hh")
        of_lang, of_fc, of_word = att_ih.split([size, size, att_ih.shape[1] - 2 * size], dim=1)
        lang = [effective(core.lang_lstm, "weight_ih"), effective(core.lang_lstm, "weight_hh")]
        return cls(
            att_fc=of_fc,
            att_word=of_word,
            att_bias=core.att_lstm.bias_ih + core.att_lstm.bias_hh,
            att_recurrent=Deferred(torch.cat([of_lang, att_hh], dim=1)),
            lang=Deferred(torch.cat(lang, dim=1), core.lang_lstm.bias_ih + core.lang_lstm.bias_hh),
            h2att=effective(core.attention.h2att),
            h2att_bias=core.attention.h2att.bias,
            alpha=effective(core.attention.alpha_net),
            alpha_bias=core.attention.alpha_net.bias,
        )

    def fixed_gates(self, encoded: Encoded) -> Tensor:
        """What the mean feature and the biases give to the attention LSTM's gates, (B, 4R)."""
        return F.linear(encoded.fc, self.att_fc, self.att_bias)

    def word_gates(self, words: Tensor) -> Tensor:
        """What embedded words (..., E) give to the attention LSTM's gates, (..., 4R)."""
        return F.linear(words, self.att_word)

    def step(self, fixed: Tensor, words: Tensor, encoded: Encoded, hidden: Hidden) -> Hidden:
        """One time step: fixed gates (B, 4R), word gates (N, 4R)."""
        rows, images = words.shape[0], fixed.shape[0]
        gates = self.att_recurrent(torch.cat([hidden.h_lang, hidden.h_att], dim=1)) + words
        gates = (gates.view(images, -1, gates.shape[1]) + fixed.unsqueeze(1)).view(rows, -1)
        h_att, c_att = _lstm(gates, hidden.c_att)
        query = F.linear(h_att, self.h2att, self.h2att_bias).view(images, -1, 1, self.h2att.shape[0])
        energy = (encoded.p_att.unsqueeze(1) + query).tanh()  # (B, K, S, A)
        scores = F.linear(energy, self.alpha, self.alpha_bias).squeeze(-1)
        context = _attend(scores, encoded, rows)
        joined = torch.cat([context, h_att, hidden.h_lang], dim=1)
        h_lang, c_lang = _lstm(self.lang(joined), hidden.c_lang)
        return Hidden(h_att, c_att, h_lang, c_lang)


class _ByCalls:
    """The same as the layers would be called: each product has a mask of its own where masks are drawn."""

    def __init__(self, core: Core) -> None:
        self._biases = [
            core.att_lstm.bias_ih + core.att_lstm.bias_hh,
            core.lang_lstm.bias_ih + core.lang_lstm.bias_hh,
            core.attention.h2att.bias,
            core.attention.alpha_net.bias,
        ]
        self._att = Redrawn(core.att_lstm, "weight_ih"), Redrawn(core.att_lstm, "weight_hh")
        self._lang = Redrawn(core.lang_lstm, "weight_ih"), Redrawn(core.lang_lstm, "weight_hh")
        self._query, self._alpha = Redrawn(core.attention.h2att), Redrawn(core.attention.alpha_net)

    def fixed_gates(self, encoded: Encoded) -> Tensor:
        """The mean feature (B, R) as it is: what it gives to the gates differs from step to step."""
        return encoded.fc

    def word_gates(self, words: Tensor) -> Tensor:
        """The words as they are."""
        return words

    def step(self, fixed: Tensor, words: Tensor, encoded: Encoded, hidden: Hidden) -> Hidden:
        """One time step: mean features (B, R), words (N, E)."""
        rows, images = len(words), len(fixed)
        of_att, of_lang, of_query, of_alpha = self._biases
        (att_ih, att_hh), (lang_ih, lang_hh) = self._att, self._lang
        gates = att_ih.product(hidden.h_lang, fixed, words) + att_hh.product(hidden.h_att) + of_att
        h_att, c_att = _lstm(gates, hidden.c_att)
        query = (self._query.product(h_att) + of_query).view(images, rows // images, 1, -1)
        energy = (encoded.p_att.unsqueeze(1) + query).tanh()  # (B, K, S, A)
        scores = self._alpha.product(energy.flatten(0, 2)).view(energy.shape[:-1]) + of_alpha
        context = _attend(scores, encoded, rows)
        gates = lang_ih.product(context, h_att) + lang_hh.product(hidden.h_lang) + of_lang
        h_lang, c_lang = _lstm(gates, hidden.c_lang)
        return Hidden(h_att, c_att, h_lang, c_lang)


class UpDown(Network):
    """The captioner.

    In training, a masked layer draws its mask at each call, hence once a time step, as in the original; under
    `prunelab.mask.draw_once` all steps share one draw, and the loop is as fast as the dense one.

    Args:
        cfg: sizes.
        mask: how masks behave; None builds the dense network.
    """

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None = None) -> None:
        super().__init__(cfg)
        size, drop = cfg.rnn_size, cfg.drop_prob_lm
        self.embed = nn.Sequential(
            make_embedding(cfg.vocab_size, cfg.input_encoding_size, mask), nn.ReLU(), nn.Dropout(drop)
        )
        self.fc_embed = nn.Sequential(make_linear(cfg.fc_feat_size, size, mask), nn.ReLU(), nn.Dropout(drop))
        self.att_embed = nn.Sequential(
            *([nn.BatchNorm1d(cfg.att_feat_size)] if cfg.use_bn else []),
            *(make_linear(cfg.att_feat_size, size, mask), nn.ReLU(), nn.Dropout(drop)),
            *([nn.BatchNorm1d(size)] if cfg.use_bn == 2 else []),
        )
        last = make_linear(size, cfg.vocab_size, mask)
        if cfg.logit_layers > 1:
            inner = [
                layer
                for _ in range(cfg.logit_layers - 1)
                for layer in (make_linear(size, size, mask), nn.ReLU(), nn.Dropout(drop))
            ]
            self.logit = nn.Sequential(*inner, last)
        else:
            self.logit = last
        self.ctx2att = make_linear(size, cfg.att_hid_size, mask)
        self.core = Core(cfg, mask)
        self.dropout = nn.Dropout(drop)

    def encode(self, inputs: Inputs) -> Encoded:
        """Embed the images once, whatever the number of captions.

        Raises:
            UserError: features of another size than the network's.
        """
        att_feats, att_masks, fc_feats, _ = inputs
        check_size("att_feat_size", att_feats, self.cfg.att_feat_size)
        assert fc_feats is not None, "Up-Down reads mean features"
        check_size("fc_feat_size", fc_feats, self.cfg.fc_feat_size)
        mask = None
        if att_masks is not None:
            longest = int(att_masks.sum(dim=1).max())
            att_feats, mask = att_feats[:, :longest], att_masks[:, :longest]
        fc = self.fc_embed(fc_feats)
        images, regions = att_feats.shape[:2]
        if mask is None or bool(mask.all()):
            att = self.att_embed(att_feats.flatten(0, 1)).view(images, regions, -1)
            mask = None
        else:
            real = mask.bool()
            packed = self.att_embed(att_feats[real])  # (real regions, R)
            att = packed.new_zeros(images, regions, packed.shape[-1])
            att[real] = packed
            mask = mask.to(att.dtype)
        return Encoded(att=att, p_att=self.ctx2att(att), mask=mask, fc=fc)

    def forward(self, inputs: Inputs, seqs: Tensor, *, last_column: bool = False) -> Tensor:
        """See `Network.forward`; 0 from the first column of ``seqs`` on that is padding in all rows."""
        seqs = self.captions_of(inputs, seqs)
        encoded = self.encode(inputs)
        columns = seqs.shape[1] if last_column else seqs.shape[1] - 1
        empty = (seqs[:, 1:columns].sum(dim=0) == 0).nonzero()
        used = 1 + int(empty[0]) if len(empty) else columns
        log_probs = self._teach(encoded, seqs[:, :used])
        return F.pad(log_probs, (0, 0, 0, columns - used)) if used < columns else log_probs

    def _teach(self, encoded: Encoded, seqs: Tensor) -> Tensor:
        """Run the time loop over all columns of seqs (N, T)."""
        hidden = self._start(encoded, seqs.shape[0])
        redraws = self.redraws()
        loop = _ByCalls(self.core) if redraws else _Shared.of(self.core)
        fixed, outputs = loop.fixed_gates(encoded), []
        words = loop.word_gates(self._embed_columns(seqs.t()))
        for column in words.unbind(dim=0):  # T times (N, 4R), or (N, E)
            hidden = loop.step(fixed, column, encoded, hidden)
            outputs.append(hidden.h_lang)
        if redraws:
            log_probs = self._redrawn_logits(self.dropout(torch.stack(outputs))).log_softmax(dim=-1)
            return log_probs.transpose(0, 1)
        return self.logit(self.dropout(torch.stack(outputs, dim=1))).log_softmax(dim=-1)

    def _embed_columns(self, ids: Tensor) -> Tensor:
        """Words (T, N, E) of ids (T, N), each column a call of the embedding."""
        table, *rest = self.embed
        rows = table.each(ids) if isinstance(table, MaskedEmbedding) else table(ids)
        for layer in rest:
            rows = layer(rows)
        return rows

    def _redrawn_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (T, N, R) to logits (T, N, V), each time step a call of the output layers."""
        for layer in self.logit if isinstance(self.logit, nn.Sequential) else [self.logit]:
            if isinstance(layer, nn.Linear):
                hidden = Redrawn(layer).products(hidden) + layer.bias
            else:
                hidden = layer(hidden)
        return hidden

    def _start(self, encoded: Encoded, rows: int) -> Hidden:
        zeros = encoded.fc.new_zeros(rows, self.cfg.rnn_size)
        return Hidden(zeros, zeros, zeros, zeros)

    def begin(self, inputs: Inputs) -> State:
        """See `Network.begin`."""
        encoded = self.encode(inputs)
        loop = _ByCalls(self.core) if self.redraws() else _Shared.of(self.core)
        prepared = {"encoded": encoded, "shared": loop, "fixed": loop.fixed_gates(encoded)}
        return State(per_image=prepared, per_beam=self._start(encoded, encoded.fc.shape[0]))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Network.step`."""
        prepared = state.per_image
        loop: _Shared | _ByCalls = prepared["shared"] or _ByCalls(self.core)  # None: an exported step
        fixed = prepared["fixed"] if prepared["shared"] else loop.fixed_gates(prepared["encoded"])
        words = loop.word_gates(self.embed(tokens))
        hidden = loop.step(fixed, words, prepared["encoded"], state.per_beam)
        log_probs = self.logit(self.dropout(hidden.h_lang)).log_softmax(dim=-1)
        return log_probs, State(per_image=prepared, per_beam=hidden)
