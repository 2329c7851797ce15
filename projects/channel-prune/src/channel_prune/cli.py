"""The command lines: the original's flags as absl reads them, ours beside them, and what was typed as data.

A flag is ``--flag=value``, ``--flag value`` or ``-flag=value``; a truth value is also ``--flag`` or
``--noflag``. Parts of names are no flags.
A parser here knows no default: it tells what was typed, and `channel_prune.lowering` knows the rest.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from channel_prune.config import LEARNERS
from channel_prune.lowering import FIELDS, NAMES, PROGRAMS, PRUNING, Raw
from channel_prune.options import EXPORT_FORMATS, CompareOptions, ConvertOptions, DemoOptions, ExportOptions
from prunelab.doors import (
    FALSE_WORDS,
    TRUE_WORDS,
    Parser,
    check_one_of,
    command_parser,
    csv,
    field_docs,
    none_word,
    typed_flags,
    typed_options,
    word_bool,
)
from prunelab.errors import UserError

Reader = Callable[[str], Any]

ORIGINAL = frozenset(
    {
        *PRUNING,
        *("save_path_cpr", "save_path_cpr_eval", "save_path_ws", "learner", "exec_mode", "log_dir"),
        *("summ_step", "save_step", "save_path", "save_path_eval", "enbl_dst", "loss_w_dst", "tempr_dst"),
        *("save_path_dst", "enbl_warm_start", "resnet_size", "mobilenet_depth_mult", "nb_classes"),
        *("image_size", "batch_size", "batch_size_eval", "nb_smpls_train", "nb_smpls_val", "nb_smpls_eval"),
        *("lrn_rate_init", "batch_size_norm", "momentum", "loss_w_dcy", "nb_epochs_rat", "negative_ratio"),
        *("match_threshold", "neg_threshold", "select_threshold", "min_size", "nms_threshold", "nms_topk"),
        *("keep_topk", "lrn_rate_min", "lrn_rate_dcy_bnds", "lrn_rate_dcy_rates", "nb_iters_train"),
        *("nb_iters_cls_wmup", "backbone_ckpt_dir", "backbone_model_scope", "model_scope"),
        *("warm_start_excl_scopes", "ignore_missing_vars", "outputs_dump_dir", "image_size_eval"),
        "nb_bboxs_max",
    }
)
"""Fields that are flags of the original; the others are flags of ours, with ``-`` for ``_``."""
UNSET = frozenset({"dataset_form", "tour", "resume", "dry_run"})
"""Fields without a flag in all commands: what decides about them is another flag, or the command."""

OTHER_LEARNERS = {
    "weight-sparse": "prune channels with chn-pruned-rmt",
    "channel": "chn-pruned-rmt is its successor, --cpr_ratio_list takes a ratio for every layer",
    "chn-pruned-gpu": "chn-pruned-rmt is its successor",
    "dis-chn-pruned": "prune channels with chn-pruned-rmt",
    "uniform": "prune with chn-pruned-rmt and quantise the exported ONNX file",
    "uniform-tf": "prune with chn-pruned-rmt and quantise the exported ONNX file",
    "non-uniform": "prune with chn-pruned-rmt and quantise the exported ONNX file",
}
"""Learners of the original that are not here, and what is there instead."""
THEIR_FLAGS = ("ws_", "cp_", "cpg_", "dcp_", "uql_", "uqtf_", "nuql_", "ddpg_")
"""How flags of those begin."""


# ------------------------------------------------------------------------------------------------------ flags


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a parser."""

    name: str
    """Key of what is typed."""
    text: str
    """As it is typed, with its dashes."""
    read: Reader
    """From its text to its value; `word_bool` for truth values, which need no text."""
    doc: str
    original: bool

    @property
    def key(self) -> str:
        """By which a typed flag is looked up: without dashes in front, and ``_`` for ``-``."""
        return self.text.lstrip("-").replace("-", "_")


def _learner(text: str) -> str:
    if text in OTHER_LEARNERS:
        raise UserError(
            f"--learner={text} is not there, expected {' or '.join(LEARNERS)}: {OTHER_LEARNERS[text]}"
        )
    return text


