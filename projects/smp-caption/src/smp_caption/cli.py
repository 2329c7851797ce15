"""The command lines: the original's flags, ours beside them, and what was typed as plain data.

A parser here knows no default: it tells what was typed, and `smp_caption.lowering` knows the rest.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from prunelab.doors import Parser, csv, none_word, number, tuple_literal
from prunelab.errors import UserError
from smp_caption import config
from smp_caption.lowering import COMMAND_LINE_DEFAULTS, GROUPS, MODEL_SIZES, Raw, read_flat
from smp_caption.options import (
    EXPORT_FORMATS,
    FEATURE_FORMATS,
    BenchOptions,
    ConvertOptions,
    DemoOptions,
    ExportOptions,
    ExtractOptions,
    TestOptions,
)

UNSET: Any = inspect.Parameter.empty
"""Marks flags that were not typed while a parser runs."""

T = TypeVar("T")
Reader = Callable[[str], Any]
Flags = dict[str, Reader | Sequence[str]]
Docs = dict[str, str]


def _text(word: str) -> str:
    """A text in which ``none`` and ``null`` mean the empty one."""
    return none_word()(word) or ""


def _layers(word: str) -> tuple[int, ...] | None:
    return none_word(tuple_literal)(word)


_GENERAL: Flags = {
    "dataset": config.DATASETS,
    "tokenizer": config.TOKENIZERS,
    "caption_model": config.CAPTION_MODELS,
    "logging_level": config.LOGGING_LEVELS,
}
_TRAINING: Flags = {
    "seed": int,
    "cache_min_free_ram": float,
    "num_workers": int,
    "cached_tokens": none_word(),
    "id": _text,
    "log_dir": _text,
    "start_from": _text,
    "resume_training": bool,
    "save_checkpoint_every": int,
    "losses_log_every": int,
    "batch_size": int,
    "batch_size_eval": int,
    "max_epochs": int,
    "weight_decay": float,
    "grad_clip": float,
    "label_smoothing": float,
    "optim": config.OPTIMISERS,
    "optim_alpha": float,
    "optim_beta": float,
    "optim_epsilon": float,
    "lr_scheduler": config.SCHEDULES,
    "noamopt_warmup": int,
    "noamopt_factor": float,
    "learning_rate": float,
    "learning_rate_min": float,
    "learning_rate_decay_start": int,
    "learning_rate_decay_every": int,
    "learning_rate_decay_rate": float,
    "scst_start_epoch": int,
    "scst_num_samples": int,
    "scst_sample": ("random", "beam_search"),
    "scst_baseline": ("greedy", "sample"),
    "scst_cider_weight": float,
    "scst_bleu_weight": csv(float),
    "beam_size_test": int,
    "beam_size_val": int,
}
_PRUNING: Flags = {
    "prune_type": config.PRUNE_TYPES,
    "prune_sparsity_target": float,
    "prune_mask_freeze_scope": _text,
    "prune_snip_grad_accum": int,
    "prune_supermask_init": float,
    "prune_supermask_sparsity_weight": float,
    "prune_supermask_lr": float,
    "prune_supermask_bypass_sigmoid_grad": bool,
}
_DATA: Flags = {"dataset_dir": _text, "retokenize_captions": bool}
_COCO: Flags = {"mscoco_online_test": bool}
_TOKENS: Flags = {"tokenizer_train_files": _text, "vocab_size": int}
_RADIX: Flags = {"radix_base": int}
_COLLATE: Flags = {
    "max_seq_length": int,
    "seq_per_img": int,
    "input_att_dir": _text,
    "att_feat_size": int,
}
_UP_DOWN: Flags = {
    "input_fc_dir": _text,
    "rnn_size": int,
    "input_encoding_size": int,
    "drop_prob_lm": float,
    "att_hid_size": int,
    "fc_feat_size": int,
    "logit_layers": int,
}
_TRANSFORMER: Flags = {
    "d_model": int,
    "dim_feedforward": int,
    "num_layers": int,
    "num_heads": int,
    "drop_prob_src": float,
    "share_att_encoder": none_word(),
    "share_att_decoder": none_word(),
    "share_layer_encoder": _layers,
    "share_layer_decoder": _layers,
}
_RELATION: Flags = {
    "input_rel_box_dir": _text,
    "no_box_trigonometric_embedding": bool,
}

_RUN_FLAGS: Flags = {
    "device": str,
    "preset": config.PRESETS,
    "amp": config.AMP,
    "compile": bool,
    "max_steps": int,
    "dry_run": bool,
    "fake_data": bool,
    "print_config": bool,
}
"""Our own flags that ``train`` and ``test`` share, typed with ``-``."""


def _groups_for(chosen: dict[str, str]) -> list[tuple[str, Flags]]:
    """The original's flags for a model, data set and tokenizer, by heading, as its parser adds them."""
    model = chosen["caption_model"]
    groups = [("general", _GENERAL), ("training", _TRAINING), ("pruning", _PRUNING), ("data set", _DATA)]
    if chosen["dataset"] in config.COCO:
        groups.append(("COCO", _COCO))
    groups.append(("tokenizer", _TOKENS))
    if chosen["tokenizer"] == "radix":
        groups.append(("radix tokenizer", _RADIX))
    groups.append(("batches", _COLLATE))
    if model in config.UP_DOWN:
        groups.append(("Up-Down", _UP_DOWN))
    else:
        groups.append(("transformers", _TRANSFORMER))
    if model.startswith("relation"):
        groups.append(("relation transformer", _RELATION))
    return groups


