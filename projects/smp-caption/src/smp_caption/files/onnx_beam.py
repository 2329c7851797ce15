"""Captions without PyTorch's network: the graphs that ``export --format onnx`` wrote, and core's beam search.

```python
from smp_caption.files.onnx_beam import OnnxCaptioner

captioner = OnnxCaptioner("runs/tour-001/pruned.onnx")
print(captioner.caption("cat.jpg"))
```
"""

from __future__ import annotations

import json
from pathlib import Path

from prunelab.decode import Decoded, DecodeOptions, decode
from prunelab.export import StepGraphs
from smp_caption.captioner import PictureReader, Pictures, open_tokenizer
from smp_caption.config import DecodeConfig, ModelConfig
from smp_caption.features.extractor import Extractor, has_extractor
from smp_caption.files.onnx_graphs import empty_caches, names_of
from smp_caption.model import Inputs
from smp_caption.tokenizer import FOLDER


class OnnxCaptioner(PictureReader):
    """A folder of exported graphs, on the CPU.

    Args:
        folder: with both graphs, ``tokenizer/`` and, of a model that reads pictures, the extractor.
        threads: of onnxruntime; 0: its own choice.

    Raises:
        UserError: a file is missing or damaged, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        place = Path(folder)
        self.graphs = StepGraphs(place, threads=threads)
        self.config = self.graphs.fact(ModelConfig, "model")
        self.decode = self.graphs.fact(DecodeConfig, "decode")
        self.tokenizer = open_tokenizer(place / FOLDER, **json.loads(self.graphs.facts["tokenizer"]))
        self.extractor = Extractor.load(place) if has_extractor(place) else None

    def search(self, pictures: Pictures, options: DecodeOptions) -> list[list[int]]:
        """See `PictureReader.search`; pictures of equal numbers of regions make a batch."""
        counts = [len(features) for features in pictures.features]
        found: dict[int, list[int]] = {}
        for count in sorted(set(counts)):
            places = [place for place, regions in enumerate(counts) if regions == count]
            tokens = self.decoded(pictures.some(places).batch(self.config), options).tokens[:, 0].tolist()
            found |= dict(zip(places, tokens, strict=True))
        return [found[place] for place in range(len(counts))]

    def decoded(self, inputs: Inputs, options: DecodeOptions) -> Decoded:
        """Captions of pictures of which no region is padding."""
        names = names_of(self.config)
        pictures = {name: getattr(inputs, name) for name in names.pictures}
        caches = dict(zip(names.caches, empty_caches(self.config, inputs.images), strict=True))
        return decode(self.graphs.step, self.graphs.begin(pictures, caches), options)
