"""A captioner as two graphs for ONNX: the encoder, once a picture, and a step of the decoder, once a word.

Rows of a step are independent: each says which picture it is of and brings what its own words left behind, so
that a beam search only selects and reorders rows. Masks are made inside.

# B pictures, S visual tokens, F their width, D width, H heads, K decoder layers
# N rows, T words of a row so far, E dynamic expansion vectors, V words
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expansionnet.config import ModelConfig
from expansionnet.model import ExpansionNet, cached
from prunelab.decode import State
from prunelab.export import ENCODER, STEP, ExportReport, Simplify, to_onnx
from prunelab.modes import evaluating

TOKENS = 9
"""Visual tokens of the example of features."""
VECTORS = ("key", "cond", "class_a", "class_b")
"""What a decoder layer keeps of a word at width D."""
CACHES = ("vectors", "queries", "forward")
"""What a step keeps of a row's words: (N, K, 4, T, D), (N, K, T, E) and (N, K, 2, T, E, T)."""
ENCODED = ("encoded", "keys", "values")
"""What the encoder says of pictures: (B, S, D), and twice (B, K, H, S, D/H)."""


class EncoderGraph(nn.Module):
    """Pictures, or features, to what all words of a caption read."""

    def __init__(self, model: ExpansionNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, pads: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            x: images (B, 3, H, W) end to end, else features (B, S, F).
            pads: padded trailing tokens of each picture, int64 (B,); None end to end.

        Returns:
            `ENCODED`.
        """
        encoded = self.model.encode(x, pads)
        layers = cached.begin(self.model, encoded).per_image["layers"]
        keys, values = (torch.stack([layer[name] for layer in layers], dim=1) for name in ("key", "value"))
        return encoded, keys, values


class StepGraph(nn.Module):
    """One word more of every row."""

    def __init__(self, model: ExpansionNet) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        picture: Tensor,
        keys: Tensor,
        values: Tensor,
        caches: tuple[Tensor, Tensor, Tensor],
        pads: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read a word, predict the next.

        Args:
            tokens: newest word of each row, int64 (N,).
            picture: which picture each row is of, int64 (N,).
            keys: of all pictures, see `ENCODED`.
            values: the same.
            caches: see `CACHES`, with T words.
            pads: padded trailing tokens of each picture, int64 (B,); None: none.

        Returns:
            Log-probabilities (N, V) and the caches with T + 1 words.
        """
        vectors, queries, forward = caches
        rows, layers, _, time, _ = vectors.shape
        kept = []
        for place in range(layers):
            tree = dict(zip(VECTORS, vectors[:, place].unbind(1), strict=True))
            tree |= {"query_key": queries[:, place], "forward": forward[:, place]}
            kept.append({"key": keys[:, place][picture], "value": values[:, place][picture], "tree": tree})
        hidden = None
        if pads is not None:
            visual = keys.shape[3]
            first = visual - pads[picture]
            hidden = (torch.arange(visual) >= first[:, None])[:, None, None]  # (N, S) to (N, 1, 1, S)
        # Each row is an image of its own to the step, with one beam: its path is all its nodes.
        path = torch.arange(time).expand(rows, time)
        state = State(per_image={"layers": kept, "hidden": hidden}, per_beam=path)
        log_probs, state = cached.stepper(self.model)(tokens, state)
        trees = [layer["tree"] for layer in state.per_image["layers"]]
        return (
            log_probs,
            torch.stack([torch.stack([tree[name] for name in VECTORS], dim=1) for tree in trees], dim=1),
            torch.stack([tree["query_key"] for tree in trees], dim=1),
            torch.stack([tree["forward"] for tree in trees], dim=1),
        )


def empty_caches(cfg: ModelConfig, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """`CACHES` before the first word."""
    layers, width, expansions = cfg.N_dec, cfg.model_dim, cfg.num_exp_dec
    return (
        torch.zeros(rows, layers, len(VECTORS), 0, width),
        torch.zeros(rows, layers, 0, expansions),
        torch.zeros(rows, layers, 2, 0, expansions, 0),
    )


# ------------------------------------------------------------------------------------------------- exporting


@dataclass(frozen=True, kw_only=True)
class Example:
    """Inputs of both graphs, for tracing them and for trying the result."""

    x: Tensor
    """Images (2, 3, H, H) end to end, else features (2, S, F)."""
    pads: Tensor | None
    """Padded trailing tokens of features, int64 (2,); None end to end."""

    @classmethod
    def of(cls, cfg: ModelConfig) -> Example:
        """Noise of a model's sizes."""
        generator = torch.Generator().manual_seed(0)
        if cfg.is_end_to_end:
            side = cfg.swin.img_size
            return cls(x=torch.randn(2, 3, side, side, generator=generator), pads=None)
        return cls(
            x=torch.randn(2, TOKENS, cfg.img_feature_dim, generator=generator), pads=torch.tensor([0, 2])
        )

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the encoder's graph reads, by name."""
        return {"images": self.x} if self.pads is None else {"features": self.x, "pads": self.pads}

    @property
    def free(self) -> dict[int, str]:
        """Free dimensions of keys and values: the number of pictures and, of features, that of tokens."""
        return {0: "pictures"} if self.pads is None else {0: "pictures", 3: "visual"}

    def sizes(self, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Further sizes that are tried."""
        return {"pictures": (2, 3), **more, **({} if self.pads is None else {"visual": (3, TOKENS + 3)})}


def export_graphs(
    model: ExpansionNet, folder: Path, *, facts: Mapping[str, Any], opset: int | None, simplify: Simplify
) -> tuple[ExportReport, ExportReport]:
    """Write ``encoder.onnx`` and ``step.onnx``, each compared with PyTorch on inputs of several sizes.

    Args:
        model: on the CPU.
        folder: where to.
        facts: put into both files.
        opset: version of ONNX's operators; None: the exporter's choice.
        simplify: see `prunelab.export.to_onnx`; ``rewrite`` would lose the expansion's epsilon.

    Raises:
        UserError: a graph cannot be written, or would not agree with PyTorch.
    """
    example = Example.of(model.cfg)
    settings: dict[str, Any] = {"metadata": facts, "opset": opset, "simplify": simplify}
    encoder = EncoderGraph(model)
    first = to_onnx(
        encoder,
        tuple(example.inputs.values()),
        folder / ENCODER,
        input_names=list(example.inputs),
        output_names=ENCODED,
        dynamic={
            name: {0: "pictures"} | ({1: "visual"} if name == "features" else {}) for name in example.inputs
        },
        sizes=example.sizes(pictures=(1, 3)),
        **settings,
    )
    step, picture = StepGraph(model), torch.tensor([0, 0, 1, 1, 1])
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(model.cfg.vocab_size, (4, len(picture)), generator=generator)
    caches = empty_caches(model.cfg, len(picture))
    with evaluating(model), torch.no_grad():
        _, keys, values = encoder(example.x, example.pads)
        for word in words[:-1]:
            _, *after = step(word, picture, keys, values, caches, example.pads)
            caches = (after[0], after[1], after[2])
    free = {"vectors": {3: "words"}, "queries": {2: "words"}, "forward": {3: "words", 5: "words"}}
    second = to_onnx(
        step,
        (words[-1], picture, keys, values, caches, example.pads),
        folder / STEP,
        input_names=["tokens", "picture", "keys", "values", *CACHES, *list(example.inputs)[1:]],
        output_names=["log_probs", *(f"{name}_next" for name in CACHES)],
        dynamic={
            **{name: {0: "rows"} for name in ("tokens", "picture")},
            **dict.fromkeys(("keys", "values"), example.free),
            **{name: {0: "rows", **axes} for name, axes in free.items()},
            **{name: {0: "pictures"} for name in list(example.inputs)[1:]},
        },
        sizes=example.sizes(rows=(1, 6), words=(0, 1, 7)),
        **settings,
    )
    return first, second
