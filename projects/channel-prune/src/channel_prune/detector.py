"""A detector for use from Python: a model folder, and pictures in any form.

# H, W picture, n boxes, K classes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from channel_prune.detect.anchors import anchors_of
from channel_prune.detect.dump import pixel_boxes
from channel_prune.detect.postprocess import detect_boxes
from channel_prune.draw import draw_detections
from channel_prune.files.saved import Saved
from prunelab.data.pictures import Picture, pixels
from prunelab.errors import UserError
from prunelab.modes import evaluating

SURE = 0.4
"""Score from which a detection is told unless asked otherwise."""


class Found(NamedTuple):
    """What is on a picture, the surest first."""

    boxes: np.ndarray
    """xmin, ymin, xmax, ymax in pixels, (n, 4)."""
    labels: list[str]
    """Names of the classes (n)."""
    scores: np.ndarray
    """(n,), 0 to 1."""


@dataclass(kw_only=True)
class Detector:
    """A network that finds objects.

    Example:
        detector = Detector.from_pretrained("runs/best")
        boxes, labels, scores = detector.detect("cat.jpg")
        detector.draw("cat.jpg").save("found.png")
    """

    saved: Saved
    """The network, and what belongs to it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, without background."""
        return self.saved.classes[1:]

    @torch.inference_mode()
    def detect(self, picture: Picture, *, least_score: float = SURE) -> Found:
        """Find objects.

        Args:
            picture: of any size.
            least_score: what is told at least.

        Raises:
            UserError: a file is missing or no picture, or an array is of another shape or type.
        """
        image, model = pixels(picture), self.saved.model
        parameter = next(model.parameters())
        x = self.saved.preprocess.picture(image)[None].to(parameter.device, parameter.dtype)  # (1, 3, S, S)
        detect = replace(self.saved.detect, select_threshold=least_score)
        with evaluating(model):
            outputs = model(x)
        anchors = anchors_of(self.saved.net.image_size, x.device)
        found = detect_boxes(outputs, anchors, detect)[0].ranked()
        boxes = pixel_boxes(found.boxes, image.shape[0], image.shape[1], off_by_one=False)
        names = [self.saved.classes[label] for label in found.labels.tolist()]
        return Found(boxes, names, found.scores.cpu().numpy())

    def draw(self, picture: Picture, found: Found | None = None, *, least_score: float = SURE) -> Image.Image:
        """The picture with boxes, names and scores on it, and a legend.

        Args:
            picture: see `detect`.
            found: what `detect` gave for it; None: it is detected here.
            least_score: see `detect`.

        Raises:
            UserError: see `detect`.
        """
        image = pixels(picture)
        found = self.detect(image, least_score=least_score) if found is None else found
        return draw_detections(image, found.boxes, found.labels, found.scores, self.names)

    def save_pretrained(self, folder: str | Path, *, notes: Mapping[str, Any] | None = None) -> Path:
        """Write it as a model folder.

        Args:
            folder: where to; an earlier model there is replaced.
            notes: plain data to keep with it besides what it has.

        Raises:
            UserError: something else lies there, or it cannot be written.
        """
        return replace(self.saved, notes={**self.saved.notes, **(notes or {})}).save(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Detector:
        """Read a model folder, or an id on the Hub.

        Raises:
            UserError: no such folder, another kind of model, or files that do not belong together.
        """
        saved = Saved.read(folder, device=device)
        if not saved.net.detects:
            raise UserError(f"{folder}: a network that classifies ({saved.net.name}), expected a detector")
        return cls(saved=saved)
