"""A segmentation network with all that a picture needs to become a label map, in one folder.

```python
import acosp_seg

m = acosp_seg.load("runs/tour-001/pruned/best")
labels = m.segment("street.jpg")
m.overlay("street.jpg").save("overlay.png")
```

The classifier of 32x32 pictures is the same thing with `Segmenter.classify` in place of `Segmenter.segment`.

# H, W picture, K classes
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from acosp.inject import soft_to_hard_k
from acosp.structure import apply_structure, phase, structure
from acosp_seg.config import Config, DataConfig, ModelConfig, QuirkConfig, TestConfig
from acosp_seg.draw import distinct_colors, with_legend
from acosp_seg.model import build
from acosp_seg.palette import read_colors, read_names, table_file
from acosp_seg.predict import IMAGENET_MEAN, IMAGENET_STD, Predictor, Windows
from prunelab.config import from_plain, to_plain
from prunelab.data import cifar
from prunelab.data.segmentation import read_image
from prunelab.errors import UserError
from prunelab.hub import load_model_folder, load_state, model_card, note_facts, save_model_folder
from prunelab.modes import evaluating
from prunelab.surgery import Program, compact

KIND = "acosp-seg"
CIFAR_MEAN, CIFAR_STD = (tuple(255 * share for share in shares) for shares in (cifar.MEAN, cifar.STD))
"""Of the classifier's pictures, for values 0..255."""
SEGMENT_USAGE = (
    'import acosp_seg\n\nm = acosp_seg.load("this/folder")\nlabels = m.segment("street.jpg")\n'
    'm.overlay("street.jpg").save("overlay.png")'
)
CLASSIFY_USAGE = 'import acosp_seg\n\nm = acosp_seg.load("this/folder")\nprint(m.classify("cat.png"))'
Picture = str | Path | Image.Image | np.ndarray


