"""Pictures to region features, with any convolutional backbone and no labels.

A picture is looked at at several scales; at each a square grid of cells is pooled from the backbone's maps:
a region is one cell of one scale. B pictures, S regions, F size of a region's feature, n sides of a grid.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from prunelab.config import from_plain
from prunelab.data.synthetic import find_regions
from prunelab.errors import UserError
from prunelab.hub import load_state
from prunelab.mask import files
from prunelab.util import read_json, save_tensors
from smp_caption.features.backbones import IMAGENET_MEAN, IMAGENET_STD, build_backbone

CONFIG_FILE = "extractor.json"
WEIGHTS_FILE = "extractor.safetensors"
FORMAT = "smp-caption-extractor/1"
SHAPES = "shapes"
"""Name of the backbone of `ShapeExtractor`."""


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """How pictures become regions."""

    backbone: str = "resnet20_cifar"
    """Name as `build_backbone` takes it."""
    weights: str = "random"
    """Where the backbone's weights came from (a file's name, ``pretrained``, ``random``), for reports."""
    scales: tuple[tuple[int, int], ...] = ((32, 1), (64, 3), (128, 5))
    """(side of the resized picture in pixels, cells along a side) of each scale."""
    colour: bool = True
    """Add mean and spread of the cell's colours."""
    crops: bool = False
    """A region is a box cut out and resized to the first scale, not a cell of the whole picture."""

    def __post_init__(self) -> None:
        """Check the scales."""
        if not self.scales or any(side < 8 or not 1 <= cells <= side // 4 for side, cells in self.scales):
            raise UserError(
                f"scales {self.scales}: expected SIDE:CELLS with SIDE >= 8 and 1 <= CELLS <= SIDE / 4"
            )

    @property
    def regions(self) -> int:
        """Number of regions S of every picture."""
        return sum(cells * cells for _, cells in self.scales)


class Extractor:
    """Computes the features of pictures, standardised with statistics of the training pictures.

    Attributes:
        config: scales and backbone.
        network: maps (B, 3, h, w) to a list of maps.
        mean, std: (F,) statistics that features are standardised with; 0 and 1 until `fit`.
    """

    def __init__(
        self, config: ExtractorConfig, network: nn.Module, device: torch.device | None = None
    ) -> None:
        self.config = config
        self.device = device or torch.device("cpu")
        self.network = network.eval().to(self.device)
        self.mean = torch.zeros(())
        self.std = torch.ones(())

    def __call__(
        self, pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Features of each picture, (S, F) float32.

        Args:
            pictures: any sizes.
            boxes: (S, 4) relative x1, y1, x2, y2 of each picture's regions, for an extractor of crops;
                None: the cells of all scales.
        """
        if not self.config.crops:
            return list(self.grid(pictures).numpy())
        places = self.boxes(pictures) if boxes is None else boxes
        return [self.cut(picture, place).numpy() for picture, place in zip(pictures, places, strict=True)]

    def boxes(self, pictures: Sequence[Image.Image]) -> list[np.ndarray]:
        """Where the regions of each picture are that it is called with, (S, 4) relative x1, y1, x2, y2."""
        cells = np.concatenate([_cells(n) for _, n in self.config.scales]).astype(np.float32)
        return [cells] * len(pictures)

    @torch.inference_mode()
    def grid(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Features (B, S, F) of pictures, cell by cell and scale by scale."""
        raw = torch.cat([self._scale(pictures, side, cells) for side, cells in self.config.scales], dim=1)
        return (raw.cpu() - self.mean) / self.std

    @torch.inference_mode()
    def cut(self, picture: Image.Image, boxes: np.ndarray) -> Tensor:
        """Features (S, F) of the boxes (S, 4; relative) of one picture."""
        size = np.array([picture.width, picture.height] * 2)
        corners = np.clip(boxes, 0, 1) * size
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)  # a crop has a pixel at least
        rounded = [tuple(round(x) for x in box) for box in corners.tolist()]
        crops = [picture.crop((a, b, c, d)) for a, b, c, d in rounded]
        raw = self._scale(crops, self.config.scales[0][0], 1)[:, 0].cpu()
        x1, y1, x2, y2 = torch.from_numpy(np.clip(boxes, 0, 1).astype(np.float32)).unbind(1)
        # Where a cell has its row, column and scale, a box has its centre and the side of an equal square.
        raw[:, -3:] = torch.stack(
            [(y1 + y2) / 2, (x1 + x2) / 2, ((x2 - x1) * (y2 - y1)).clamp_min(0).sqrt()], 1
        )
        return (raw - self.mean) / self.std

    @property
    def feature_size(self) -> int:
        """Numbers F of a region."""
        return self.mean.numel()

    def fit(self, pictures: Iterator[Sequence[Image.Image]]) -> None:
        """Set `mean` and `std` (F,) from batches of training pictures, over all their regions."""
        self.mean, self.std = torch.zeros(()), torch.ones(())
        self.fit_to(torch.from_numpy(np.concatenate(self(batch))) for batch in pictures)

    def fit_to(self, batches: Iterable[Tensor]) -> None:
        """Set `mean` and `std` from batches of features (rows, F) that were computed before any fitting."""
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for batch in batches:
            features = batch.double()
            count += len(features)
            total = total + features.sum(0)
            squares = squares + features.square().sum(0)
        if not count:
            raise UserError("no training pictures to fit the features' mean and spread on")
        mean = total / count
        spread = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean, self.std = mean.float(), torch.where(spread > 1e-6, spread, 1.0).float()

    def _scale(self, pictures: Sequence[Image.Image], side: int, cells: int) -> Tensor:
        pixels = torch.stack([_pixels(picture, side) for picture in pictures]).to(self.device)
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        try:
            maps = self.network((pixels - mean) / std)
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"{self.config.backbone} refuses pictures of side {side} ({error}): try other --scales"
            ) from error
        parts = [functional.adaptive_avg_pool2d(m, cells) for m in maps]
        # The strongest response in a cell tells of small things that its mean hides.
        parts.append(functional.adaptive_max_pool2d(max(maps, key=lambda m: m.shape[1]), cells))
        if self.config.colour:
            average = functional.adaptive_avg_pool2d(pixels, cells)
            spread = functional.adaptive_avg_pool2d(pixels.square(), cells) - average.square()
            parts += [average, spread.clamp_min(0).sqrt()]
        parts.append(_position(cells, side).to(pixels).expand(len(pixels), -1, -1, -1))
        # (B, F, n, n) -> (B, n*n, F)
        return torch.cat(parts, dim=1).flatten(2).transpose(1, 2)

    def save(self, folder: Path) -> None:
        """Write ``extractor.json`` and ``extractor.safetensors`` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            f"network.{key}": value.cpu().contiguous() for key, value in self.network.state_dict().items()
        }
        save_tensors({**state, "mean": self.mean, "std": self.std}, folder / WEIGHTS_FILE)
        text = json.dumps({"format": FORMAT, **asdict(self.config)}, indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    def files(self) -> dict[str, bytes]:
        """What `save` writes, by file name."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            return {name: (Path(folder) / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> Extractor:
        """Read what `save` wrote.

        Raises:
            UserError: the folder holds no extractor, or its files do not belong together.
        """
        if not has_extractor(folder):
            raise UserError(f"{folder} holds no {CONFIG_FILE} and {WEIGHTS_FILE}: run `extract` first")
        file, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        plain = read_json(file)
        if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
            raise UserError(f"{file}: expected format {FORMAT!r}")
        config = from_plain(ExtractorConfig, plain, where=str(file))
        if config.backbone.startswith(SHAPES):
            return ShapeExtractor(int(config.backbone.partition(":")[2]))
        extractor = cls(config, build_backbone(config.backbone, None), device)
        state, _ = files.load_state(weights)
        if not {"mean", "std"} <= state.keys():
            raise UserError(f"{weights}: mean or std is missing, expected the weights of {file}")
        extractor.mean, extractor.std = state.pop("mean"), state.pop("std")
        network = {key.removeprefix("network."): value for key, value in state.items()}
        load_state(extractor.network, network, where=str(weights))
        return extractor


