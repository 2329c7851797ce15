"""The one truth about a run of smp-caption: frozen dataclasses, and `lower` from the original's flags to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a captioning model (names and defaults are those of the original's flags)."""

    caption_model: str = "up_down_lstm"
    """Architecture; a name that ends in ``_prune`` has masked weights."""
    vocab_size: int = 10001
    """Number of token ids V, specials included."""
    max_seq_length: int = 18
    """Most tokens of a caption, bos and eos included when encoding; most generated tokens when decoding."""
    rnn_size: int = 1000
    """Hidden size R of both LSTM layers."""
    input_encoding_size: int = 1000
    """Word embedding size E."""
    att_hid_size: int = 512
    """Hidden size A of the additive attention."""
    att_feat_size: int = 2048
    """Size F of a region's feature."""
    fc_feat_size: int = 2048
    """Size of the picture's mean feature."""
    drop_prob_lm: float = 0.5
    """Dropout on embeddings and on the language LSTM's output."""
    logit_layers: int = 1
    """Number of linear layers before the softmax."""
    use_bn: int = 0
    """BatchNorm around the region embedding: 0 none, 1 before, 2 before and after."""
    pad_token_id: int = 0
    """Id that fills up a batch."""
    unk_token_id: int = 1
    """Id of an unknown word."""
    bos_token_id: int = 2
    """Id that starts a caption."""
    eos_token_id: int = 3
    """Id that ends a caption."""
