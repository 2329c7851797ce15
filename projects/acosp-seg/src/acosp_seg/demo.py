"""``demo``: segment pictures and paint the classes over them, or name them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from acosp_seg import plots
from acosp_seg.cli import parse_demo
from acosp_seg.config import Config, QuirkConfig
from acosp_seg.draw import file_names, write_color, write_gray, write_picture
from acosp_seg.layout import newest_model, resolve
from acosp_seg.loading import find_model, load
from acosp_seg.lowering import lower_file
from acosp_seg.options import DemoOptions
from acosp_seg.predict import Predictor, scaled_size
from acosp_seg.segmenter import Segmenter
from prunelab import dist
from prunelab.data.segmentation import PICTURES, find_pictures, read_image, typed_pictures
from prunelab.errors import UserError, entry
from prunelab.log import METRICS

MASKS, HARDENING = "masks.png", "hardening.png"
"""The plot of the masks, beside the pictures."""
MOST = 40
"""Pictures that the original's demo takes; of more it draws so many, some of them twice."""


def demo(options: DemoOptions) -> list[Path]:
    """Segment the pictures; write an overlay with a legend, a grey and a colour label map of each.

    A classifier's answers are printed instead. Of a network with masks a plot of them is written as well.

    Returns:
        The overlays.

    Raises:
        UserError: no model, no picture, or one that cannot be read.
    """
    cfg = configuration(options)
    device = dist.start(cfg.run.device if cfg else options.device)
    try:
        place = options.model or (cfg.test.model_path if cfg else newest_model())
        segmenter = load(place, config=cfg, device=device)
        if cfg is None and options.preset is not None:
            segmenter.config = with_preset(segmenter.config, options.preset)
        pictures = chosen(options, drawn=bool(cfg and cfg.run.preset == "faithful"))
        folder = resolve(options.output or (cfg.test.demo_save_path if cfg else "") or "demo")
        if segmenter.layout in ("soft", "hard"):
            plots.save(plots.mask_figure(segmenter.model, title=f"masks of {place}"), folder / MASKS)
            print(f"masks: {folder / MASKS}")
            history = find_model(place).parent / METRICS
            if history.is_file():
                plots.save(plots.history_figure(history), folder / HARDENING)
                print(f"how they hardened: {folder / HARDENING}")
        if segmenter.classifies:
            for picture in pictures:
                print(f"{picture}: {segmenter.classify(picture)}")
            return []
        return write_all(segmenter, pictures, folder, options.opacity)
    finally:
        dist.stop()


def configuration(options: DemoOptions) -> Config | None:
    """What a YAML file and its KEY VALUE pairs say; None without a file: the model knows."""
    if options.config_file is None:
        return None
    typed = {"device": options.device}
    if options.preset is not None:
        typed["preset"] = options.preset
    return lower_file(options.config_file, options.overrides, typed)


def with_preset(cfg: Config, preset: str) -> Config:
    """A configuration with all quirks of a preset."""
    return replace(cfg, run=replace(cfg.run, preset=preset), quirks=QuirkConfig.of(preset))


def chosen(options: DemoOptions, *, drawn: bool) -> list[Path]:
    """The pictures that were typed: files, folders with all that is in them, and a pattern's matches.

    Args:
        options: what was typed.
        drawn: of more than `MOST` matches draw so many, some of them twice, as the original does.

    Raises:
        UserError: there is none.
    """
    found = typed_pictures(options.files)
    if options.image_dir:
        pattern = options.image_dir
        if Path(pattern).is_dir():
            matches = find_pictures(pattern)
        else:
            matches = sorted(p for p in map(Path, glob.glob(pattern)) if p.suffix.lower() in PICTURES)
        if not matches:
            raise UserError(f"image-dir {pattern!r}: no pictures there, expected .jpg or .png files")
        if drawn and len(matches) >= MOST:
            places = np.random.RandomState(42).choice(len(matches), MOST)
            matches = list(dict.fromkeys(matches[place] for place in places))
        found += matches
    return found


def write_all(segmenter: Segmenter, pictures: Sequence[Path], folder: Path, opacity: float) -> list[Path]:
    """Segment pictures and write their files; print how much of each its largest class takes.

    Args:
        segmenter: network, classes and windows.
        pictures: files.
        folder: where to.
        opacity: of the colours over a picture.

    Returns:
        The overlays.
    """
    names = file_names(pictures, cut_at_dot=segmenter.config.quirks.names_cut_at_dot)
    predictor = segmenter.predictor()
    written = []
    for picture, name in zip(pictures, names, strict=True):
        image = read_image(picture)
        labels = labels_of(predictor, image, segmenter.config)
        write_gray(folder / f"{name}_gray.png", labels)
        write_color(folder / f"{name}_color.png", labels, segmenter.colors)
        written.append(folder / f"{name}_overlay.png")
        write_picture(written[-1], segmenter.overlay(image, labels, opacity=opacity))
        counts = np.bincount(labels.ravel(), minlength=len(segmenter.names))
        largest = int(counts.argmax())
        print(
            f"{picture}: mostly {segmenter.names[largest]} ({counts[largest] / labels.size:.0%}), "
            f"{written[-1]}"
        )
    return written


def labels_of(predictor: Predictor, image: np.ndarray, cfg: Config) -> np.ndarray:
    """The class of every pixel (H, W) uint8: by the mean over all scales, or as the original's demo has it.

    The original's lets the last scale overwrite the others, and resizes whole numbers.
    """
    if not cfg.quirks.demo_last_scale:
        return predictor.labels(image)
    size = image.shape[0], image.shape[1]
    high, wide = scaled_size(size, cfg.test.scales[-1], cfg.test.base_size)
    scaled = cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR)
    found = predictor.at_scale(scaled.astype(np.float32), size)
    return found.argmax(dim=2).cpu().numpy().astype(np.uint8)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``demo``."""
    options = parse_demo(argv)
    if options.dry_run:
        configuration(options)
        print(f"demo: {options}")
    else:
        demo(options)


if __name__ == "__main__":
    main()
