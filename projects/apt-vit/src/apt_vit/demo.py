"""``demo``: name what is on pictures, and draw the patches by which the network tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from apt_vit.classifier import Classifier, Kept
from apt_vit.cli import parse_demo
from apt_vit.data import open_data
from apt_vit.draw import draw_kept
from apt_vit.files.loading import find_model, open_weights
from apt_vit.layout import FAKE_DATA, newest_model
from apt_vit.lowering import run_base
from apt_vit.options import DemoOptions
from apt_vit.tokens.macs import lengths_of, macs_of
from prunelab import dist
from prunelab.data.pictures import read_picture
from prunelab.data.pictures_of_classes import spread
from prunelab.data.segmentation import typed_pictures
from prunelab.errors import UserError, entry
from prunelab.util import atomic_write, free_name, human_count

TAKEN = 5
"""Test pictures that are taken where none is typed."""


def demo(options: DemoOptions) -> list[Path]:
    """Print the likeliest classes of each picture, and write it with its dropped patches greyed.

    Returns:
        The pictures that were written.

    Raises:
        UserError: no model, no picture, or one that cannot be read.
    """
    device = dist.start(options.device)
    try:
        place = find_model(options.model) if options.model else newest_model()
        classifier = with_options(open_weights(place, options.typed, device=device)[0], options)
        folder = Path(options.output)
        written, names = [], list[str]()
        for title, image in typed(options.files) or taken(place):
            names.append(free_name(f"{Path(title).stem.replace(' ', '_')}_kept", names))
            written.append(folder / f"{names[-1]}.png")
            _show(classifier, image, title, written[-1], top=options.top)
        return written
    finally:
        dist.stop()


def with_options(classifier: Classifier, options: DemoOptions) -> Classifier:
    """The classifier with the threshold or the keep rate that was typed."""
    rule = classifier.rule
    if options.threshold is not None:
        rule = replace(rule, threshold=options.threshold, keep_rate=None)
    if options.keep_rate is not None:
        rule = replace(rule, keep_rate=options.keep_rate)
    return classifier.with_rule(rule)


def typed(files: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Pictures that were typed, (h, w, 3) uint8 with their names: files, and folders with all in them.

    Raises:
        UserError: a folder without pictures, or a file that is none.
    """
    return [(str(path), np.asarray(read_picture(path))) for path in typed_pictures(files)]


def taken(model: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Some test pictures of the run that a model comes from, with their number and class as a name.

    Raises:
        UserError: it comes from no run, or that run's data are not there.
    """
    base = run_base(model)
    if base is None:
        raise UserError(f"{model} lies in no run, whose test pictures could be shown: demo FILE...")
    base = replace(base, data=replace(base.data, download=False, checksum="warn"))
    data = open_data(base, model.parent / FAKE_DATA)
    split = data.split("test")
    for index in spread(len(split), TAKEN).tolist():
        yield f"test {index} {data.class_names[split.labels[index]]}", split.raw(index)


def _show(classifier: Classifier, image: np.ndarray, title: str, path: Path, *, top: int) -> None:
    """Print what is said of a picture, and write it."""
    kept = classifier.kept(image)
    found = ", ".join(f"{label} {share:.1%}" for label, share in classifier.classify(image, top=top))
    lines = [f"{title}: {found}", cost_line(classifier, kept)]
    height, width = classifier.config.img_size
    patch = classifier.config.patch_size or (1, 1)
    used = ((height - height % patch[0]) / height, (width - width % patch[1]) / width)
    shown = draw_kept(image, kept.patches, [found, lines[1]], used=used)
    with atomic_write(path) as file:
        shown.save(file, "PNG")
    print(f"{lines[0]}\n  {lines[1]} -> {path}", flush=True)


def cost_line(classifier: Classifier, kept: Kept) -> str:
    """Tokens that are left behind each clip layer, and multiply-adds beside those of all tokens."""
    cfg = classifier.config
    lengths = lengths_of(cfg, kept.counts)
    dense = macs_of(cfg, lengths_of(cfg), "none")
    form = "folded" if kept.counts and classifier.rule.needs_agents else "none"
    macs = macs_of(cfg, lengths, form, layers=list(kept.counts))
    tokens = " -> ".join(map(str, [lengths[0], *kept.counts.values()]))
    return f"tokens {tokens}; multiply-adds {human_count(macs)}, {macs / dense:.0%} of {human_count(dense)}"


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``demo``."""
    options = parse_demo(argv)
    if options.dry_run:
        print(f"demo: {options}")
    else:
        demo(options)


if __name__ == "__main__":
    main()
