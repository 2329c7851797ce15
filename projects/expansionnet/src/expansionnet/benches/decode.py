"""Rows of decoding: beams of one picture and of a batch, beside reading whole sentences at every step."""

# B pictures, S visual tokens, F their width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from expansionnet.benches.decode_reference import beam_search_plain
from expansionnet.config import ModelConfig
from expansionnet.decoding import Captions, beam_search
from expansionnet.model import ExpansionNet, build
from expansionnet.model.packed import Prepared
from prunelab.bench import Result, Row, compare

SOS, EOS = 79, 77
"""Ids of the published vocabulary."""
CLOSE = 1e-5
"""Most difference of a log-probability to the reference's."""
NEVER = -50.0
"""Logit that keeps the end from being said, so that all captions have the greatest length."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is decoded."""

    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(is_end_to_end=False, vocab_size=10_000, max_seq_len=74)
    )
    tokens: int = 144
    """Visual tokens S."""
    beams: int = 5
    words: int = 20
    """Most tokens of a caption, its start included."""


def problem(size: Size, pictures: int) -> tuple[ExpansionNet, Tensor]:
    """A captioner with random weights that never ends a caption, and features (B, S, F)."""
    torch.manual_seed(0)
    model = build(size.model).eval()
    with torch.no_grad():
        model.vocab_linear.bias[EOS] = NEVER
        nn.init.normal_(model.vocab_linear.weight, std=0.03)  # words differ clearly
    return model, torch.randn(pictures, size.tokens, size.model.img_feature_dim)


def same(found: Captions, expected: Captions) -> bool:
    """Equal tokens, and log-probabilities but for rounding."""
    return found.tokens == expected.tokens and bool(
        ((found.log_probs - expected.log_probs).abs() <= CLOSE).all()
    )


@torch.no_grad()
def beams(pictures: int, *, goal: float | None, size: Size | None = None) -> Row:
    """Beam search with the encoder; ours is compiled before, which is not timed."""
    size = size or Size()
    model, x = problem(size, pictures)
    arguments = {"beam_size": size.beams, "max_len": size.words, "sos": SOS, "eos": EOS}
    cfg = size.model
    return compare(
        f"beam {size.beams}, batch {pictures}",
        partial(beam_search, Prepared(model), x, **arguments),
        torch.no_grad()(partial(beam_search_plain, model, x, **arguments)),
        same,
        extra={"ours, not compiled": partial(beam_search, model, x, **arguments)},
        warmup=2,
        work=pictures,
        unit="captions",
        goal=goal,
        note=f"D {cfg.model_dim}, {cfg.N_enc}+{cfg.N_dec} layers, V {cfg.vocab_size}, {size.tokens} visual "
        f"tokens of width {cfg.img_feature_dim}, {size.words} tokens, float32, {torch.get_num_threads()} "
        "threads, encoder included; reference: the whole sentence again at every step; ours: compiled "
        "before, once",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "decode-beam5-one": lambda: beams(1, goal=6.0),
    "decode-beam5-batch": lambda: beams(8, goal=8.0),
}
"""What ``bench`` measures."""
