"""The command lines: the original's flags, ours beside them, and what was typed as plain data.

A parser here knows no default: it tells what was typed, and `smp_caption.lowering` knows the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prunelab.doors import (
    PRESETS,
    Flags,
    Parser,
    add_flags,
    add_own_flags,
    command_parser,
    csv,
    field_docs,
    none_word,
    tuple_literal,
    typed_flags,
    typed_options,
)
from prunelab.errors import UserError
from smp_caption import config
from smp_caption.lowering import COMMAND_LINE_DEFAULTS, FIELDS, MODEL_SIZES, Raw, read_flat
from smp_caption.options import (
    EXPORT_FORMATS,
    FEATURE_FORMATS,
    CollectCaptionsOptions,
    CollectScoresOptions,
    ConvertOptions,
    DemoOptions,
    ExportOptions,
    ExtractOptions,
    PlotOptions,
    TestOptions,
)


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
UP_DOWN_FLAGS: Flags = {
    "input_fc_dir": _text,
    "rnn_size": int,
    "input_encoding_size": int,
    "drop_prob_lm": float,
    "att_hid_size": int,
    "fc_feat_size": int,
    "logit_layers": int,
}
TRANSFORMER_FLAGS: Flags = {
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
RELATION_FLAGS: Flags = {
    "input_rel_box_dir": _text,
    "no_box_trigonometric_embedding": bool,
}

_METHODS: Flags = {"prune_gradual_frequency": int, "scst_end_in_reward": bool}
_LAYER_METHODS: Flags = {"drop_prob_layer": none_word(float)}
"""Our own flags of what is computed, where the original has fixed numbers."""

_RUN_FLAGS: Flags = {
    "device": str,
    "preset": PRESETS,
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
        groups.append(("Up-Down", UP_DOWN_FLAGS))
    else:
        groups.append(("transformers", TRANSFORMER_FLAGS))
    if model.startswith("relation"):
        groups.append(("relation transformer", RELATION_FLAGS))
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
    ("Up-Down only", UP_DOWN_FLAGS),
    ("transformers only", TRANSFORMER_FLAGS),
    ("relation transformer only", RELATION_FLAGS),
]


def _parser(command: str, summary: str) -> Parser:
    return command_parser("smp-caption", command, summary)


def _docs(cls: type) -> dict[str, str]:
    return field_docs(cls, COMMAND_LINE_DEFAULTS)


def _chosen(argv: Sequence[str]) -> dict[str, str]:
    """Model, data set and tokenizer, read before the parser that depends on them is built."""
    first = Parser("smp-caption train", add_help=False, argument_default=argparse.SUPPRESS)
    add_flags(first, _GENERAL, {})
    first.add_own_argument("--config", default=None)
    found, _ = first.parse_known_args(argv)
    defaults = {"caption_model": COMMAND_LINE_DEFAULTS["caption_model"]}
    defaults |= {name: getattr(config.DataConfig(), name) for name in ("dataset", "tokenizer")}
    written = read_flat(found.config) if found.config else {}
    typed = written | vars(found)
    return {name: typed.get(name, default) for name, default in defaults.items()}


def train_parser(chosen: dict[str, str] | None = None) -> Parser:
    """The parser of ``train`` for a model, data set and tokenizer; None: with every flag, for ``--help``."""
    docs = {k: v for cls in FIELDS.groups.values() for k, v in _docs(cls).items()} if chosen is None else {}
    parser = _parser("train", "train a captioning model, dense or pruned; alone: the tour on embedded data")
    for heading, flags in ALL_GROUPS if chosen is None else _groups_for(chosen):
        add_flags(parser.add_argument_group(heading), flags, docs)
    docs["model_size"] = "sizes that are not typed: the paper's, or small ones for tests"
    docs["config"] = "YAML configuration; flags and KEY VALUE pairs win over it"
    docs["print_config"] = "print the configuration as YAML and stop"
    add_own_flags(parser, {"tour": bool, "resume": bool, "output": _text, "config": str}, docs)
    up_down = chosen is not None and chosen["caption_model"] in config.UP_DOWN
    add_own_flags(parser, _METHODS if up_down else _METHODS | _LAYER_METHODS, docs)
    parser.add_own_argument("--model_size", choices=MODEL_SIZES, help=docs["model_size"])
    add_own_flags(parser, _RUN_FLAGS, docs)
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
    typed = typed_flags(train_parser(_chosen(arguments)), arguments)
    file, pairs = typed.pop("config", None), tuple(typed.pop("pairs"))
    show = bool(typed.pop("print_config", False))
    if typed.get("resume") and typed.get("start_from"):
        # The original's parser completed --resume to this flag.
        typed["resume_training"] = True
    return Raw(typed=typed, config_file=file, overrides=pairs, print_config=show)


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
    parser, docs = _parser("test", "caption and score a split with a trained model"), _docs(TestOptions)
    add_flags(parser.add_argument_group("the original's flags"), _EVAL_MODEL, docs)
    add_own_flags(parser, {"output": _text, "metrics": csv(), "constant": bool}, docs)
    parser.add_own_argument("--num_workers", type=int, metavar="N", help=docs["num_workers"])
    add_own_flags(parser, _RUN_FLAGS, docs)
    return typed_options(TestOptions, parser, argv)


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Read the command line of ``demo``."""
    parser, docs = _parser("demo", "caption pictures"), _docs(DemoOptions)
    parser.add_argument("files", nargs="+", metavar="FILE", help=docs["files"])
    flags: Flags = {"model": _text, "beam_size": int, "output": _text, "device": str, "dry_run": bool}
    add_own_flags(parser, flags, docs)
    return typed_options(DemoOptions, parser, argv)


