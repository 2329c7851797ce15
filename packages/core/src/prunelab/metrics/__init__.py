"""What predictions are worth: segmentation, classification, running means."""

from prunelab.metrics.classification import ClassificationMeter
from prunelab.metrics.meter import AverageMeter
from prunelab.metrics.segmentation import (
    Areas,
    Scores,
    SegmentationMeter,
    areas,
    areas_closed_bin,
    areas_histc,
    best_constant,
)

__all__ = [
    "Areas",
    "AverageMeter",
    "ClassificationMeter",
    "Scores",
    "SegmentationMeter",
    "areas",
    "areas_closed_bin",
    "areas_histc",
    "best_constant",
]
