"""A captioner as two graphs for ONNX: the encoder, once a picture, and a step of the decoder, once a word.

Rows of a step are independent: each says which picture it is of and brings what its own words left behind, so
that a beam search only selects and reorders rows (`prunelab.export.StepGraphs`). All regions of a batch are
real: pictures of different numbers of regions come in batches of their own, and nothing is padded.

# B pictures, S regions, F their size, N rows, T words of a row so far, V words
# Up-Down: R hidden size, A attention size; transformers: D width, H heads, W = D / H, U distinct decoder
# layers, L depths
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.decode import State
from prunelab.export import ENCODER, STEP, ExportReport, to_onnx
from smp_caption.config import RELATION_TRANSFORMERS, UP_DOWN, ModelConfig
from smp_caption.model import Inputs, Network, TransformerNetwork, UpDown
from smp_caption.model.up_down import Encoded, Hidden

TOLERANCE = 1e-4
"""Largest difference to PyTorch that is accepted."""
BOX_TOLERANCE = 1e-3
"""The same of keys and values that rest on boxes: angles of their sines reach 700, where the last bit of
single precision is 6e-5, and a logarithm magnifies it. Captions' words are held to `TOLERANCE`."""
REGIONS = 7
"""Regions of a picture in the example that graphs are traced with."""
Axes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the graphs of a family read and write, and which of their axes are free."""

    pictures: tuple[str, ...]
    """What the encoder reads: fields of `Inputs`."""
    encoded: tuple[str, ...]
    """What the encoder writes and a step reads."""
    caches: tuple[str, ...]
    """What a step leaves for the next one, a row each."""
    free: Axes
    """Axes of the above besides the first, which counts pictures or rows."""


UP_DOWN_NAMES = Names(
    pictures=("att_feats", "fc_feats"),
    encoded=("att", "p_att", "fc"),
    caches=("h", "c"),
    free={name: {1: "regions"} for name in ("att_feats", "att", "p_att")},
)
TRANSFORMER_NAMES = Names(
    pictures=("att_feats",),
    encoded=("keys", "values"),
    caches=("cache",),
    free={
        "att_feats": {1: "regions"},
        "keys": {3: "regions"},
        "values": {3: "regions"},
        "cache": {4: "words"},
    },
)
RELATION_NAMES = Names(
    pictures=("att_feats", "boxes"),
    encoded=TRANSFORMER_NAMES.encoded,
    caches=TRANSFORMER_NAMES.caches,
    free={**TRANSFORMER_NAMES.free, "boxes": {1: "regions"}},
)


def names_of(cfg: ModelConfig) -> Names:
    """The names of a network's family."""
    if cfg.caption_model in UP_DOWN:
        return UP_DOWN_NAMES
    return RELATION_NAMES if cfg.caption_model in RELATION_TRANSFORMERS else TRANSFORMER_NAMES