@dataclass(kw_only=True)
class Segmenter:
    """Everything that turns a picture into a label map."""

    model: nn.Module
    """The network: dense, with soft or hard masks, or compact."""
    config: Config
    """Its sizes, its data set, and how pictures are cut into windows."""
    names: tuple[str, ...] = ()
    """Class names (K); empty: those of the configuration's data set."""
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    """Class colours (K, 3) uint8; empty: those of the configuration's data set."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was noted when it was saved: training step, scores."""

    def __post_init__(self) -> None:
        if not self.names or not len(self.colors):
            names, colors = class_table(self.config)
            self.names = self.names or names
            self.colors = self.colors if len(self.colors) else colors

    @property
    def layout(self) -> str:
        """``dense``, ``soft``, ``hard`` or ``compact``."""
        return "compact" if isinstance(self.model, Program) else phase(self.model)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def classifies(self) -> bool:
        """Whether it says one class of a picture, and not one of every pixel."""
        return self.config.model.arch == "resnet18"

    # ----------------------------------------------------------------------------------------- predicting

    def segment(self, picture: Picture, *, scales: tuple[float, ...] | None = None) -> np.ndarray:
        """The class of every pixel, (H, W) uint8.

        Args:
            picture: a file, a PIL image, or an RGB array (H, W, 3) uint8; of any size.
            scales: scales whose predictions are averaged; None: those of the configuration.

        Raises:
            UserError: a file is missing or no picture, or the network is a classifier.
        """
        if self.classifies:
            raise UserError("this model says one class of a whole picture: use classify, not segment")
        windows = windows_of(self.config)
        if scales is not None:
            windows = replace(windows, scales=scales)
        return self.predictor(windows).labels(as_array(picture))

    def overlay(
        self, picture: Picture, labels: np.ndarray | None = None, *, opacity: float = 0.5
    ) -> Image.Image:
        """The picture with its classes' colours over it, and a legend.

        Args:
            picture: see `segment`.
            labels: what `segment` gave for it; None: it is segmented here.
            opacity: of the colours, 0 to 1.

        Raises:
            UserError: see `segment`.
        """
        image = as_array(picture)
        found = self.segment(image) if labels is None else labels
        return with_legend(image, found, self.names, self.colors, opacity)

    @torch.inference_mode()
    def classify(self, picture: Picture) -> str:
        """The name of a picture's class.

        Args:
            picture: see `segment`; resized to the 32x32 pixels that the network was trained on.

        Raises:
            UserError: a file is missing or no picture, or the network is no classifier.
        """
        if not self.classifies:
            raise UserError("this model says a class of every pixel: use segment, not classify")
        size = self.config.test.test_w, self.config.test.test_h
        image = cv2.resize(as_array(picture), size, interpolation=cv2.INTER_AREA).astype(np.float32)
        x = (image - np.array(CIFAR_MEAN, np.float32)) / np.array(CIFAR_STD, np.float32)
        batch = torch.from_numpy(x).permute(2, 0, 1)[None].to(self.device)  # (1, 3, H, W)
        with evaluating(self.model):
            return self.names[int(self.model(batch).argmax())]

    def predictor(
        self, windows: Windows | None = None, *, amp: bool = False, folded: bool = False
    ) -> Predictor:
        """What predicts many pictures; the network is put in evaluation mode.

        Args:
            windows: how pictures are cut; None: as the configuration says.
            amp: compute in bfloat16 where that is safe.
            folded: use the equal `compact` network, made in a second or two: faster without masks as well,
                since batch norms are folded into the convolutions.
        """
        model = self.compact().model if folded else self.model
        return Predictor(model.eval(), windows or windows_of(self.config), amp=amp)

    # ------------------------------------------------------------------------------------------- changing

    def hardened(self) -> Segmenter:
        """This segmenter with masks of zeros and ones in place of soft ones."""
        if self.layout != "soft":
            return self
        model = copy.deepcopy(self.model)
        soft_to_hard_k(model, stored_mask=self.config.quirks.stored_mask)
        return replace(self, model=model.eval())

    def compact(self) -> Segmenter:
        """This segmenter with an equal network that has only the channels which the masks keep."""
        if self.layout == "compact":
            return self
        hard = self.hardened()
        test = self.config.test
        parameter = next(hard.model.parameters())
        example = torch.zeros(1, 3, test.test_h, test.test_w, device=parameter.device, dtype=parameter.dtype)
        with evaluating(hard.model):
            return replace(hard, model=compact(hard.model, example))

    # --------------------------------------------------------------------------------------------- folders

    def save_pretrained(self, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> Path:
        """Write configuration, weights, structure and model card into a folder.

        Args:
            folder: where to; an earlier model there is replaced.
            extra: plain data to keep with the model besides ``notes``; shown on the card.
        """
        cfg, notes = self.config, {**self.notes, **(extra or {})}
        mean, std = normalisation(cfg)
        plain = {
            "model": to_plain(replace(cfg.model, pretrained="")),
            "dataset": cfg.data.dataset,
            "ignore_label": cfg.data.ignore_label,
            "names": list(self.names),
            "colors": self.colors.tolist(),
            "mean": list(mean),
            "std": list(std),
            "windows": {name: to_plain(cfg.test)[name] for name in WINDOW_FIELDS},
            "notes": to_plain(notes),
        }
        state = self.model.state_dict()
        task = "image-classification" if self.classifies else "image-segmentation"
        facts = {"network": f"{cfg.model.arch}, {self.layout}", "classes": cfg.model.classes}
        card = model_card(
            f"{cfg.model.arch} on {cfg.data.dataset}",
            summary=f"A network for {task.replace('-', ' ')}, made with PruneLab's acosp-seg.",
            facts=facts | note_facts(notes),
            usage=CLASSIFY_USAGE if self.classifies else SEGMENT_USAGE,
            config={name: plain[name] for name in ("model", "dataset", "ignore_label", "windows")},
            state=state,
            tags=(task, "pruning"),
        )
        return save_model_folder(folder, plain, state, kind=KIND, structure=self._structure(), card=card)

    def _structure(self) -> dict[str, Any] | None:
        if isinstance(self.model, Program):
            return {"compact": self.model.structure}
        return None if self.layout == "dense" else {"masks": structure(self.model)}

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Segmenter:
        """Read what `save_pretrained` wrote: a folder, or an id on the Hub.

        Raises:
            UserError: no such folder, another kind of model, or files that do not belong together.
        """
        found = load_model_folder(folder, kind=KIND)
        where = found.dir / "config.json"
        config = _config(found.config, where)
        shape = found.structure or {}
        model: nn.Module
        try:
            if "compact" in shape:
                model = Program(shape["compact"])
            else:
                model = build(config.model, criterion_ignore=config.data.ignore_label)
                if "masks" in shape:
                    apply_structure(model, shape["masks"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: structure does not fit the model: {error}") from error
        load_state(model, found.state, where=str(found.dir))
        return cls(
            model=model.to(torch.device(device)).eval(),
            config=config,
            names=tuple(found.config.get("names", ())),
            colors=np.array(found.config.get("colors", ()), np.uint8).reshape(-1, 3),
            notes=found.config.get("notes", {}),
        )


WINDOW_FIELDS = ("base_size", "test_h", "test_w", "scales", "flip", "stride_rate")


def _config(plain: Mapping[str, Any], where: Path) -> Config:
    """The configuration of a model folder; what only a training needs keeps its defaults."""
    model = from_plain(ModelConfig, plain.get("model"), where=f"{where} model")
    data = {name: plain[name] for name in ("dataset", "ignore_label") if name in plain}
    void = int(plain.get("ignore_label", 255))
    return Config(
        model=model,
        data=from_plain(DataConfig, data, where=str(where)),
        test=from_plain(TestConfig, plain.get("windows", {}), where=f"{where} windows"),
        quirks=QuirkConfig(void_below_classes=void < model.classes),
    )


def class_table(cfg: Config) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names (K) and colours (K, 3) uint8: from the configuration's files, else those of its data set.

    A data set without any has numbers for names and colours that differ.

    Raises:
        UserError: a file is missing, or has another number of lines than there are classes.
    """
    classes, data = cfg.model.classes, cfg.data
    names: Sequence[str] = [f"class {label}" for label in range(classes)]
    colors = distinct_colors(classes + 1)[1:]
    file = table_file(data.names_path, dataset=data.dataset, kind="names")
    if file is not None:
        names = _complete(read_names(file), names, data.names_path)
    file = table_file(data.colors_path, dataset=data.dataset, kind="colors")
    if file is not None:
        colors = _complete(read_colors(file), colors, data.colors_path)
    return tuple(names), colors


def _complete(found: Any, instead: Any, path: str) -> Any:
    """What a file holds, if that fits; a data set's own table may be of other classes than the network."""
    if len(found) == len(instead):
        return found
    if path:
        raise UserError(f"{path}: {len(found)} classes, expected {len(instead)}, one a line")
    return instead


def windows_of(cfg: Config) -> Windows:
    """How a configuration cuts pictures into windows."""
    test = cfg.test
    mean, std = normalisation(cfg)
    return Windows(
        classes=cfg.model.classes,
        crop=(test.test_h, test.test_w),
        base_size=test.base_size,
        scales=test.scales,
        mean=mean,
        std=std,
        stride_rate=test.stride_rate,
        flip=test.flip,
        batch=test.window_batch,
        double=cfg.run.preset == "faithful",
    )


def normalisation(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels that a configuration's pictures are normalised by."""
    return (CIFAR_MEAN, CIFAR_STD) if cfg.model.arch == "resnet18" else (IMAGENET_MEAN, IMAGENET_STD)


def as_array(picture: Picture) -> np.ndarray:
    """A picture as RGB (H, W, 3) uint8.

    Raises:
        UserError: a file is missing or no picture, or an array is of another shape or type.
    """
    if isinstance(picture, str | Path):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UserError(f"picture is {picture.dtype} {picture.shape}, expected uint8 (height, width, 3)")
    return picture
