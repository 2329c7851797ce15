"""``demo``: say what is on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunelab import dist
from prunelab.data.captions import open_pictures
from prunelab.doors import newest_model, runs_root
from prunelab.errors import UserError, entry
from prunelab.report import gallery
from smp_caption.cli import parse_demo
from smp_caption.files import original
from smp_caption.options import DemoOptions


def demo(options: DemoOptions) -> dict[Path, str]:
    """Caption the pictures, print the captions, and (with ``output``) write a page of them.

    Returns:
        Picture to caption.

    Raises:
        UserError: no model, no picture, or a model without an extractor.
    """
    model = Path(options.model) if options.model else newest_model(runs_root())
    if model is None:
        raise UserError(f"{runs_root()} holds no trained model: run `train` first, or name one with --model")
    if not options.model:
        print(f"model: {model}")
    captioner = original.load(model, device=dist.start(options.device))
    pictures = [picture for name in options.files for picture in _pictures(Path(name))]
    captions = captioner.caption(pictures, beam_size=options.beam_size)
    found = dict(zip(pictures, captions, strict=True))
    for picture, caption in found.items():
        print(f"{picture}: {caption}")
    if options.output:
        folder = Path(options.output)
        folder.mkdir(parents=True, exist_ok=True)
        items = [(picture, [caption]) for picture, caption in found.items()]
        gallery(items, folder / "captions.html", folder / "captions.png", title="Captions")
        print(f"page: {folder / 'captions.html'}")
    return found


def _pictures(path: Path) -> list[Path]:
    return [record.path for record in open_pictures(path).records] if path.is_dir() else [path]


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