def empty_caches(cfg: ModelConfig, rows: int) -> tuple[Tensor, ...]:
    """The caches before the first word: h and c (N, 2, R), else one (N, L, 2, H, 0, W)."""
    if cfg.caption_model in UP_DOWN:
        zeros = torch.zeros(rows, 2, cfg.rnn_size)
        return zeros, zeros
    depths = len(cfg.share_layer_decoder or range(cfg.num_layers))
    return (torch.zeros(rows, depths, 2, cfg.num_heads, 0, cfg.d_model // cfg.num_heads),)


# --------------------------------------------------------------------------------------------------- graphs


class EncoderGraph(nn.Module, ABC):
    """Regions of pictures to what all words of their captions read."""

    @abstractmethod
    def forward(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """`Names.pictures` to `Names.encoded`."""


class StepGraph(nn.Module, ABC):
    """One word more of every row."""

    @abstractmethod
    def forward(
        self, tokens: Tensor, picture: Tensor, encoded: tuple[Tensor, ...], caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Read a word, predict the next.

        Args:
            tokens: newest word of each row, int64 (N,).
            picture: which picture each row is of, int64 (N,).
            encoded: see `Names.encoded`; of all pictures.
            caches: see `Names.caches`.

        Returns:
            Log-probabilities (N, V) and the next caches.
        """


class UpDownEncoder(EncoderGraph):
    """Regions (B, S, F), their means (B, F) to regions (B, S, R), their keys (B, S, A), the mean (B, R)."""

    def __init__(self, model: UpDown) -> None:
        super().__init__()
        self.model = model

    def forward(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """See `EncoderGraph`."""
        att_feats, fc_feats = pictures
        encoded = self.model.encode(Inputs(att_feats, None, fc_feats))
        return encoded.att, encoded.p_att, encoded.fc


class UpDownStep(StepGraph):
    """The caches are the states (N, 2, R) of both LSTMs."""

    def __init__(self, model: UpDown) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, picture: Tensor, encoded: tuple[Tensor, ...], caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """See `StepGraph`."""
        att, p_att, fc = (each[picture] for each in encoded)
        (h_att, h_lang), (c_att, c_lang) = (each.unbind(1) for each in caches)
        image = {"encoded": Encoded(att=att, p_att=p_att, mask=None, fc=fc), "shared": None, "fixed": None}
        state = State(per_image=image, per_beam=Hidden(h_att, c_att, h_lang, c_lang))
        log_probs, state = self.model.step(tokens, state)
        after: Hidden = state.per_beam
        return (
            log_probs,
            torch.stack([after.h_att, after.h_lang], 1),
            torch.stack([after.c_att, after.c_lang], 1),
        )


class TransformerEncoder(EncoderGraph):
    """Regions (B, S, F), and boxes (B, S, 4) where they are read, to keys and values (B, U, H, S, W)."""

    def __init__(self, model: TransformerNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """See `EncoderGraph`."""
        inputs = Inputs(**dict(zip(names_of(self.model.cfg).pictures, pictures, strict=True)))
        source = self.model.begin(inputs).per_image["source"]
        keys, values = (torch.stack(each, dim=1) for each in zip(*source, strict=True))
        return keys, values


class TransformerStep(StepGraph):
    """The cache (N, L, 2, H, T, W) holds keys and values of each depth; it may be of no words."""

    def __init__(self, model: TransformerNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, picture: Tensor, encoded: tuple[Tensor, ...], caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """See `StepGraph`."""
        (cache,) = caches
        kept = {depth: (pair[:, 0], pair[:, 1]) for depth, pair in enumerate(cache.unbind(1))}
        source = [
            (keys, values) for keys, values in zip(*(e[picture].unbind(1) for e in encoded), strict=True)
        ]
        # Each row is an image of its own to the step, with one beam.
        state = State(
            per_image={"source": source, "bias": None}, per_beam={"time": cache.shape[4], "caches": kept}
        )
        log_probs, state = self.model.step(tokens, state)
        after = state.per_beam["caches"]
        return log_probs, torch.stack([torch.stack(after[depth], 1) for depth in kept], 1)


def graphs_of(model: Network) -> tuple[EncoderGraph, StepGraph]:
    """Both graphs of a network, as modules; a transformer decodes exactly in them."""
    if isinstance(model, UpDown):
        return UpDownEncoder(model), UpDownStep(model)
    assert isinstance(model, TransformerNetwork)
    model.caching = "exact"
    return TransformerEncoder(model), TransformerStep(model)


# ------------------------------------------------------------------------------------------------- exporting


def example_of(cfg: ModelConfig, pictures: int = 2, regions: int = REGIONS) -> Inputs:
    """Noise of a model's sizes, with boxes that are boxes."""
    generator = torch.Generator().manual_seed(0)
    att = torch.randn(pictures, regions, cfg.att_feat_size, generator=generator)
    corners = torch.rand(pictures, regions, 2, 2, generator=generator).sort(dim=2).values  # (B, S, 2, 2)
    fc = torch.randn(pictures, cfg.fc_feat_size, generator=generator)
    fits = {"att_feats": att, "fc_feats": fc, "boxes": corners.flatten(2)}
    return Inputs(**{name: fits[name] for name in names_of(cfg).pictures})


def export_graphs(
    model: Network, folder: Path, *, facts: Mapping[str, Any]
) -> tuple[ExportReport, ExportReport]:
    """Write ``encoder.onnx`` and ``step.onnx``, each compared with PyTorch on inputs of several sizes.

    Args:
        model: dense, on the CPU and in evaluation mode.
        folder: where to.
        facts: put into both files; what is no text as JSON.

    Raises:
        UserError: a graph cannot be written, or would not agree with PyTorch.
    """
    cfg, (encoder, step) = model.cfg, graphs_of(model)
    names, example = names_of(cfg), example_of(cfg)
    pictures = tuple(getattr(example, name) for name in names.pictures)
    first = to_onnx(
        encoder,
        pictures,
        folder / ENCODER,
        input_names=names.pictures,
        output_names=names.encoded,
        dynamic=_axes(names, names.pictures, "pictures"),
        sizes={"pictures": (1, 3), "regions": (1, 4, REGIONS + 3)},
        tolerance=TOLERANCE if "boxes" not in names.pictures else BOX_TOLERANCE,
        metadata=facts,
    )
    rows = torch.tensor([0, 0, 1, 1, 1])
    with torch.no_grad():
        encoded = encoder(*pictures)
        words, caches = _words(step, cfg, rows, encoded)
    second = to_onnx(
        step,
        (words, rows, encoded, caches),
        folder / STEP,
        input_names=["tokens", "picture", *names.encoded, *names.caches],
        output_names=["log_probs", *(f"{name}_next" for name in names.caches)],
        dynamic={
            **{name: {0: "rows"} for name in ("tokens", "picture")},
            **_axes(names, names.encoded, "pictures"),
            **_axes(names, names.caches, "rows"),
        },
        sizes={
            "rows": (1, 6),
            "pictures": (2, 3),
            "regions": (1, REGIONS + 3),
            **({} if isinstance(model, UpDown) else {"words": (0, 1, 7)}),
        },
        tolerance=TOLERANCE,
        metadata=facts,
    )
    return first, second


def _axes(names: Names, chosen: Sequence[str], first: str) -> dict[str, dict[int, str]]:
    return {name: {0: first, **names.free.get(name, {})} for name in chosen}


def _words(
    step: StepGraph, cfg: ModelConfig, rows: Tensor, encoded: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Newest words of rows that have had three others, and the caches of those."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(cfg.vocab_size, (4, len(rows)), generator=generator)
    caches = empty_caches(cfg, len(rows))
    for word in words[:-1]:
        _, *after = step(word, rows, encoded, caches)
        caches = tuple(after)
    return words[-1], caches
