"""The command lines: the original's flags, ours beside them, and what was typed as plain data.

A parser here knows no default: it tells what was typed, and `acosp_seg.lowering` knows the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from acosp_seg.config import AMP
from acosp_seg.lowering import CIFAR10, CIFAR10_FLAGS, FIELDS, Raw
from acosp_seg.options import (
    EXPORT_FORMATS,
    CityscapesOptions,
    CompareOptions,
    ConvertOptions,
    DemoOptions,
    ExportOptions,
    PrepareOptions,
    StudyOptions,
)
from prunelab.doors import (
    PRESETS,
    Flags,
    Parser,
    add_own_flags,
    command_parser,
    field_docs,
    typed_flags,
    typed_options,
    word_bool,
)
from prunelab.errors import UserError

CIFAR10_ORDER = ("save_dir", "gpu", "lr", "batch_size", "epochs", "sparsity", "pruner_ending_epoch")
"""The CIFAR-10 program's arguments in the order in which they may stand without their names."""

_MACHINE: Flags = {
    "device": str,
    "preset": PRESETS,
    "amp": AMP,
    "compile": bool,
    "channels_last": bool,
    "max_steps": int,
    "fake_data": bool,
    "dry_run": bool,
    "print_config": bool,
}
"""Flags that training and testing share; ``max_steps`` is typed ``--max-steps``."""


def _parser(command: str, summary: str, **options: Any) -> Parser:
    return command_parser("acosp-seg", command, summary, **options)


def _keys() -> str:
    """What may stand as KEY, for ``--help``."""
    lines = ["keys of KEY VALUE (those of the original's files too: save_path is output, manual_seed seed):"]
    for group, cls in FIELDS.groups.items():
        lines += ["", f"  {group}:"]
        lines += [f"    {name:24} {doc.replace('%%', '%')}" for name, doc in field_docs(cls).items()]
    return "\n".join(lines)


