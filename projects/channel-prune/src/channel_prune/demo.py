"""``demo``: name what is on pictures, or draw boxes around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import channel_prune
from channel_prune.cli import parse_demo
from channel_prune.detector import Detector
from channel_prune.draw import INK, PAPER
from channel_prune.layout import newest_model
from channel_prune.options import DemoOptions
from prunelab import dist
from prunelab.data.pictures import read_picture
from prunelab.data.segmentation import typed_pictures
from prunelab.data.synthetic.shape_classes import make_picture
from prunelab.errors import UserError, entry
from prunelab.util import atomic_write, free_name

OUTPUT = "demo"
MADE, MADE_SEED, MADE_SIDE = 5, 777, 96
"""Pictures that are made where none is typed: how many, by which seed, and their side in pixels."""


def demo(options: DemoOptions) -> list[Path]:
    """Print the likeliest classes of each picture; or write it with boxes around objects.

    Returns:
        The pictures that were written.

    Raises:
        UserError: no model, no picture, or one that cannot be read.
    """
    device = dist.start(options.device)
    try:
        place = Path(options.model) if options.model else newest_model()
        model = channel_prune.load(place, device=str(device))
        folder = Path(options.output or OUTPUT)
        pictures = typed_pictures(options.files) or made(model.saved.dataset, folder)
        written = []
        for picture, name in zip(pictures, file_names(pictures), strict=True):
            image, said = read_picture(picture), ""
            if isinstance(model, Detector):
                found = model.detect(image, least_score=options.threshold)
                pairs = zip(found.labels, found.scores.tolist(), strict=True)
                said = ", ".join(f"{label} {score:.2f}" for label, score in pairs) or "nothing found"
                shown = model.draw(image, found)
            else:
                lines = [f"{share:6.1%}  {label}" for label, share in model.classify(image, top=options.top)]
                said = "".join(f"\n  {line}" for line in lines)
                shown = labelled(image, lines) if options.draw else None
            if shown is not None:
                written.append(folder / f"{name}.png")
                with atomic_write(written[-1]) as file:
                    shown.save(file, "PNG")
            print(f"{picture}: {said}" + (f" -> {written[-1]}" if shown is not None else ""))
        return written
    finally:
        dist.stop()


def made(dataset: str, folder: Path) -> list[Path]:
    """Pictures for a network that learnt the embedded set, written into a folder.

    Raises:
        UserError: the network learnt something else, of which there are no pictures here.
    """
    if dataset != "tiny":
        raise UserError(f"demo needs pictures, since this network learnt {dataset!r}: demo FILE...")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shape{number}.png" for number in range(MADE)]
    for number, path in enumerate(paths):
        Image.fromarray(make_picture(MADE_SEED, number, side=MADE_SIDE)).save(path)
    return paths


def file_names(pictures: Sequence[Path]) -> list[str]:
    """A name for each picture's output: its own and ``_found``, with a number where names are equal."""
    names: list[str] = []
    for picture in pictures:
        names.append(free_name(f"{picture.stem}_found", names))
    return names


def labelled(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """A picture with lines of text below it, enlarged where it is small."""
    factor = max(1, round(320 / min(image.size)))
    shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    letter = max(12, shown.width // 24)
    font, row = ImageFont.load_default(letter), round(1.4 * letter)
    sheet = Image.new("RGB", (shown.width, shown.height + row * len(lines) + letter), PAPER)
    sheet.paste(shown, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for place, line in enumerate(lines):
        draw.text((letter // 2, shown.height + letter // 2 + place * row), line, fill=INK, font=font)
    return sheet


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