def _ratios(text: str) -> tuple[float, ...]:
    """A ratio for every layer: in the text, or in the file that it names."""
    path = Path(text)
    if path.is_file():
        text = ",".join(path.read_text(encoding="utf-8").replace(",", " ").split())
    elif not re.fullmatch(r"[\d.,\s+eE-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a file nor numbers such as 0,0.5,0.3")
    return csv(float)(text)


def _only(value: str, what: str) -> Reader:
    """A reader of flags of which only one value is possible here."""

    def read(text: str) -> str:
        if text.strip().lower() != value:
            raise argparse.ArgumentTypeError(f"{text!r} is not possible, only {value!r}: {what}")
        return text

    return read


def _processes(text: str) -> int:
    """The number of processes, which whoever starts them has decided."""
    there = int(os.environ.get("WORLD_SIZE") or 1)
    if not text.isdigit() or int(text) != there:
        raise argparse.ArgumentTypeError(
            f"{text!r}, but {there} processes run: expected a start by scripts/run_local.sh or torchrun"
        )
    return int(text)


HDFS = "data are read from this machine's disks, --data_dir_local names the folder"
EXTRA: dict[str, tuple[Reader, str]] = {
    "mobilenet_version": (int, "1 or 2: which MobileNet"),
    "data_dir_local": (str, "folder of the data set: as --data-dir"),
    "nb_threads": (int, "processes that load pictures: as --workers"),
    "nb_gpus": (_processes, "number of processes; also -n (scripts/run_local.sh starts them)"),
    "enbl_multi_gpu": (word_bool, "taken and not needed: torchrun tells of other processes"),
    "debug": (word_bool, "taken and not needed"),
    "model_http_url": (str, "taken and not needed: no full network is downloaded; --weights names one"),
    "cycle_length": (int, "taken and not needed: there are no record files"),
    "buffer_size": (int, "taken and not needed: all pictures are shuffled"),
    "prefetch_size": (int, "taken and not needed: processes load ahead"),
    "data_disk": (_only("local", HDFS), "local alone"),
    "data_dir_hdfs": (_only("none", HDFS), "not there"),
    "data_hdfs_host": (_only("none", HDFS), "not there"),
    "enbl_fused_batchnorm": (
        _only("true", "PyTorch's batch normalisation is the fused one"),
        "true alone",
    ),
}
"""Flags of the original that are no field, or a field under a second name."""
SECOND_NAMES = {"data_dir_local": "data_dir", "nb_threads": "workers"}
KEPT = frozenset({"mobilenet_version", *SECOND_NAMES})
"""Flags of `EXTRA` that say something."""


def _reader(hint: Any) -> Reader:
    """How a flag of a field of this type is read."""
    known: dict[Any, Reader] = {
        int: int,
        float: float,
        bool: word_bool,
        str: str,
        int | None: none_word(int),
        float | None: none_word(float),
        str | None: str,
        tuple[int, ...]: csv(int),
        tuple[float, ...]: csv(float),
        tuple[str, ...]: csv(str),
        tuple[float, ...] | None: _ratios,
    }
    return known[hint]


@cache
def config_flags() -> tuple[Flag, ...]:
    """A flag for every field of the configuration, and the original's others."""
    found = []
    for group, cls in FIELDS.groups.items():
        hints, docs = get_type_hints(cls), field_docs(cls)
        for name in hints:
            if name in UNSET or FIELDS.group_of[name] != group:
                continue
            original = name in ORIGINAL
            typed = NAMES.get(name, name)
            text = f"--{typed if original or name in NAMES else typed.replace('_', '-')}"
            read = _learner if name == "learner" else _reader(hints[name])
            found.append(Flag(name=name, text=text, read=read, doc=docs[name], original=original))
    for name, (read, doc) in EXTRA.items():
        found.append(Flag(name=name, text=f"--{name}", read=read, doc=doc, original=True))
    return tuple(found)


def _own(cls: type, names: Sequence[str]) -> tuple[Flag, ...]:
    """Flags of ours for fields of a dataclass."""
    hints, docs = get_type_hints(cls), field_docs(cls)
    return tuple(
        Flag(
            name=name,
            text=f"--{name.replace('_', '-')}",
            read=_reader(hints[name]),
            doc=docs[name],
            original=False,
        )
        for name in names
    )