def _config_parser(command: str, summary: str, own: Flags) -> Parser:
    parser = _parser(command, summary, epilog=_keys(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file (default with KEY VALUE alone: ADE20K PSPNet-50)"
    )
    docs = {name: doc for cls in FIELDS.groups.values() for name, doc in field_docs(cls).items()}
    docs |= {
        "print_config": "print the configuration as YAML and stop",
        "model": "checkpoint of the original or of ours: a file or a folder (default: the file's model_path)",
    }
    add_own_flags(parser, own | _MACHINE, docs)
    parser.add_pairs()
    return parser


def _raw(typed: dict[str, Any]) -> Raw:
    return Raw(
        config_file=typed.pop("config", None),
        overrides=tuple(typed.pop("pairs")),
        print_config=typed.pop("print_config", False),
        typed=typed,
    )


def parse_train(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``train``: ``--config FILE``, KEY VALUE pairs, and our flags.

    Raises:
        UserError: an unknown flag, or a value that a flag does not take.
    """
    own: Flags = {"tour": bool, "resume": bool, "output": str, "seed": int, "slim_after_pruning": bool}
    summary = "train a network, dense or pruned; alone: the tour on embedded data"
    return _raw(typed_flags(_config_parser("train", summary, own), argv))


def parse_test(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``test``: as that of ``train``, with ``--model`` (typed as ``model``).

    Raises:
        UserError: see `parse_train`.
    """
    own: Flags = {"model": str, "output": str, "seed": int}
    summary = "predict whole pictures and score them; alone: the newest run's own data"
    return _raw(typed_flags(_config_parser("test", summary, own), argv))


def parse_train_cifar10(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``train_cifar10``: the original's flags in any order, or values in its own.

    Raises:
        UserError: see `parse_train`; a value that is given twice.
    """
    parser = _parser("train_cifar10", "train a ResNet-18 on CIFAR-10, dense or pruned")
    docs = {name: doc for cls in FIELDS.groups.values() for name, doc in field_docs(cls).items()}
    kinds = {"save_dir": str, "lr": float, "sparsity": float}
    for name in CIFAR10_ORDER:
        field_name = CIFAR10_FLAGS.get(name, name)
        doc = docs.get(field_name, "number of the GPU").partition(" (default")[0]
        default = CIFAR10.get(field_name, "")
        parser.add_argument(
            *dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")),
            dest=name,
            type=kinds.get(name, int),
            help=f"{doc} (default: {default!r})" if default != "" else doc,
            metavar="VALUE",
        )
    parser.add_argument("values", nargs="*", metavar="VALUE", help=f"values of {', '.join(CIFAR10_ORDER)}")
    docs["print_config"] = "print the configuration as YAML and stop"
    more: Flags = {"workers": int, "data_root": str, "slim_after_pruning": bool}
    add_own_flags(parser, {"resume": bool, "output": str, "seed": int} | more | _MACHINE, docs)
    typed = typed_flags(parser, argv)
    values = typed.pop("values", [])
    if len(values) > len(CIFAR10_ORDER):
        raise UserError(f"train_cifar10: unexpected argument {values[len(CIFAR10_ORDER)]!r}")
    for name, text in zip(CIFAR10_ORDER, values, strict=False):
        if name in typed:
            raise UserError(f"train_cifar10: {name} is given twice: {text!r} and {typed[name]!r}")
        try:
            typed[name] = kinds.get(name, int)(text)
        except ValueError as error:
            raise UserError(f"train_cifar10: {name} is {text!r}, expected a number") from error
    return Raw(print_config=typed.pop("print_config", False), typed=typed)


def parse_compare(argv: Sequence[str] | None = None) -> tuple[Raw, CompareOptions]:
    """Read the command line of ``compare``: that of ``test``, with ``--models`` and ``--json``.

    Raises:
        UserError: see `parse_train`; no models.
    """
    docs = field_docs(CompareOptions)
    parser = _config_parser("compare", "networks side by side: scores, cost, size, time", {})
    parser.add_own_argument("--models", nargs="+", metavar="NAME=PLACE", help=docs["models"])
    add_own_flags(parser, {"json": str, "figure": str}, docs)
    typed = typed_flags(parser, argv)
    own = {name: typed.pop(name) for name in ("models", "json", "figure") if name in typed}
    return _raw(typed), CompareOptions(**{**own, "models": tuple(own.get("models", ()))})


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Read the command line of ``demo``: pictures, or ``--config`` and ``--image-dir`` as in the original."""
    parser, docs = (
        _parser("demo", "segment pictures and paint the classes over them"),
        field_docs(DemoOptions),
    )
    parser.add_argument("--config", dest="config_file", metavar="FILE", help=docs["config_file"])
    parser.add_argument("--image-dir", metavar="PATTERN", help=docs["image_dir"])
    parser.add_argument(
        "words", nargs="*", metavar="FILE", help=f"{docs['files']} With --config: KEY VALUE pairs."
    )
    flags: Flags = {"model": str, "output": str, "opacity": float, "preset": PRESETS, "device": str}
    add_own_flags(parser, flags | {"dry_run": bool}, docs)
    typed = typed_flags(parser, argv)
    typed["overrides" if "config_file" in typed else "files"] = tuple(typed.pop("words", ()))
    return DemoOptions(**typed)


def parse_prepare(argv: Sequence[str] | None = None) -> PrepareOptions:
    """Read the command line of ``prepare``."""
    parser, docs = _parser("prepare", "make list files and labels of a data set"), field_docs(PrepareOptions)
    parser.add_argument("dataset", metavar="DATASET", help=docs["dataset"])
    parser.add_argument("source", nargs="?", metavar="SOURCE", help=docs["source"])
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help=docs["output"])
    flags: Flags = {"source": str, "output": str, "val_share": float, "check": bool, "limit": int}
    add_own_flags(parser, flags | {"ignore_label": int, "dry_run": bool}, docs)
    return typed_options(PrepareOptions, parser, argv)


def parse_convert_cityscapes(argv: Sequence[str] | None = None) -> CityscapesOptions:
    """Read the command line of the original's ``convert_cityscapes``."""
    parser = _parser("convert_cityscapes", "label ids of Cityscapes into training ids, or back")
    docs = field_docs(CityscapesOptions)
    for name in ("input_dir", "output_dir"):
        parser.add_argument(f"--{name}", required=True, metavar="DIR", help=docs[name])
    parser.add_argument("--to_19", type=word_bool, metavar="true|false", help=docs["to_19"])
    parser.add_argument("--img_postfix", metavar="TEXT", help=docs["img_postfix"])
    add_own_flags(parser, {"dry_run": bool}, docs)
    return typed_options(CityscapesOptions, parser, argv)


def parse_convert(argv: Sequence[str] | None = None) -> ConvertOptions:
    """Read the command line of ``convert``."""
    parser, docs = _parser("convert", "read a published file of weights"), field_docs(ConvertOptions)
    parser.add_argument("source", metavar="SRC", help=docs["source"])
    parser.add_argument("destination", metavar="DST", help=docs["destination"])
    parser.add_own_argument("--config", dest="config_file", metavar="FILE", help=docs["config_file"])
    add_own_flags(parser, {"dry_run": bool}, docs)
    return typed_options(ConvertOptions, parser, argv)


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of ``export``."""
    parser, docs = _parser("export", "write a model in another format"), field_docs(ExportOptions)
    parser.add_argument("model", metavar="MODEL", help=docs["model"])
    flags: Flags = {"format": EXPORT_FORMATS, "output": str, "height": int, "width": int, "dry_run": bool}
    add_own_flags(parser, flags, docs)
    return typed_options(ExportOptions, parser, argv)


def parse_create_study(argv: Sequence[str] | None = None) -> StudyOptions:
    """Read the command line of ``create_study``."""
    parser, docs = _parser("create_study", "write the 75 files of the CamVid study"), field_docs(StudyOptions)
    add_own_flags(parser, {"template": str, "output": str, "name": str, "dry_run": bool}, docs)
    return typed_options(StudyOptions, parser, argv)
