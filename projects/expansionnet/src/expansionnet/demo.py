"""``demo``: say what is on a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from expansionnet.captioner import Captioner, load
from expansionnet.cli import parse_demo
from expansionnet.config import Config
from expansionnet.data import open_records, with_generated
from expansionnet.layout import FAKE_DATA, found, newest_model
from expansionnet.options import DemoOptions
from prunelab import dist
from prunelab.config import load_config
from prunelab.data.captions import open_pictures
from prunelab.errors import UserError, entry
from prunelab.report import gallery
from prunelab.util import atomic_write

PAGE, SHEET = "captions.html", "captions.png"
"""What ``output`` gets."""
SHOWN = 12
"""Test pictures of the model's own data set that are captioned where no picture is named."""


def demo(options: DemoOptions) -> dict[str, str]:
    """Caption the pictures, print the captions, and write a page of them and a JSON file where asked to.

    Returns:
        Picture to caption.

    Raises:
        UserError: no model, no picture, or a model that reads features and no backbone.
    """
    files = pictures(options)
    captions = captioner_of(options).caption(files, beam_size=options.beam_size)
    said = {str(file): caption for file, caption in zip(files, captions, strict=True)}
    if options.json == "-":
        print(json.dumps(said, indent=1, ensure_ascii=False))
    else:
        for file, caption in said.items():
            print(f"{file}: {caption}")
    if options.json not in ("", "-"):
        with atomic_write(options.json, "w") as file:
            json.dump(said, file, indent=1, ensure_ascii=False)
    if options.output:
        write_page(said, Path(options.output))
    return said


def captioner_of(options: DemoOptions) -> Captioner:
    """The model that is asked for, decoding as asked for.

    Raises:
        UserError: it is not there, or its words or its backbone are not known.
    """
    model = load(
        options.load_path or newest_model(),
        vocab_path=found(options.vocab_path) if options.vocab_path else None,
        backbone=found(options.backbone) if options.backbone else None,
        device=dist.start(options.device),
        **options.typed,
    )
    faithful = options.preset == "faithful"
    model.black_pictures = faithful
    model.decode = replace(model.decode, max_len=options.max_len, suppress_unk=not faithful)
    return model


def pictures(options: DemoOptions) -> list[Path]:
    """The pictures that are named, those of a folder by name; none named: some that the model was tested on.

    Raises:
        UserError: a folder without pictures, or nothing is named and the model is not in its run's folder.
    """
    if options.files:
        places = [Path(file) for file in options.files]
        return [picture for place in places for picture in (_in(place) if place.is_dir() else [place])]
    model = found(options.load_path) if options.load_path else newest_model()
    for folder in (model, *model.resolve().parents[:2]):
        if (folder / "config.yaml").is_file():
            cfg = load_config(Config, folder / "config.yaml")
            records = open_records(with_generated(cfg, folder / FAKE_DATA)).records
            return [record.path for record in records if record.split == "test"][:SHOWN]
    raise UserError(f"no picture is named, and {model} is in no run's folder: expected demo FILE...")


def _in(folder: Path) -> list[Path]:
    return [record.path for record in open_pictures(folder).records]


def write_page(said: Mapping[str, str], folder: Path) -> None:
    """Write pictures with their captions as one page and as one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    items = [(Path(file), [caption]) for file, caption in said.items()]
    gallery(items, folder / PAGE, folder / SHEET, title="Captions")
    print(f"page: {folder / PAGE}")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``demo``."""
    options = parse_demo(argv)
    if options.dry_run:
        print(options)
        return
    demo(options)


if __name__ == "__main__":
    main()
