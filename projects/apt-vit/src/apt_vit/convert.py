"""``convert``: published weights, or a checkpoint of the original, as a model folder of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apt_vit.classifier import Classifier
from apt_vit.cli import parse_convert
from apt_vit.files.loading import find_model, open_weights
from apt_vit.options import ConvertOptions
from prunelab.errors import UserError, entry
from prunelab.util import human_names


def convert(options: ConvertOptions) -> Path:
    """Read the source, say what it is and what it lacks, and write the destination (unless ``dry_run``).

    Raises:
        UserError: the source is missing, damaged, of no network that is known, or of another one than was
            typed; or the destination is the source.
    """
    source, target = find_model(options.source), Path(options.destination)
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over its source, expected another destination")
    classifier, loaded = open_weights(source, options.typed)
    print(f"{source}: {loaded.what}")
    print(f"recognised: {told(classifier)}")
    for line in (*loaded.printed, *loaded.notes):
        print(line)
    print(f"missing keys, left as they were: {human_names(loaded.missing)}")
    print(f"unused keys: {human_names(loaded.unused)}")
    if not options.dry_run:
        classifier.save_pretrained(target)
        print(f"written: {target}")
    return target


def told(classifier: Classifier) -> str:
    """What a network is, in a line."""
    cfg = classifier.config
    count = sum(parameter.numel() for parameter in classifier.model.parameters())
    return (
        f"{cfg.model_type}, {cfg.num_layers} blocks of width {cfg.hidden_size} with {cfg.num_heads} heads, "
        f"agents behind blocks {', '.join(map(str, cfg.clip_layers)) or 'none'}, {cfg.num_classes} classes, "
        f"pictures of {cfg.img_size[0]} x {cfg.img_size[1]} pixels, {count:,} parameters"
    )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert``."""
    convert(parse_convert(argv))


if __name__ == "__main__":
    main()
