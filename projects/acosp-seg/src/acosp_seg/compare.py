"""``compare``: networks side by side on one test set: scores, cost, size of the file, time for a picture.

Masked networks get a second row: the equal, compact network without the masked channels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from acosp_seg.cli import parse_compare
from acosp_seg.config import Config
from acosp_seg.loading import load
from acosp_seg.lowering import lower_test
from acosp_seg.plots import compare_networks
from acosp_seg.segmenter import Segmenter, class_table, windows_of
from acosp_seg.test import chosen, listed
from prunelab.config import to_plain, yaml_text
from prunelab.data.segmentation import Sample, read_image, read_label
from prunelab.errors import UserError, entry
from prunelab.flops import count
from prunelab.metrics import SegmentationMeter, best_constant
from prunelab.progress import Progress
from prunelab.report import Cell, Format, Table, latency, result_table
from prunelab.util import StrPath, atomic_write, human_bytes, write_json

COLUMNS = ["model", "mIoU", "mAcc", "MACs", "parameters", "file", "ms / picture"]
FORMATS: dict[str, Format] = {"mIoU": ".3f", "mAcc": ".3f", "file": human_bytes, "ms / picture": ".1f"}
COLUMNS_DRAWN = 5
"""Pictures of a figure."""
COMPACT = ", compact"
"""Behind the name of a network that was masked."""
Row = dict[str, Cell]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One network of the table."""

    name: str
    segmenter: Segmenter
    file: Path
    """Its weights, as they would be shipped."""


def rivals(name: str, segmenter: Segmenter, folder: Path, scratch: Path) -> list[Rival]:
    """A network under its name, and its compact form where channels are masked.

    Args:
        name: for the table.
        segmenter: the network; soft masks are made hard.
        folder: its model folder.
        scratch: folder for the compact form, which is written there.
    """
    found = [Rival(name=name, segmenter=segmenter.hardened(), file=folder / "model.safetensors")]
    if segmenter.layout in ("soft", "hard"):
        small = segmenter.compact()
        place = small.save_pretrained(scratch)
        found.append(Rival(name=name + COMPACT, segmenter=small, file=place / "model.safetensors"))
    return found


def row_of(rival: Rival, samples: Sequence[Sample], cfg: Config) -> Row:
    """A network's line: scores over all pictures, cost of one window, time for the first picture."""
    segmenter = rival.segmenter
    windows = windows_of(cfg)
    meter = SegmentationMeter(cfg.model.classes, cfg.data.ignore_label)
    predictor = segmenter.predictor(windows)
    progress = Progress(rival.name)
    for number, sample in enumerate(samples, 1):
        meter.update(predictor.labels(read_image(sample.image)), read_label(sample.label))
        if number % 50 == 0:
            progress.line(f"{rival.name}: {number}/{len(samples)} pictures")
    progress.close()
    scores = meter.scores()
    cost = count(segmenter.model, torch.zeros(1, 3, *windows.crop))
    image = read_image(samples[0].image)
    time = latency(lambda: predictor.labels(image))
    return {
        "model": rival.name,
        "mIoU": scores.miou,
        "mAcc": scores.macc,
        "MACs": cost.macs,
        "parameters": cost.parameters,
        "file": rival.file.stat().st_size,
        "ms / picture": 1000 * time.median,
    }


def constant_row(samples: Iterable[Sample], cfg: Config) -> Row:
    """What saying one class of every pixel is worth."""
    meter = SegmentationMeter(cfg.model.classes, cfg.data.ignore_label)
    for sample in samples:
        labels = read_label(sample.label)
        meter.update(labels, labels)
    best, scores = best_constant(meter.areas.target)
    names, _ = class_table(cfg)
    return {"model": f"best constant answer ({names[best]})", "mIoU": scores.miou, "mAcc": scores.macc}


def table_of(rows: Sequence[Row], samples: Sequence[Sample], cfg: Config, notes: Sequence[str] = ()) -> Table:
    """The rows for people."""
    size = f"{cfg.test.test_w}x{cfg.test.test_h}"
    title = f"{len(samples)} test pictures, windows of {size} at base size {cfg.test.base_size}"
    return result_table(title, COLUMNS, rows, formats=FORMATS, notes=notes)


def draw(shown: Sequence[Rival], samples: Sequence[Sample], path: StrPath) -> None:
    """Write a picture of what networks see: a column a test picture, with its truth on top.

    Raises:
        UserError: the file cannot be written.
    """
    chosen = samples[:: max(1, len(samples) // COLUMNS_DRAWN)][:COLUMNS_DRAWN]
    pictures = [(read_image(sample.image), read_label(sample.label)) for sample in chosen]
    sheet = compare_networks({rival.name: rival.segmenter for rival in shown}, pictures)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG", optimize=True)


def compare(cfg: Config, models: Sequence[str], figure: str = "") -> list[Row]:
    """Score and time networks on the configuration's test pictures.

    Args:
        cfg: test pictures, windows.
        models: ``NAME=PLACE`` each, or a place alone, which is its own name.
        figure: file of `draw`; empty: none. A compact network sees what its masked one does, and is left out.

    Returns:
        The table's rows, the best constant answer first.

    Raises:
        UserError: a model or the pictures are missing, do not fit, or have no label maps.
    """
    samples = chosen(listed(cfg, Path(cfg.test.save_folder)), cfg)
    if not all(sample.has_label for sample in samples):
        raise UserError(f"test_list {cfg.data.test_list!r} has no label maps, expected split val or train")
    rows, shown = [constant_row(samples, cfg)], []
    for word in models:
        name, _, place = word.rpartition("=")
        segmenter = load(place, config=cfg)
        with tempfile.TemporaryDirectory() as scratch:
            written = segmenter.save_pretrained(Path(scratch) / "model")
            found = rivals(name or place, segmenter, written, Path(scratch) / "compact")
            rows += [row_of(rival, samples, cfg) for rival in found]
            shown.append(found[0])
    if figure:
        draw(shown, samples, figure)
    table_of(rows, samples, cfg).print()
    return rows


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``compare``."""
    raw, options = parse_compare(argv)
    cfg = lower_test(replace(raw, typed={"model": options.models[-1].rpartition("=")[2], **raw.typed}))
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{len(options.models)} models on {cfg.data.dataset}: configuration is right; nothing was run")
    else:
        rows = compare(cfg, options.models, options.figure)
        if options.json:
            write_json(options.json, rows)


if __name__ == "__main__":
    main()