class ShapeExtractor(Extractor):
    """The extractor of the embedded pictures: statistics of the regions that stand out from the ground.

    It reads any picture; a model trained on coloured shapes sees coloured shapes in it.
    """

    def __init__(self, feature_size: int) -> None:
        super().__init__(ExtractorConfig(backbone=f"{SHAPES}:{feature_size}", weights="none"), nn.Identity())

    def __call__(
        self, pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Features of each picture, (S, F) float32; it finds the S regions itself."""
        return [find_regions(picture, self.feature_size)[1] for picture in pictures]

    def boxes(self, pictures: Sequence[Image.Image]) -> list[np.ndarray]:
        """The boxes that it finds, (S, 4) relative x1, y1, x2, y2."""
        return [find_regions(picture, self.feature_size)[0] for picture in pictures]

    @property
    def feature_size(self) -> int:
        """Numbers F of a region."""
        return int(self.config.backbone.partition(":")[2])


def has_extractor(folder: Path) -> bool:
    """Whether `folder` holds an extractor's two files."""
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def make_extractor(
    config: ExtractorConfig, weights: str | None = None, device: torch.device | None = None, seed: int = 0
) -> Extractor:
    """Build an extractor with a fresh backbone; random weights are drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Extractor(config, build_backbone(config.backbone, weights), device)


def _pixels(picture: Image.Image, side: int) -> Tensor:
    """Resize to (3, side, side) floats in 0..1."""
    resized = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255).permute(2, 0, 1)


def _cells(cells: int) -> np.ndarray:
    """Relative boxes (n*n, 4) of a grid's cells, row by row."""
    line = np.arange(cells) / cells
    top, left = (x.ravel() for x in np.meshgrid(line, line, indexing="ij"))
    return np.stack([left, top, left + 1 / cells, top + 1 / cells], axis=1)


def _position(cells: int, side: int) -> Tensor:
    """Row, column (0..1) and scale (in units of 128 pixels) of each cell: (3, n, n)."""
    line = torch.arange(cells) / max(cells - 1, 1)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([rows, columns, torch.full((cells, cells), side / 128)])