def _parser(command: str, summary: str, flags: Sequence[Flag], **options: Any) -> Parser:
    parser = command_parser("channel-prune", command, summary, allow_abbrev=False, **options)
    for flag in flags:
        add = parser.add_argument if flag.original else parser.add_own_argument
        kind = {int: "N", float: "X", word_bool: "true|false"}.get(flag.read, "TEXT")  # pyright: ignore[reportArgumentType, reportCallIssue]
        add(flag.text, dest=flag.name, type=flag.read, metavar=kind, help=flag.doc)
    return parser


FLAG = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)


def canonical(argv: Sequence[str] | None, flags: Sequence[Flag]) -> list[str]:
    """A command line in absl's styles as one of ``--flag=value``; words that are no known flags come last.

    Args:
        argv: the arguments; None: those of this process.
        flags: the known ones.

    Raises:
        UserError: a flag of a learner that is not here.
    """
    known = {flag.key: flag for flag in flags}
    words, rest, left = [], [], list(sys.argv[1:] if argv is None else argv)
    while left:
        word = left.pop(0)
        found = FLAG.fullmatch(word)
        if found is None:
            rest.append(word)
            continue
        key, value = found[1].replace("-", "_"), found[2]
        key = "nb_gpus" if key == "n" else key
        negated = key.removeprefix("no").lstrip("_") if key.startswith("no") else ""
        if key in known:
            flag = known[key]
            if value is None:
                value = _following(flag, left)
            words.append(flag.text if value is None else f"{flag.text}={value}")
        elif value is None and negated in known and known[negated].read is word_bool:
            words.append(f"{known[negated].text}=false")
        elif key.startswith(THEIR_FLAGS):
            raise UserError(
                f"--{key} belongs to a learner that is not there, expected --learner=chn-pruned-rmt and its "
                "flags: --cpr_prune_ratio for all layers, --cpr_ratio_list for each"
            )
        else:
            rest.append("--" + word.lstrip("-"))
    return words + rest


def _following(flag: Flag, left: list[str]) -> str | None:
    """The value of a flag that has none behind a ``=``: the next word; of a truth value only such a word."""
    if flag.read is not word_bool:
        return left.pop(0) if left else None
    is_word = bool(left) and left[0].lower() in TRUE_WORDS + FALSE_WORDS
    return left.pop(0) if is_word else "true"


# ---------------------------------------------------------------------------------------------------- parsers


@dataclass(frozen=True, kw_only=True)
class _Commands:
    """Flags that only some commands have."""

    tour: bool = False
    """Train, prune, fine-tune and export a small network on generated pictures; so does ``train`` alone."""
    resume: bool = False
    """Go on with the run that the folder holds, bit for bit."""
    dry_run: bool = False
    """Check the configuration and stop before data are read."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""
    model: str = ""
    """Model folder, run, or file of weights; empty: the newest tour's or run's."""
    program: str = ""
    """Network, data set and defaults of one of the original's programs, say resnet_at_cifar10_run; its file
    in nets passes its own name."""


NETWORKS = """The network and the data set are those of the program (nets/resnet_at_cifar10_run.py, ...),
or of --net and --dataset, where one implies the other. Defaults are those of ResNet-20 on CIFAR-10; those of
other networks are as in the original. Each --flag is also -flag; a truth value is --flag, --noflag or
--flag=false."""


def _raw(command: str, summary: str, own: Sequence[str], argv: Sequence[str] | None) -> Raw:
    flags = [*config_flags(), *_own(_Commands, own)]
    parser = _parser(command, summary, flags, epilog=NETWORKS)
    return _as_raw(typed_flags(parser, canonical(argv, flags)))


def _as_raw(typed: dict[str, Any]) -> Raw:
    print_config, program = typed.pop("print_config", False), typed.pop("program", None)
    if program is not None:
        check_one_of("program", program, PROGRAMS)
    typed = {
        SECOND_NAMES.get(name, name): value
        for name, value in typed.items()
        if name not in EXTRA or name in KEPT
    }
    return Raw(typed=typed, program=program, print_config=print_config)


def parse_train(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``train``, and of the original's programs.

    Raises:
        UserError: an unknown flag, or a value that a flag does not take.
    """
    own = ("program", "tour", "resume", "dry_run", "print_config")
    summary = "train, or choose channels and fine-tune; alone: the tour on generated pictures"
    return _raw("train", summary, own, argv)


