"""``export``: a trained captioner as ONNX graphs, or as the original's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expansionnet import decoding
from expansionnet.captioner import Captioner, load
from expansionnet.cli import parse_export
from expansionnet.files.loading import find_weights
from expansionnet.files.onnx_beam import OnnxCaptioner
from expansionnet.files.onnx_graphs import Example, export_graphs
from expansionnet.layout import newest_model
from expansionnet.options import LEAST_OPSET, ExportOptions
from prunelab.config import to_plain
from prunelab.errors import UserError, entry
from prunelab.export import ExportReport, Simplify
from prunelab.modes import evaluating

SUFFIXES = {"onnx": ".onnx", "original": ".pth"}
"""What is put behind the model's name where no output is named."""
TOLERANCE = 1e-4
"""Largest difference of log-probabilities of captions that is accepted."""


def export(options: ExportOptions) -> Path:
    """Write the model in the format asked for, and prove that it captions as before.

    Returns:
        The folder of graphs, or the checkpoint.

    Raises:
        UserError: no such model, a place that is its own, or an export that would not agree with it.
    """
    if options.dry_run:
        print(options)
        return Path(options.output)
    source = find_weights(options.model) if options.model else newest_model()
    stem = source.name if source.is_dir() else source.stem
    target = Path(options.output) if options.output else source.with_name(stem + SUFFIXES[options.format])
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the model itself; name another --output")
    captioner = load(source, vocab_path=options.vocab_path or None, **options.typed)
    if options.format == "original":
        captioner.save_original(target)
    else:
        simplify: Simplify = "fold" if options.onnx_simplify else "no"
        opset = max(options.onnx_opset, LEAST_OPSET)
        if opset != options.onnx_opset:
            print(f"onnx_opset {options.onnx_opset} is not written by torch's exporter any more: {opset} is")
        for report in export_onnx(captioner, target, opset=opset, simplify=simplify):
            print(report.summary)
        print(compare(captioner, OnnxCaptioner(target), options.pictures, options.beam_size))
    print(f"written: {target}")
    return target


# ------------------------------------------------------------------------------------------------------ ONNX


def export_onnx(
    captioner: Captioner, folder: Path, *, opset: int | None = None, simplify: Simplify = "fold"
) -> tuple[ExportReport, ExportReport]:
    """Write ``encoder.onnx``, ``step.onnx`` and ``vocabulary.json``; see `onnx_graphs.export_graphs`."""
    facts = {
        "model": to_plain(captioner.config),
        "decode": to_plain(captioner.decode),
        "black_pictures": captioner.black_pictures,
    }
    reports = export_graphs(captioner.model, folder, facts=facts, opset=opset, simplify=simplify)
    captioner.vocabulary.save(folder)
    return reports


def compare(captioner: Captioner, exported: OnnxCaptioner, pictures: Sequence[str], beam_size: int) -> str:
    """Caption with PyTorch and with the graphs.

    Args:
        captioner: in PyTorch.
        exported: its graphs.
        pictures: files; none: noise.
        beam_size: beams.

    Returns:
        A line on what was compared.

    Raises:
        UserError: captions differ, or their log-probabilities by more than `TOLERANCE`.
    """
    noise = Example.of(captioner.config)
    x, pads = (captioner.inputs(pictures), None) if pictures else (noise.x, noise.pads)
    options = exported.options(beam_size)
    with evaluating(captioner.model):
        expected = decoding.search(captioner.model, x, options, enc_pads=pads)
    found = exported.search(x, options, pads=pads)
    others = sum(a != b for a, b in zip(expected.tokens, found.tokens, strict=True))
    if others:
        raise UserError(f"{others} of {len(x)} captions of the graphs differ from PyTorch's, expected none")
    difference = float((expected.log_probs - found.log_probs).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"log-probabilities of the graphs' captions differ by {difference:.1e}, "
            f"expected at most {TOLERANCE:g}"
        )
    what = "pictures" if pictures else "noise"
    return (
        f"{len(x)} captions of {what} with {beam_size} beams are PyTorch's, log-probabilities within "
        f"{difference:.1e}"
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``export``."""
    export(parse_export(argv))


if __name__ == "__main__":
    main()
