"""``export``: a trained model in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prunelab.config import to_plain
from prunelab.decode import decode
from prunelab.errors import UserError, entry
from prunelab.export import ExportReport
from prunelab.mask import MASK_SUFFIX, packed
from smp_caption.captioner import Captioner, tokenizer_facts
from smp_caption.cli import parse_export
from smp_caption.evaluate import decode_options
from smp_caption.features.extractor import has_extractor
from smp_caption.files import original
from smp_caption.files.onnx_beam import OnnxCaptioner
from smp_caption.files.onnx_graphs import TOLERANCE, example_of, export_graphs
from smp_caption.files.original_states import sparse_state
from smp_caption.model import Network
from smp_caption.model.checkpoint import own_state
from smp_caption.options import ExportOptions

SUFFIXES = {
    "original": ".pth",
    "sparse": ".sparse.pth",
    "binary": ".bin_mask.pth",
    "packed": ".pack",
    "onnx": ".onnx",
}
BEAMS = 3
"""Beams of the captions that are compared."""


def export(options: ExportOptions) -> Path:
    """Write the model in the format asked for.

    ``original``: the original's state dict, masks included; ``sparse``: pruned weights as COO tensors;
    ``binary``: all weights, with masks rounded; ``packed``: a packed sparse file. Beside these four
    ``config.json`` and ``tokenizer/`` are written where there is no ``config.json``, since such a file loads
    only with them, and the extractor of a model that reads pictures. ``onnx``: a folder with graphs of the
    encoder and of a decoder step, whose captions are compared with PyTorch's
    (`smp_caption.files.onnx_beam` captions with them).

    Raises:
        UserError: no such model, or one without masks where masks are needed.
    """
    source = original.find(Path(options.model))
    captioner = original.load(source)
    base = source if source.is_dir() else source.with_suffix("")
    target = Path(options.output) if options.output else base.with_name(base.name + SUFFIXES[options.format])
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the model itself; name another --output")
    if options.format in ("sparse", "binary") and captioner.mask is None:
        raise UserError(
            f"{source}: has no masks, which --format {options.format} needs: expected a pruned model before "
            f"its masks were applied, such as best/, {original.BEST} or {original.BINARY}"
        )
    if options.dry_run:
        print(f"{source}: would be written to {target}")
        return target
    match options.format:
        case "original":
            original.write_state(target, captioner.model.state_dict())
        case "sparse":
            original.write_state(target, sparse_state(captioner.model))
        case "binary":
            original.write_state(target, rounded_masks(captioner.model))
        case "packed":
            packed.pack(own_state(captioner.pruned().model.state_dict()), target, merge_zeros=True)
        case "onnx":
            dense = captioner.pruned()
            for report in export_onnx(dense, target):
                print(report.summary)
            print(compare(dense, OnnxCaptioner(target), BEAMS))
        case other:
            raise UserError(f"format {other!r} is not known, expected one of {', '.join(SUFFIXES)}")
    if options.format != "onnx":
        _describe(captioner, source, target.parent)
    print(f"written: {target}")
    return target


def _describe(captioner: Captioner, source: Path, folder: Path) -> None:
    """Write what weights alone do not tell, unless it is there."""
    if captioner.extractor is not None and not has_extractor(folder):
        captioner.extractor.save(folder)
    if (folder / original.CONFIG).is_file():
        return
    cfg = original.fitted(original.run_config(source.parent), captioner)
    original.write_config(folder, cfg, captioner, best_global_step=captioner.notes.get("step"))
    print(f"written: {folder / original.CONFIG}, {folder / 'tokenizer'}")


def rounded_masks(model: Network) -> dict[str, Tensor]:
    """The state with its masks rounded to 0 and 1 and its weights as they are (``binarize_supermask``)."""
    return {
        name: (value > 0).to(value.dtype) if name.endswith(MASK_SUFFIX) else value
        for name, value in model.state_dict().items()
    }


def export_onnx(captioner: Captioner, folder: Path) -> tuple[ExportReport, ExportReport]:
    """Write ``encoder.onnx``, ``step.onnx``, the tokenizer and the extractor; see `onnx_graphs`.

    A transformer decodes exactly there, with a cache for each depth, whatever its layers share.

    Raises:
        UserError: a graph would not agree with PyTorch.
    """
    captioner.model.cpu().eval()
    facts = {
        "model": to_plain(captioner.config),
        "decode": to_plain(captioner.decode),
        "tokenizer": tokenizer_facts(captioner.tokenizer),
    }
    reports = export_graphs(captioner.model, folder, facts=facts)
    captioner.tokenizer.save(folder)
    if captioner.extractor is not None:
        captioner.extractor.save(folder)
    return reports


def compare(captioner: Captioner, graphs: OnnxCaptioner, beam_size: int) -> str:
    """Caption noise with PyTorch and with the graphs.

    Returns:
        A line on what was compared.

    Raises:
        UserError: captions differ, or their log-probabilities by more than `TOLERANCE`.
    """
    noise = example_of(captioner.config, pictures=3)
    options = decode_options(captioner.config, captioner.decode, beam_size)
    with torch.inference_mode():
        expected = decode(captioner.model.step, captioner.model.begin(noise), options)
    found = graphs.decoded(noise, options)
    others = int((found.tokens != expected.tokens).any(dim=-1).sum())
    if others:
        raise UserError(f"{others} captions of the graphs differ from PyTorch's, expected none")
    difference = float((found.log_probs - expected.log_probs).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"log-probabilities of the graphs' captions differ by {difference:.1e}, "
            f"expected at most {TOLERANCE:g}"
        )
    return (
        f"captions of noise with {beam_size} beams are PyTorch's, log-probabilities within {difference:.1e}"
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``export``."""
    export(parse_export(argv))


if __name__ == "__main__":
    main()
