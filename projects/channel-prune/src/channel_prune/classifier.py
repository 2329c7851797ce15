"""A classifier with all that a picture needs to get its class, in one folder.

```python
import channel_prune

m = channel_prune.load("runs/tour-001/pruned/slim")
print(m.classify("cat.jpg"))     # [("cat", 0.93), ("dog", 0.04), ...]
```

# B pictures, K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.files.saved import Saved
from channel_prune.slim import slim
from prunelab.data.pictures import Picture, pixels
from prunelab.errors import UserError
from prunelab.modes import evaluating

BATCH = 64
"""Pictures that go through the network at a time."""


@dataclass(kw_only=True)
class Classifier:
    """Says what is on a picture."""

    saved: Saved
    """The network, the way of a picture to it, and names of its classes."""

    def __post_init__(self) -> None:
        if self.saved.net.detects:
            raise UserError(f"{self.saved.net.name} finds boxes, expected a classifier: use Detector")
        names, count = self.saved.classes, self.saved.net.nb_classes
        if names and len(names) != count:
            raise UserError(f"{count} classes have {len(names)} names, expected one for each")

    @property
    def model(self) -> nn.Module:
        """The network: full, with channels of zeros, or slim."""
        return self.saved.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes (K)."""
        given = self.saved.classes
        return given or tuple(f"class {number}" for number in range(self.saved.net.nb_classes))

    def classify(self, picture: Picture, *, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of a picture and their probabilities, the likeliest first.

        Args:
            picture: a file, a PIL image, or an array (H, W, 3) uint8 of red, green, blue; of any size.
            top: how many classes.

        Raises:
            UserError: a file is missing or no picture, or an array is of another shape or type.
        """
        (row,) = self.probabilities([picture])
        found = row.topk(min(top, len(row)))
        return [
            (self.classes[place], share)
            for share, place in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def probabilities(self, pictures: Sequence[Picture]) -> Tensor:
        """The probability of every class for some pictures, (B, K).

        Raises:
            UserError: see `classify`.
        """
        device = next(self.model.parameters()).device
        rows = []
        with evaluating(self.model):
            for start in range(0, len(pictures), BATCH):
                batch = [
                    self.saved.preprocess.picture(pixels(each)) for each in pictures[start : start + BATCH]
                ]
                rows.append(self.model(torch.stack(batch).to(device)).float().softmax(1))
        return torch.cat(rows) if rows else torch.empty(0, len(self.classes), device=device)

    def slim(self, *, round_to: int = 1) -> Classifier:
        """This classifier without the channels that are zeros; itself if it is slim already.

        Args:
            round_to: numbers of channels are rounded up to multiples of it.

        Raises:
            UserError: see `channel_prune.slim.slim`.
        """
        if self.saved.structure is not None:
            return self
        side = self.saved.net.image_size
        example = torch.zeros(1, 3, side, side, device=next(self.model.parameters()).device)
        kept = Masks.from_zeros(prunable(self.model, example)).kept
        small = slim(self.model, kept, example, round_to=round_to)
        return Classifier(saved=replace(self.saved, model=small.model, structure=small.structure))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the network, what is needed to use it, and a model card into a folder.

        Raises:
            UserError: see `channel_prune.files.saved.Saved.save`.
        """
        return self.saved.save(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
        """Read what `save_pretrained` or a run wrote: a folder, or an id on the Hub.

        Raises:
            UserError: see `channel_prune.files.saved.Saved.read`; or the network is a detector.
        """
        return cls(saved=Saved.read(folder, device=device))
