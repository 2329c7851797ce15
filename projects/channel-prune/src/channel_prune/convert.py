"""``convert``: foreign weights, as a model folder of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from channel_prune.cli import parse_convert
from channel_prune.files.adopt import adopt
from channel_prune.files.loading import find_model
from channel_prune.files.recognise import recognise
from channel_prune.files.saved import Saved
from channel_prune.files.weights import Weights, read_weights
from channel_prune.options import ConvertOptions
from prunelab.errors import entry
from prunelab.util import human_names


def convert(options: ConvertOptions) -> Path:
    """Read the source, say what it is and what it lacks, and write the destination (unless ``dry_run``).

    Raises:
        UserError: the source is missing, damaged, or of no network that is known, or of another one than
            ``net`` says.
    """
    source, target = find_model(options.source), Path(options.destination)
    if source.is_dir():
        saved = Saved.read(source)
        print(f"{source}: a model folder: {told(saved)}")
    else:
        weights = read_weights(source)
        saved, loaded = adopt(weights, recognise(weights, net=options.net))
        print(f"{source}: {weights.what}, {len(weights.shapes)} entries{_notes(weights)}")
        print(f"recognised: {told(saved)}")
        for what, names in (
            ("missing keys, left as they were", loaded.missing),
            ("unused keys", loaded.unused),
        ):
            print(f"{what}: {human_names(names)}")
    if not options.dry_run:
        saved.save(target)
        print(f"written: {target}")
    return target


def told(saved: Saved) -> str:
    """What a network is, in a line."""
    net = saved.net
    depth = f"-{net.resnet_size}" if net.name.startswith("resnet") else ""
    width = f", widths divided by {net.width_divisor}" if net.width_divisor > 1 else ""
    if net.name.startswith("mobilenet") and net.mobilenet_depth_mult != 1:
        width += f", widths times {net.mobilenet_depth_mult:g}"
    count = sum(parameter.numel() for parameter in saved.model.parameters())
    slim = "" if saved.structure is None else ", slim"
    return f"{net.name}{depth}, {net.nb_classes} classes ({saved.dataset}){width}{slim}, {count:,} parameters"


def _notes(weights: Weights) -> str:
    return "".join(f", {name} {value}" for name, value in weights.notes.items())


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert``."""
    convert(parse_convert(argv))


if __name__ == "__main__":
    main()
