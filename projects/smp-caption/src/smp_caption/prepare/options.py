"""What the preparation programs are asked to do: the original's flags under their names, ours beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from prunelab.doors import (
    Flags,
    add_flags,
    add_own_flags,
    check_at_least,
    check_one_of,
    command_parser,
    field_docs,
    typed_options,
)
from smp_caption.options import FEATURE_FORMATS

T = TypeVar("T")
SPLITS = ("train", "val", "test", "restval", "all")
FEATURE_TYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class BottomUpOptions:
    """``make_bu_data``: bottom-up features from tab-separated files."""

    downloaded_feats: str = "data/bu_data"
    """Folder of the downloaded .tsv files (they may lie in folders in it), or one of them."""
    output_dir: str = "data/cocobu"
    """What the written folders' names begin with: _att, _fc, _box are added."""
    format: str = "npy"
    """npy (the original's folders) or store (memory-mapped shards)."""
    dtype: str = "float32"
    """What features are stored as; boxes always as float32."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_one_of("format", self.format, FEATURE_FORMATS)
        check_one_of("dtype", self.dtype, FEATURE_TYPES)


@dataclass(frozen=True, kw_only=True)
class RelativeBoxesOptions:
    """``prepro_bbox_relative_coords``: boxes relative to their pictures."""

    input_json: str = "data/dataset_coco.json"
    """Karpathy's split file, which names the pictures."""
    image_root: str = "data"
    """Folder that its file names start from."""
    input_box_dir: str = "data/cocobu_box"
    """Boxes x1, y1, x2, y2 in pixels, <id>.npy each."""
    output_dir: str = "data/cocobu_box_relative"
    """Folder that is written."""
    sizes: str = ""
    """Table of widths and heights, so that no picture is opened: the .csv that make_bu_data writes, or a JSON
    file whose images have id, width and height."""
    dry_run: bool = False
    """Check the command line and stop."""


@dataclass(frozen=True, kw_only=True)
class LabelsOptions:
    """``prepro_labels``: the words of all captions, and captions as rows of their numbers."""

    input_json: str = "data/dataset_coco.json"
    """Karpathy's split file."""
    output_json: str = "data.json"
    """Words and pictures."""
    output_h5: str = "data"
    """What the name of the file of rows begins with: _label.h5 is added."""
    images_root: str = ""
    """Folder of the pictures, to note their widths and heights; empty: do not."""
    max_length: int = 16
    """Longer captions are cut."""
    word_count_threshold: int = 5
    """Words that come so often or less become UNK."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_at_least("max_length", self.max_length, 1)
        check_at_least("word_count_threshold", self.word_count_threshold, 0)


@dataclass(frozen=True, kw_only=True)
class NgramsOptions:
    """``prepro_ngrams``: in how many pictures each n-gram of the captions occurs, for CIDEr-D."""

    input_json: str = "data/dataset_coco.json"
    """Karpathy's split file."""
    dict_json: str = "data/cocotalk.json"
    """What prepro_labels wrote: the vocabulary."""
    output_pkl: str = "data/coco-train"
    """What the names of the two files begin with: -words.npz and -idxs.npz are added."""
    split: str = "all"
    """Split whose captions count; train takes restval as well."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_one_of("split", self.split, SPLITS)


_OWN: Flags = {"format": FEATURE_FORMATS, "dtype": FEATURE_TYPES, "sizes": str, "dry_run": bool}
_CHOICES: Flags = {"split": SPLITS}


def parse(cls: type[T], command: str, summary: str, argv: Sequence[str] | None) -> T:
    """Read the command line of a program; a flag for each field of its options.

    Raises:
        UserError: an unknown flag, or a value that a flag does not take.
    """
    parser, docs = command_parser("smp-caption", command, summary), field_docs(cls)
    names = [each.name for each in fields(cls)]  # pyright: ignore[reportArgumentType] - a dataclass
    numbers: Flags = {"max_length": int, "word_count_threshold": int}
    theirs: Flags = {name: (numbers | _CHOICES).get(name, str) for name in names if name not in _OWN}
    add_flags(parser, theirs, docs)
    add_own_flags(parser, {name: kind for name, kind in _OWN.items() if name in names}, docs)
    return typed_options(cls, parser, argv)
