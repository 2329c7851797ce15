"""``export``: a trained model in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from acosp_seg.cli import parse_export
from acosp_seg.layout import resolve
from acosp_seg.loading import find_model, load
from acosp_seg.model import Network
from acosp_seg.model.original import write_original
from acosp_seg.options import ExportOptions
from acosp_seg.segmenter import Segmenter
from prunelab.config import to_plain
from prunelab.errors import UserError, entry
from prunelab.util import human_count

SUFFIXES = {"compact": "-compact", "original": ".pth", "onnx": ".onnx"}
"""What is put behind the model's name where no output is named; without a dot it is a folder."""


def export(options: ExportOptions) -> Path:
    """Write the model in the format asked for.

    ``compact``: a model folder with the equal network that has only the kept channels; ``original``: the
    original's checkpoint; ``onnx``: a file for any number of pictures of one size, of the compact network,
    compared with it in onnxruntime.

    Returns:
        What was written.

    Raises:
        UserError: no such model, one that does not have that format, or a place that is the model's own.
    """
    source = find_model(resolve(options.model))
    segmenter = load(source)
    target = Path(options.output) if options.output else _beside(source, options.format)
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the model itself; name another --output")
    if options.dry_run:
        print(f"{source}: would be written to {target}")
        return target
    match options.format:
        case "compact":
            export_compact(segmenter, target)
        case "onnx":
            export_onnx(segmenter, target, height=options.height, width=options.width)
        case _:
            export_original(segmenter, target)
    print(f"written: {target}")
    return target


def _beside(source: Path, format: str) -> Path:
    """Where a model's export goes by itself: beside a model folder, named like it, or beside a file."""
    stem = source.name if source.is_dir() else source.stem
    return source.with_name(stem + SUFFIXES[format])


def export_compact(segmenter: Segmenter, target: Path) -> None:
    """Write the compact network as a model folder and say how much smaller it is."""
    small = segmenter.compact()
    small.save_pretrained(target)
    before, after = (sum(p.numel() for p in m.model.parameters()) for m in (segmenter, small))
    print(f"{human_count(before)} parameters became {human_count(after)}: {before / after:.1f}x fewer")


def export_original(segmenter: Segmenter, target: Path) -> None:
    """Write the original's checkpoint.

    Raises:
        UserError: the network is compact: its layers are not the original's.
    """
    if not isinstance(segmenter.model, Network):
        raise UserError(
            f"format original: the network is {segmenter.layout}, expected dense or masked: "
            "the original has no such layers"
        )
    notes = segmenter.notes
    write_original(target, int(notes.get("epoch", 0)), segmenter.model)


def export_onnx(segmenter: Segmenter, target: Path, *, height: int = 0, width: int = 0) -> None:
    """Write one ONNX file and say how far it is from the network.

    Args:
        segmenter: the model; its compact form is written, which has no masks and no batch norms.
        target: the file.
        height: of the pictures; 0: the model's own window.
        width: likewise.

    Raises:
        UserError: a size that the network does not take, or a graph that does not agree with it.
    """
    from prunelab.export import to_onnx

    test = segmenter.config.test
    size = (height or test.test_h, width or test.test_w)
    if isinstance(segmenter.model, Network):
        segmenter.model.check_input(torch.empty(1, 3, *size, device="meta"))
    generator = torch.Generator().manual_seed(0)
    report = to_onnx(
        segmenter.compact().model,
        (torch.randn(1, 3, *size, generator=generator),),
        target,
        input_names=["picture"],
        output_names=["logits"],
        dynamic={"picture": {0: "pictures"}},
        metadata={"names": list(segmenter.names), "model": to_plain(segmenter.config.model)},
    )
    print(report)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``export``."""
    export(parse_export(argv))


if __name__ == "__main__":
    main()
