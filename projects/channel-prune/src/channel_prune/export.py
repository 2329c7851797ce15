"""``export``: a trained network in another format; and how fast it is in each of its forms.

ONNX stands in place of the original's GraphDef and TFLite files. Where the original picked the inputs of
every pruned convolution from all channels, which were all computed, ours are slim: nobody computes them.

# B batch, S side of pictures, K classes
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.cli import parse_export
from channel_prune.files.loading import find_model, load
from channel_prune.files.original import write_original
from channel_prune.files.saved import Saved
from channel_prune.layout import newest_model
from channel_prune.model import build
from channel_prune.options import ExportOptions
from channel_prune.slim import Slim, masked, slim
from prunelab.config import to_plain
from prunelab.errors import UserError, entry
from prunelab.export import ExportReport, to_onnx
from prunelab.flops import count
from prunelab.modes import evaluating
from prunelab.report import Table, latency, result_table
from prunelab.surgery import compact, resize
from prunelab.util import human_bytes, human_count

SUFFIXES = {"onnx": ".onnx", "onnx-masked": "-masked.onnx", "slim": "-slim", "original": ".npz"}
"""What is put behind the model's name where no output is named; without a dot it is a folder."""
SOFTMAX = "net_output"
"""The original's name of the probabilities that its export adds."""
Kept = Mapping[str, Sequence[int]]


def export(options: ExportOptions) -> Path:
    """Write the network in the format asked for, and time its forms if asked to.

    Returns:
        What was written.

    Raises:
        UserError: no such model, one that cannot have that format, or a place that is the model's own.
    """
    source = find_model(options.model) if options.model else newest_model()
    target = Path(options.output) if options.output else _beside(source, options.format)
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the model itself; name another --output")
    if options.dry_run:
        print(f"{source}: would be written to {target}")
        return target
    saved = load(source).saved
    example = example_of(saved, options.image_size)
    if options.format == "onnx-masked" and saved.structure is not None:
        raise UserError(
            f"{source}: slim already, expected a network with channels of zeros, say a run's best/"
        )
    kept = kept_of(saved, example)
    if options.enbl_fake_prune:
        saved, kept = _pruned_at_random(saved, example, options.fake_prune_ratio)
    small = slim(saved.model, kept, example, round_to=options.round_to) if kept else None
    match options.format:
        case "original":
            pruned = any(len(channels) < _inputs(saved.model, path) for path, channels in kept.items())
            target = write_original(target, saved.model, pruned=pruned, notes=saved.notes)
        case "slim":
            slimmed(saved, small).save(target)
        case _:
            form = saved if options.format == "onnx-masked" else slimmed(saved, small)
            print(export_onnx(form, example, target, free_size=not options.image_size))
    if options.nb_repts:
        times(saved, kept, small, example, warmup=options.nb_repts_warmup, calls=options.nb_repts).print()
    print(f"written: {target}")
    return target


def _beside(source: Path, format: str) -> Path:
    """Where an export goes by itself: beside a model folder, named like it, or beside a file."""
    stem = source.name if source.is_dir() else source.stem
    return source.with_name(stem + SUFFIXES[format])


def _inputs(model: nn.Module, path: str) -> int:
    return model.get_submodule(path).get_parameter("weight").shape[1]


def example_of(saved: Saved, side: int = 0) -> Tensor:
    """A picture of noise (1, 3, S, S), for a side or, with 0, the network's own."""
    side = side or saved.net.image_size
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def kept_of(saved: Saved, example: Tensor) -> dict[str, list[int]]:
    """The channels that are no zeros, by convolution; empty for a slim network."""
    return {} if saved.structure is not None else Masks.from_zeros(prunable(saved.model, example)).kept


def _pruned_at_random(saved: Saved, example: Tensor, ratio: float) -> tuple[Saved, dict[str, list[int]]]:
    """The network with random channels set to zero, in all convolutions but the first: for its speed alone.

    Raises:
        UserError: the network is slim already.
    """
    if saved.structure is not None:
        raise UserError("enbl_fake_prune: the network is slim already, expected a full one")
    generator = torch.Generator().manual_seed(0)
    kept = {}
    for layer in prunable(saved.model, example)[1:]:
        channels = layer.conv.in_channels
        order = torch.randperm(channels, generator=generator)[: max(1, int(channels * (1 - ratio)))]
        kept[layer.name] = sorted(order.tolist())
    return replace(saved, model=masked(saved.model, kept)), kept


