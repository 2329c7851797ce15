"""What a detector's answers are worth: average precision over all evaluation pictures, each counted once.

# B batch, A anchors, K classes with background, n detections of a picture
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from channel_prune.config import Config, QuirkConfig
from channel_prune.detect.anchors import anchors_of
from channel_prune.detect.dataset import VocDetection
from channel_prune.detect.dump import ROUNDED_DIGITS, pixel_boxes, write_detections
from channel_prune.detect.postprocess import Detections, detect_boxes
from prunelab import dist
from prunelab.data.loader import Loader
from prunelab.data.voc import VocObjects
from prunelab.metrics.detection import DetectionScores, VocDetectionMeter


def make_meter(classes: tuple[str, ...], quirks: QuirkConfig) -> VocDetectionMeter:
    """The meter that a configuration asks for.

    The original counts pixels of true boxes from 0 and those of detections from 1, and ranks detections by
    the rounded scores of its files.
    """
    return VocDetectionMeter(
        classes,
        score_digits=ROUNDED_DIGITS if quirks.score_rounding else None,
        gt_offset=-1.0 if quirks.box_off_by_one else 0.0,
        empty_class_ap=quirks.empty_class_ap,
        stable=not quirks.score_rounding,
    )


class DetectionEvaluator:
    """Evaluates detectors on the pictures of a loader, which this rank has its part of.

    Args:
        loader: over a `VocDetection` that does not change its pictures.
        cfg: thresholds, quirks, precision.
        device: of the networks.
    """

    def __init__(self, loader: Loader, cfg: Config, device: torch.device) -> None:
        dataset = loader.dataset
        assert isinstance(dataset, VocDetection)
        self.loader, self.dataset, self.cfg, self.device = loader, dataset, cfg, device
        self.meter = make_meter(dataset.classes, cfg.quirks)
        """Detections and objects of the last evaluation, of all ranks."""
        self._objects: dict[int, VocObjects] = {}

    @torch.no_grad()
    def run(self, model: nn.Module) -> Iterator[tuple[str, float]]:
        """Evaluate a network that is in evaluation mode; collective.

        Yields:
            ``mAP``, and ``AP/<class>`` of each class that has objects to find.
        """
        meter = make_meter(self.dataset.classes, self.cfg.quirks)
        anchors = anchors_of(self.cfg.net.image_size, self.device)
        layout = torch.channels_last if self.cfg.run.channels_last else torch.contiguous_format
        for x, targets in self.loader:
            x = x.to(self.device, non_blocking=True, memory_format=layout)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.run.amp == "bf16"):
                outputs = model(x)
            answers = detect_boxes(outputs, anchors, self.cfg.detect)
            for index, found in zip(targets["index"].tolist(), answers, strict=True):
                self._take_in(meter, index, found)
        self.meter = meter.merged()
        scores = self.meter.scores()
        yield "mAP", self._mean(scores)
        values = scores.voc07 if self.cfg.detect.ap == "voc07" else scores.integral
        for name, value in values.items():
            if value is not None:
                yield f"AP/{name}", value

    def _mean(self, scores: DetectionScores) -> float:
        return scores.map_voc07 if self.cfg.detect.ap == "voc07" else scores.map_integral

    def _take_in(self, meter: VocDetectionMeter, index: int, found: Detections) -> None:
        if index not in self._objects:
            self._objects[index] = self.dataset.objects(index)
        truth = self._objects[index]
        quirk = self.cfg.quirks.box_off_by_one
        boxes = pixel_boxes(found.boxes, truth.height, truth.width, off_by_one=quirk)
        real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy().astype(np.float64)
        # The name, so that an older file of detections and this are about the same pictures; the folder too,
        # since two data sets of one evaluation may use the same names.
        meter.update(
            str(self.dataset.samples[index].image),
            (labels[real], scores[real], boxes[real]),
            (truth.labels, truth.boxes, truth.difficult),
        )

    def write(self, folder: str | Path) -> list[Path]:
        """Write the detections of the last evaluation, a file for each class; on rank 0, collective.

        Raises:
            UserError: the folder cannot be written.
        """
        found = {
            Path(name).stem: (picture.labels, picture.scores, picture.boxes)
            for name, picture in self.meter.pictures.items()
        }
        labels = range(1, len(self.dataset.classes) + 1)
        return dist.on_main(lambda: write_detections(folder, found, labels, self.cfg.quirks))
