"""The ``prunelab`` command: score captions, and pack, unpack and inspect files of sparse weights."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prunelab.errors import EXIT_USER_ERROR, UserError, entry

if TYPE_CHECKING:
    from prunelab.caption.evaluate import Scores

ABOUT = "score captions, and pack, unpack and inspect files of sparse weights"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score predicted captions: BLEU-1..4, METEOR, ROUGE-L, CIDEr and SPICE.

    Only the predicted images count, as in COCO's own evaluation. METEOR and SPICE run in Java (SPICE needs
    the models of its parser too) and take their time: ask for them by name. With "all", those that cannot
    run here are left out, with a line that says why.
    """

    refs: Path
    """References: a COCO annotation file or a Karpathy split file."""
    preds: Path
    """Predictions: a list of {"image_id": ..., "caption": ...}."""
    metrics: str = "BLEU,ROUGE_L,CIDEr"
    """Names between commas: BLEU, METEOR, ROUGE_L, CIDEr, SPICE; or all."""
    per_image: Path | None = None
    """Where to write the scores of each image: a list of {"image_id": ..., "CIDEr": ..., ...}."""
    split: Literal["train", "val", "test"] | None = None
    """Take the references of this split of a Karpathy file only."""
    every_image: bool = False
    """An image with references and without a prediction is an error."""
    tokenized: bool = False
    """The captions are tokenised already: take the words between blanks as they are."""

    def run(self) -> None:
        """Score and print the table."""
        from prunelab.caption.evaluate import evaluate, metric_names
        from prunelab.data.coco import read_predictions, read_references
        from prunelab.util import write_json

        words = [word for word in self.metrics.split(",") if word.strip()]
        names = metric_names(words)
        references = read_references(self.refs, split=self.split)
        scores = evaluate(
            references,
            read_predictions(self.preds),
            names,
            tokenize=not self.tokenized,
            subset=not self.every_image,
            skip_unavailable=any(word.strip().lower() == "all" for word in words),
        )
        if self.per_image is not None:
            write_json(self.per_image, scores.per_image)
        for reason in scores.unavailable.values():
            print(f"left out: {reason}", file=sys.stderr)
        print(_table(scores, len(references)))


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Write weights to a packed sparse file, then read it back and compare bit for bit."""

    input: Path
    """IN: .safetensors, an original .pth (sparse tensors included), or a model folder."""
    output: Path
    """OUT: the packed file to write."""
    merge_zeros: bool = False
    """Write -0.0 as 0.0, which would otherwise be kept as a weight."""

    def run(self) -> None:
        """Pack."""
        from prunelab.mask.packed_cli import pack

        pack(self.input, self.output, merge_zeros=self.merge_zeros)


@dataclass(frozen=True, kw_only=True)
class Unpack:
    """Write the dense tensors of a packed file to a .safetensors file."""

    input: Path
    """IN: the packed file."""
    output: Path
    """OUT: the .safetensors file to write."""
    limit: int | None = None
    """Most bytes to fill; needed only for files that expand more than is trusted unasked."""

    def run(self) -> None:
        """Unpack."""
        from prunelab.mask.packed_cli import unpack

        unpack(self.input, self.output, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Check every byte of a file of weights and list its tensors: form, size, kept weights, sparsity."""

    file: Path
    """FILE: packed, .safetensors, .pth, or a model folder."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Inspect."""
        from prunelab.mask.packed_cli import inspect

        inspect(self.file, self.json)


def _table(scores: Scores, images: int) -> str:
    """The scores as aligned lines, and how many images they are of."""
    lines = [f"{'metric':<8}{'score':>10}"]
    lines += [f"{name:<8}{score:>10.4f}" for name, score in scores.overall.items()]
    count = len(scores.per_image)
    others = f" (of {images:,} with references)" if images != count else ""
    return "\n".join([*lines, f"{count:,} images{others}"])


def version() -> str:
    """The installed version, or a word where the package runs without installation."""
    try:
        return importlib.metadata.version("prunelab")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _one_line(box: str) -> str:
    """Turn the parser's message, a title and a text in a frame or between rules, into one line."""
    lines = [line.strip(" │") for line in box.splitlines()]
    text = [line for line in lines[1:] if not re.fullmatch("[╰─╯-]*", line)]
    return " ".join(text).replace("(required) ", "")


def _parse(arguments: Sequence[str]) -> Score | Pack | Unpack | Inspect:
    import tyro

    positional = tyro.conf.PositionalRequiredArgs
    commands = (
        Annotated[Score, tyro.conf.subcommand("score")]
        | Annotated[Pack, tyro.conf.subcommand("pack"), positional]
        | Annotated[Unpack, tyro.conf.subcommand("unpack"), positional]
        | Annotated[Inspect, tyro.conf.subcommand("inspect"), positional]
    )
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                commands,  # pyright: ignore[reportArgumentType]
                prog="prunelab",
                description="Also: --version, and --traceback for developers.",
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"prunelab: {_one_line(message.getvalue())}") from stop


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; without any, say what there is."""
    arguments = list(argv or ())
    if arguments == ["--version"]:
        print(f"prunelab {version()}")
        return
    if not arguments:
        print("prunelab: expected score, pack, unpack or inspect; see prunelab --help", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    if "-h" in arguments or "--help" in arguments:
        print(f"prunelab {version()}: {ABOUT}")
    _parse(arguments).run()


if __name__ == "__main__":
    main()