ALL_GROUPS: list[tuple[str, Flags]] = [
    ("general", _GENERAL),
    ("training", _TRAINING),
    ("pruning", _PRUNING),
    ("data set", _DATA),
    ("COCO only", _COCO),
    ("tokenizer", _TOKENS),
    ("radix tokenizer only", _RADIX),
    ("batches", _COLLATE),
    ("Up-Down only", _UP_DOWN),
    ("transformers only", _TRANSFORMER),
    ("relation transformer only", _RELATION),
]


def docs_of(cls: type) -> dict[str, str]:
    """The docstring of every field of a dataclass, with its default, for ``--help``."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    defaults = {f.name: f.default for f in fields(cls)} | COMMAND_LINE_DEFAULTS
    found = {}
    for statement, doc in zip(body.body, body.body[1:], strict=False):
        match statement, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                default = "" if defaults[name] is MISSING else f" (default: {defaults[name]!r})"
                found[name] = (text + default).replace("``", "").replace("%", "%%")
    return found


def _add(group: Any, flags: Flags, docs: dict[str, str]) -> None:
    for name, kind in flags.items():
        flag, help_text = f"--{name}", docs.get(name)
        if kind is bool:
            group.add_argument(flag, action="store_true", default=UNSET, help=help_text)
        elif callable(kind):
            group.add_argument(flag, type=kind, default=UNSET, help=help_text, metavar=_metavar(kind))
        else:
            group.add_argument(flag, choices=kind, default=UNSET, help=help_text)


def _metavar(kind: Reader) -> str:
    return {int: "N", float: "X", _layers: "(0,0,1,...)"}.get(kind, "TEXT")


def _version() -> str:
    return metadata.version("smp-caption")


def _chosen(argv: Sequence[str]) -> dict[str, str]:
    """Model, data set and tokenizer, read before the parser that depends on them is built."""
    first = Parser("smp-caption train", add_help=False)
    _add(first, _GENERAL, {})
    first.add_own_argument("--config", default=None)
    found, _ = first.parse_known_args(argv)
    defaults = {"caption_model": COMMAND_LINE_DEFAULTS["caption_model"]}
    defaults |= {name: getattr(config.DataConfig(), name) for name in ("dataset", "tokenizer")}
    written = read_flat(found.config) if found.config else {}
    typed = written | _typed(found)
    return {name: typed.get(name, default) for name, default in defaults.items()}


def _typed(namespace: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(namespace).items() if value is not UNSET}


def _traceback(parser: Parser) -> None:
    # Taken off the command line by `prunelab.errors.entry` before a parser sees it.
    parser.add_own_argument("--traceback", action="store_true", help="show where an error comes from")


def train_parser(chosen: dict[str, str] | None = None) -> Parser:
    """The parser of ``train`` for a model, data set and tokenizer; None: with every flag, for ``--help``."""
    docs = {k: v for cls in GROUPS.values() for k, v in docs_of(cls).items()} if chosen is None else {}
    parser = Parser(
        "smp-caption train",
        "train a captioning model, dense or pruned; alone: the tour on embedded data",
        version=_version(),
    )
    for heading, flags in ALL_GROUPS if chosen is None else _groups_for(chosen):
        _add(parser.add_argument_group(heading), flags, docs)
    docs["model_size"] = "sizes that are not typed: the paper's, or small ones for tests"
    docs["config"] = "YAML configuration; flags and KEY VALUE pairs win over it"
    docs["print_config"] = "print the configuration as YAML and stop"
    _own(parser, docs, tour=bool, resume=bool, output=_text, config=str)
    sizes = tuple(MODEL_SIZES)
    parser.add_own_argument("--model_size", choices=sizes, default=UNSET, help=docs["model_size"])
    _own(parser, docs, **_RUN_FLAGS)
    _traceback(parser)
    parser.add_pairs()
    return parser


def parse_train(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``train`` (and of the original's two training programs).

    Raises:
        UserError: an unknown flag, or a value that a flag does not take.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in arguments):
        train_parser().parse_args(["--help"])
    typed = _typed(train_parser(_chosen(arguments)).parse_args(arguments))
    typed.pop("traceback")
    file, pairs = typed.pop("config", None), tuple(typed.pop("pairs"))
    show = bool(typed.pop("print_config", False))
    if typed.get("resume") and typed.get("start_from"):
        # The original's parser completed --resume to this flag.
        typed["resume_training"] = True
    return Raw(typed=typed, config_file=file, overrides=pairs, print_config=show)


def _options(
    cls: type[T],
    command: str,
    summary: str,
    argv: Sequence[str] | None,
    add: Callable[[Parser, Docs], None],
    make: Callable[..., T] | None = None,
) -> T:
    """Read the command line of a command that is ours alone, or whose original flags `add` adds first."""
    parser = Parser(f"smp-caption {command}", summary, version=_version())
    add(parser, docs_of(cls))
    _traceback(parser)
    typed = _typed(parser.parse_args(sys.argv[1:] if argv is None else argv))
    typed.pop("traceback")
    return (make or cls)(**{name: tuple(v) if isinstance(v, list) else v for name, v in typed.items()})


def _own(parser: Parser, docs: Docs, **flags: Reader | Sequence[str]) -> None:
    """Add flags of ours: ``beam_size`` is typed ``--beam-size``."""
    for name, kind in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            parser.add_own_argument(flag, action="store_true", default=UNSET, help=docs.get(name))
        elif callable(kind):
            metavar = _metavar(kind)
            parser.add_own_argument(flag, type=kind, default=UNSET, help=docs.get(name), metavar=metavar)
        else:
            parser.add_own_argument(flag, choices=kind, default=UNSET, help=docs.get(name))


_EVAL_MODEL: Flags = {
    "log_dir": _text,
    "id": _text,
    "model_file": _text,
    "beam_size_test": int,
    "beam_size_val": int,
    "batch_size_eval": int,
    "eval_dir_suffix": _text,
    "load_as_float16": bool,
    "mscoco_online_test": bool,
    "dataset": config.DATASETS,
    "dataset_dir": _text,
    "logging_level": config.LOGGING_LEVELS,
}


def parse_test(argv: Sequence[str] | None = None) -> TestOptions:
    """Read the command line of ``test``: the flags of the original's ``eval_model``, and ours."""

    def add(parser: Parser, docs: Docs) -> None:
        _add(parser.add_argument_group("the original's flags"), _EVAL_MODEL, docs)
        _own(parser, docs, output=_text, metrics=csv(), constant=bool)
        parser.add_own_argument(
            "--num_workers", type=int, default=UNSET, metavar="N", help=docs["num_workers"]
        )
        _own(parser, docs, **_RUN_FLAGS)

    return _options(TestOptions, "test", "caption and score a split with a trained model", argv, add)


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Read the command line of ``demo``."""

    def add(parser: Parser, docs: Docs) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help=docs["files"])
        _own(parser, docs, model=_text, beam_size=int, output=_text, device=str, dry_run=bool)

    return _options(DemoOptions, "demo", "caption pictures", argv, add)


def parse_extract(argv: Sequence[str] | None = None) -> ExtractOptions:
    """Read the command line of ``extract``."""

    def add(parser: Parser, docs: Docs) -> None:
        _own(parser, docs, images=_text, dataset_json=_text, backbone=str, weights=_text, scales=str)
        _own(parser, docs, boxes=_text, no_colour=bool, format=FEATURE_FORMATS, output=str, batch_size=int)
        _own(parser, docs, device=str, seed=int, dry_run=bool)

    return _options(ExtractOptions, "extract", "compute region features of pictures", argv, add)


def parse_convert(argv: Sequence[str] | None = None) -> ConvertOptions:
    """Read the command line of ``convert``."""

    def add(parser: Parser, docs: Docs) -> None:
        parser.add_argument("source", metavar="SRC", help=docs["source"])
        parser.add_argument("destination", metavar="DST", help=docs["destination"])
        _own(parser, docs, config_file=_text, dry_run=bool)

    return _options(ConvertOptions, "convert", "read a checkpoint of the original", argv, add)


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of ``export``."""

    def add(parser: Parser, docs: Docs) -> None:
        parser.add_argument("model", metavar="MODEL", help=docs["model"])
        _own(parser, docs, format=EXPORT_FORMATS, output=_text, dry_run=bool)

    return _options(ExportOptions, "export", "write a model in another format", argv, add)


def parse_binarize(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of the original's ``binarize_supermask``: a run by ``log_dir`` and ``id``."""

    def add(parser: Parser, docs: Docs) -> None:
        _add(parser, {"log_dir": _text, "id": _text}, {"log_dir": "folder of runs", "id": "name of the run"})
        _own(parser, docs, output=_text, dry_run=bool)

    def make(log_dir: str = "", id: str = "", **rest: Any) -> ExportOptions:
        if not log_dir and not id:
            raise UserError("binarize_supermask needs --log_dir and --id, the folder of a run")
        run = Path(log_dir, id)
        rest.setdefault("output", str(run / "model_best_bin_mask.pth"))
        return ExportOptions(model=str(run), format="binary", **rest)

    return _options(ExportOptions, "binarize", "round the masks of a pruned model", argv, add, make)


def parse_bench(argv: Sequence[str] | None = None) -> BenchOptions:
    """Read the command line of ``bench``."""

    def add(parser: Parser, docs: Docs) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help=docs["names"])
        _own(parser, docs, rounds=number(int, low=5), threads=number(int, low=1))
        _own(parser, docs, json=_text, json_table=_text, list=bool)

    return _options(BenchOptions, "bench", "time our way beside the plain one of the original", argv, add)
