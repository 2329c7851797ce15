"""``convert``: a checkpoint of the original, as a model folder of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunelab.errors import entry
from prunelab.mask import MASK_SUFFIX
from smp_caption.captioner import Captioner
from smp_caption.cli import parse_convert
from smp_caption.files import original
from smp_caption.options import ConvertOptions
from smp_caption.pruner import read_weights


def convert(options: ConvertOptions) -> Path:
    """Read the source, say what it is, and write the destination (unless ``dry_run``).

    Raises:
        UserError: the source is missing, is of another model (the first names and shapes that differ are
            told), or its configuration or tokenizer is.
    """
    source, target = original.find(Path(options.source)), Path(options.destination)
    captioner = original.load(source, config_file=Path(options.config_file) if options.config_file else None)
    print(recognised(source, captioner))
    if not options.dry_run:
        captioner.save_pretrained(target)
        print(f"written: {target}")
    return target


def recognised(source: Path, captioner: Captioner) -> str:
    """A line on what was found in a file and on what of it the model takes: all, or it would not be there."""
    held = read_weights(source)
    state = captioner.model.state_dict()
    masks = [name for name in state if name.endswith(MASK_SUFFIX)]
    zeros = sum(
        int((value == 0).sum()) for name, value in state.items() if name not in masks and value.ndim == 2
    )
    unused = [name for name in held if name not in state]
    missing = [name for name in state if name not in held]
    return (
        f"{source}: {captioner.config.caption_model}, {len(held)} tensors ({len(masks)} masks), "
        f"{zeros:,} zero weights, tokenizer {captioner.tokenizer.kind} of {len(captioner.tokenizer)} ids; "
        f"unused keys: {len(unused) or 'none'}; missing keys: "
        + (f"{len(missing)} (tables of positions, which are computed)" if missing else "none")
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert``."""
    convert(parse_convert(argv))


if __name__ == "__main__":
    main()
