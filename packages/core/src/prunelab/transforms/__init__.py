"""Pictures, with their label maps, on the way to a network."""

from prunelab.transforms.paired import (
    BGR2RGB,
    MEAN,
    RGB2BGR,
    STD,
    Compose,
    Crop,
    Normalize,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    RandRotate,
    RandScale,
    Resize,
    Rng,
    ToTensor,
)
from prunelab.transforms.window import RandomCrop, normalised

__all__ = [
    "BGR2RGB",
    "MEAN",
    "RGB2BGR",
    "STD",
    "Compose",
    "Crop",
    "Normalize",
    "RandRotate",
    "RandScale",
    "RandomCrop",
    "RandomGaussianBlur",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "Resize",
    "Rng",
    "ToTensor",
    "normalised",
]
