"""Captions without PyTorch's network: the graphs that ``export`` wrote, searched by core's decoding.

```python
from expansionnet.files.onnx_beam import OnnxCaptioner

captioner = OnnxCaptioner("rf_model.onnx")
print(captioner.caption("cat.jpg"))
```
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import prunelab.decode
from expansionnet.config import DecodeConfig, ModelConfig
from expansionnet.decoding import Captions, captions_of, options
from expansionnet.features.preprocess import Preprocess
from expansionnet.files.onnx_graphs import CACHES, empty_caches
from expansionnet.layout import VOCABULARY_FILE
from expansionnet.words.text import to_text
from expansionnet.words.vocabulary import Vocabulary
from prunelab.data.pictures import Picture
from prunelab.decode import DecodeOptions, State
from prunelab.errors import UserError
from prunelab.export import StepGraphs

# B pictures, S visual tokens, F their width


class OnnxCaptioner:
    """A folder of exported graphs, on the CPU.

    Args:
        folder: with both graphs and ``vocabulary.json``.
        threads: of onnxruntime; 0: its own choice.

    Raises:
        UserError: a file is missing or damaged, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        place = Path(folder)
        self.graphs = StepGraphs(place, threads=threads)
        self.config = self.graphs.fact(ModelConfig, "model")
        self.decode = self.graphs.fact(DecodeConfig, "decode")
        self.black_pictures: bool = json.loads(self.graphs.facts["black_pictures"])
        self.vocabulary = Vocabulary.load(place / VOCABULARY_FILE)

    def begin(self, x: Tensor, pads: Tensor | None = None) -> State:
        """Encode.

        Args:
            x: images (B, 3, H, W) end to end, else features (B, S, F).
            pads: padded trailing tokens of features, int64 (B,); None: none.

        Returns:
            A state of one row a picture.
        """
        feeds = {"images" if self.config.is_end_to_end else "features": x.float()}
        if not self.config.is_end_to_end:
            feeds["pads"] = torch.zeros(len(x), dtype=torch.int64) if pads is None else pads
        caches: dict[str, Tensor] = dict(zip(CACHES, empty_caches(self.config, len(x)), strict=True))
        return self.graphs.begin(feeds, caches)

    def search(self, x: Tensor, options: DecodeOptions, *, pads: Tensor | None = None) -> Captions:
        """The best caption of each picture; see `expansionnet.decoding.search`."""
        found = prunelab.decode.decode(self.graphs.step, self.begin(x, pads), options)
        return captions_of(found, options, 1)

    def options(self, beam_size: int | None = None) -> DecodeOptions:
        """How to search; None: with the first of the model's beams."""
        beams = beam_size or self.decode.eval_beam_sizes[0]
        return options(self.decode, self.vocabulary, beams, positions=self.config.max_seq_len)

    def caption(self, pictures: Picture | Sequence[Picture], *, beam_size: int | None = None) -> list[str]:
        """Say what is on pictures, one or several (files, PIL images or arrays).

        Raises:
            UserError: a file is missing or is no picture, or the model reads features.
        """
        if not self.config.is_end_to_end:
            raise UserError("this model reads features: give them to `search`")
        several = isinstance(pictures, Sequence) and not isinstance(pictures, str)
        preprocess = Preprocess(size=self.config.swin.img_size, black=self.black_pictures)
        images = preprocess.batch(pictures if several else [pictures])  # pyright: ignore[reportArgumentType]
        found = self.search(images, self.options(beam_size))
        return [to_text(self.vocabulary.decode(ids)) for (ids,) in found.tokens]
