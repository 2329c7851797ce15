"""What predictions are worth: segmentation, classification, detection, running means."""

from prunelab.metrics.classification import ClassificationMeter
from prunelab.metrics.detection import DetectionScores, VocDetectionMeter
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
    "DetectionScores",
    "Scores",
    "SegmentationMeter",
    "VocDetectionMeter",
    "areas",
    "areas_closed_bin",
    "areas_histc",
    "best_constant",
]