def slimmed(saved: Saved, small: Slim | None) -> Saved:
    """What a model folder of the slim network holds; the same where it is slim already."""
    return saved if small is None else replace(saved, model=small.model, structure=small.structure)


class _WithSoftmax(nn.Module):
    """Logits, and probabilities as the original's export has them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) to two of (B, K)."""
        logits = self.model(x)
        return logits, logits.softmax(1)


def export_onnx(saved: Saved, example: Tensor, target: Path, *, free_size: bool = False) -> ExportReport:
    """Write one ONNX file, compared with the network in onnxruntime.

    A classifier's file gives ``logits`` and the probabilities `SOFTMAX`; a detector's ``loc`` and ``cls``, as
    its network does.

    Args:
        saved: the network, in the form that is written.
        example: a picture (1, 3, S, S).
        target: the file.
        free_size: also let the size of pictures vary, where the network of a classifier does not mind; the
            number of pictures always may.

    Raises:
        UserError: the network cannot be written, or the file would not agree with it.
    """
    detects = saved.net.detects
    model = saved.model if detects else _WithSoftmax(saved.model)
    names = ["loc", "cls"] if detects else ["logits", SOFTMAX]
    metadata = {"classes": list(saved.classes), "net": to_plain(saved.net)}
    metadata["preprocess"] = to_plain(saved.preprocess)
    sizes = {2: "height", 3: "width"} if free_size and not detects else {}
    try:
        return to_onnx(
            model,
            (example,),
            target,
            input_names=["picture"],
            output_names=names,
            dynamic={"picture": {0: "pictures", **sizes}},
            metadata=metadata,
        )
    except UserError:
        if not sizes:
            raise
    return export_onnx(saved, example, target)


def times(saved: Saved, kept: Kept, small: Slim | None, example: Tensor, *, warmup: int, calls: int) -> Table:
    """Cost and speed of a network's forms; differences are to the masked one, or to the slim one alone.

    Args:
        saved: the masked network, or a slim one.
        kept: channels of the masked one that are no zeros.
        small: the slim one; None where ``saved`` is it.
        example: a picture (1, 3, S, S).
        warmup: calls of each before it is timed.
        calls: calls that are timed.
    """
    rows = []
    with evaluating(saved.model), torch.inference_mode():
        expected = _leaves(saved.model(example))
        for name, model in _forms(saved, kept, small, example):
            found = _leaves(model.eval()(example))
            apart = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
            call = partial(model, example)
            took = latency(call, calls=calls, warmup=warmup, most_seconds=float("inf"))
            state = model.state_dict().values()
            rows.append(
                {
                    "form": name,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "MACs": count(model, example).macs,
                    "weights": sum(t.numel() * t.element_size() for t in state),
                    "ms / picture": 1000 * took.median,
                    "max abs difference": None if name == "full" else apart,
                }
            )
    return result_table(
        f"{saved.net.name}, a picture of {example.shape[-1]} pixels at a time, "
        f"median of {calls} calls, {torch.get_num_threads()} threads",
        ["form", "parameters", "MACs", "weights", "ms / picture", "max abs difference"],
        rows,
        formats={
            "parameters": human_count,
            "MACs": human_count,
            "weights": human_bytes,
            "ms / picture": ".2f",
            "max abs difference": ".1e",
        },
    )


def _forms(saved: Saved, kept: Kept, small: Slim | None, example: Tensor) -> Iterator[tuple[str, nn.Module]]:
    yield "full", build(saved.net)
    if small is not None:
        yield "masked", saved.model
        yield "inputs picked", picked(saved.model, kept)
    slim_model = saved.model if small is None else small.model
    yield "slim", slim_model
    with contextlib.suppress(UserError):  # what cannot be folded is told apart by nobody here
        yield "slim, folded", compact(slim_model, example)


def picked(model: nn.Module, kept: Kept) -> nn.Module:
    """A copy whose convolutions pick the inputs they keep, from channels that are all computed.

    That is what the original's export makes.
    """
    lists = {path: list(channels) for path, channels in kept.items() if len(channels) < _inputs(model, path)}
    structure = {path: {"in": channels, "select": channels} for path, channels in lists.items()}
    return resize(copy.deepcopy(model), structure)


def _leaves(found: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``export``."""
    export(parse_export(argv))


if __name__ == "__main__":
    main()