def parse_test(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``test``: as that of ``train``, with ``--model`` (typed as ``model``).

    Raises:
        UserError: see `parse_train`.
    """
    summary = "evaluate a network; alone: that of the newest tour on its own pictures"
    return _raw("test", summary, ("model", "program", "dry_run", "print_config"), argv)


def parse_prune(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``prune``: as that of ``train``, with ``--model`` (typed as ``model``).

    Raises:
        UserError: see `parse_train`.
    """
    own = ("model", "program", "resume", "dry_run", "print_config")
    summary = "choose channels of a trained network and make it slim, without training it"
    return _raw("prune", summary, own, argv)


def parse_compare(argv: Sequence[str] | None = None) -> tuple[Raw, CompareOptions]:
    """Read the command line of ``compare``: as that of ``train``, with flags of its own.

    Raises:
        UserError: see `parse_train`.
    """
    own = tuple(field.name for field in fields(CompareOptions))
    flags = [*config_flags(), *_own(_Commands, ("program", "dry_run")), *_own(CompareOptions, own)]
    summary = "compare ways to choose channels, on one trained network"
    parser = _parser("compare", summary, flags, epilog=NETWORKS)
    typed = typed_flags(parser, canonical(argv, flags))
    options = CompareOptions(**{name: typed.pop(name) for name in own if name in typed})
    return _as_raw({"learner": "chn-pruned-rmt", **typed}), options


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Read the command line of ``demo``.

    Raises:
        UserError: see `parse_train`.
    """
    flags = _own(DemoOptions, ("model", "output", "top", "draw", "threshold", "device", "dry_run"))
    parser = _parser("demo", "classify pictures, or find objects in them", flags)
    parser.add_argument("files", nargs="*", metavar="FILE", help=field_docs(DemoOptions)["files"])
    return typed_options(DemoOptions, parser, canonical(argv, flags))


def parse_convert(argv: Sequence[str] | None = None) -> ConvertOptions:
    """Read the command line of ``convert``.

    Raises:
        UserError: see `parse_train`.
    """
    flags = _own(ConvertOptions, ("net", "dry_run"))
    parser, docs = _parser("convert", "read foreign weights", flags), field_docs(ConvertOptions)
    parser.add_argument("source", metavar="SRC", help=docs["source"])
    parser.add_argument("destination", metavar="DST", help=docs["destination"])
    return typed_options(ConvertOptions, parser, canonical(argv, flags))


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of ``export``, and of the original's export tool.

    Raises:
        UserError: see `parse_train`.
    """
    docs = field_docs(ExportOptions)
    theirs = ("enbl_fake_prune", "fake_prune_ratio", "nb_repts_warmup", "nb_repts")
    named = {"model_dir": (str, "model folder or run: as MODEL")}
    named |= {
        f"{end}_coll": (str, "taken and not needed: a model knows its ends") for end in ("input", "output")
    }
    flags = (
        *_own(ExportOptions, ("format", "output", "image_size", "round_to", "dry_run")),
        *(
            Flag(name=f.name, text=f"--{f.name}", read=f.read, doc=f.doc, original=True)
            for f in _own(ExportOptions, theirs)
        ),
        *(
            Flag(name=name, text=f"--{name}", read=read, doc=doc, original=True)
            for name, (read, doc) in named.items()
        ),
    )
    summary = f"write a model as {', '.join(EXPORT_FORMATS)}: ONNX in place of GraphDef and TFLite"
    parser = _parser("export", summary, flags)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=docs["model"])
    typed = typed_flags(parser, canonical(argv, flags))
    theirs_too = typed.pop("model_dir", "")
    return ExportOptions(
        **{"model": theirs_too} | {k: v for k, v in typed.items() if not k.endswith("_coll")}
    )