def parse_extract(argv: Sequence[str] | None = None) -> ExtractOptions:
    """Read the command line of ``extract``."""
    parser, docs = _parser("extract", "compute region features of pictures"), _docs(ExtractOptions)
    flags: Flags = {
        "images": _text,
        "dataset_json": _text,
        "backbone": str,
        "weights": _text,
        "scales": str,
        "boxes": _text,
        "no_colour": bool,
        "format": FEATURE_FORMATS,
        "output": str,
        "batch_size": int,
        "device": str,
        "seed": int,
        "dry_run": bool,
    }
    add_own_flags(parser, flags, docs)
    return typed_options(ExtractOptions, parser, argv)


def parse_convert(argv: Sequence[str] | None = None) -> ConvertOptions:
    """Read the command line of ``convert``."""
    parser, docs = _parser("convert", "read a checkpoint of the original"), _docs(ConvertOptions)
    parser.add_argument("source", metavar="SRC", help=docs["source"])
    parser.add_argument("destination", metavar="DST", help=docs["destination"])
    add_own_flags(parser, {"config_file": _text, "dry_run": bool}, docs)
    return typed_options(ConvertOptions, parser, argv)


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of ``export``."""
    parser, docs = _parser("export", "write a model in another format"), _docs(ExportOptions)
    parser.add_argument("model", metavar="MODEL", help=docs["model"])
    add_own_flags(parser, {"format": EXPORT_FORMATS, "output": _text, "dry_run": bool}, docs)
    return typed_options(ExportOptions, parser, argv)


def parse_binarize(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of the original's ``binarize_supermask``: a run by ``log_dir`` and ``id``."""
    parser, docs = _parser("binarize", "round the masks of a pruned model"), _docs(ExportOptions)
    add_flags(parser, {"log_dir": _text, "id": _text}, {"log_dir": "folder of runs", "id": "name of the run"})
    add_own_flags(parser, {"output": _text, "dry_run": bool}, docs)
    typed = typed_flags(parser, argv)
    run = Path(typed.pop("log_dir", ""), typed.pop("id", ""))
    if run == Path():
        raise UserError("binarize_supermask needs --log_dir and --id, the folder of a run")
    typed.setdefault("output", str(run / "model_best_bin_mask.pth"))
    return ExportOptions(model=str(run), format="binary", **typed)


def parse_collect_scores(argv: Sequence[str] | None = None) -> CollectScoresOptions:
    """Read the command line of ``collect-scores``."""
    docs = _docs(CollectScoresOptions)
    parser = _parser("collect-scores", "gather the scores of many runs")
    add_flags(parser, {"log_dir": _text}, docs)
    add_own_flags(parser, {"output": _text, "dry_run": bool}, docs)
    return typed_options(CollectScoresOptions, parser, argv)


def parse_collect_captions(argv: Sequence[str] | None = None) -> CollectCaptionsOptions:
    """Read the command line of ``collect-captions-plus``."""
    docs = _docs(CollectCaptionsOptions)
    parser = _parser("collect-captions-plus", "set the captions of several runs side by side")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=docs["runs"])
    add_own_flags(parser, {"evaluation": str, "output": str, "show": int, "dry_run": bool}, docs)
    return typed_options(CollectCaptionsOptions, parser, argv)


def parse_plot(command: str, argv: Sequence[str] | None = None) -> PlotOptions:
    """Read the command line of ``plot-sparsities`` or ``plot-scores``."""
    summary = {
        "plot-sparsities": "draw how sparse each layer of pruned models is",
        "plot-scores": "draw scores against sparsity, a line for each way to prune",
    }
    parser, docs = _parser(command, summary[command]), _docs(PlotOptions)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=docs["runs"])
    flags: Flags = {"output": _text, "title": _text}
    if command == "plot-scores":
        flags |= {"score": str, "evaluation": str}
    add_own_flags(parser, flags | {"dry_run": bool}, docs)
    return typed_options(PlotOptions, parser, argv)
