"""The command lines: the original's flags, ours beside them, and what was typed as plain data.

Unique prefixes of the original's flags work, as ``--warmup`` does; ours are typed in full. A parser here
knows no default: it tells what was typed, and `expansionnet.lowering` knows the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from expansionnet import config
from expansionnet.lowering import FIELDS, MODEL_SIZE, MODEL_SIZES, SWIN, Raw, model_config
from expansionnet.options import (
    DTYPES,
    EXPORT_FORMATS,
    ConvertOptions,
    DemoOptions,
    EngineOptions,
    ExportOptions,
    GenerateOptions,
    TestOptions,
)
from prunelab.doors import (
    PRESETS,
    Flags,
    Parser,
    add_flags,
    add_own_flags,
    bracket_list,
    command_parser,
    csv,
    field_docs,
    none_word,
    typed_flags,
    typed_options,
    word_bool,
)

_SIZES: Flags = {"model_dim": int, "N_enc": int, "N_dec": int}
ORIGINAL: Flags = {
    **_SIZES,
    "enc_drop": float,
    "dec_drop": float,
    "enc_input_drop": float,
    "dec_input_drop": float,
    "drop_other": float,
    "optim_type": config.OPTIMIZERS,
    "sched_type": config.SCHEDULES,
    "lr": float,
    "min_lr": float,
    "warmup_iters": int,
    "anneal_coeff": float,
    "anneal_every_epoch": float,
    "batch_size": int,
    "num_accum": int,
    "num_gpus": int,
    "ddp_sync_port": int,
    "save_path": str,
    "save_every_minutes": float,
    "how_many_checkpoints": int,
    "print_every_iter": int,
    "eval_every_iter": int,
    "eval_parallel_batch_size": int,
    "eval_beam_sizes": bracket_list(int),
    "reinforce": word_bool,
    "scst_max_len": int,
    "num_epochs": int,
    "captions_path": str,
    "partial_load": word_bool,
    "backbone_save_path": str,
    "body_save_path": str,
    "is_end_to_end": word_bool,
    "images_path": str,
    "preproc_images_hdf5_filepath": none_word(),
    "features_path": str,
    "seed": int,
}
"""The original's flags of ``train``."""
_TEST: Flags = {
    **_SIZES,
    "show_predictions": word_bool,
    "is_end_to_end": word_bool,
    "is_ensemble": word_bool,
    "num_gpus": int,
    "ddp_sync_port": int,
    "save_model_path": str,
    "eval_parallel_batch_size": int,
    "eval_beam_sizes": bracket_list(int),
    "images_path": str,
    "preproc_images_hdf5_filepath": none_word(),
    "features_path": str,
    "captions_path": str,
}
_CHOICES: Flags = {
    "dataset": config.DATASETS,
    "baseline": config.BASELINES,
    "scoring": config.SCORING,
    "sample_mode": ("train", "eval"),
    "preset": PRESETS,
    "amp": config.AMP,
    "format": EXPORT_FORMATS,
    **dict.fromkeys(("resume", "compile", "channels_last", "dry_run", "print_config"), bool),
    **dict.fromkeys(("tour", "fake_data", "random_weights", "constant"), bool),
}
"""Flags of ours that are not read by the type of their field."""


def _kind(name: str, hint: Any) -> Any:
    """What the flag of a field takes."""
    known: dict[Any, Any] = {
        int: int,
        float: float,
        bool: word_bool,
        str: str,
        int | None: none_word(int),
        str | None: none_word(),
        tuple[int, ...]: bracket_list(int),
        tuple[str, ...]: csv(),
    }
    return _CHOICES[name] if name in _CHOICES else known[hint]


def _flags(cls: type, skip: Sequence[str] = ()) -> Flags:
    """A flag of ours for every field of a dataclass, but for some and for groups."""
    hints = get_type_hints(cls)
    return {
        f.name: _kind(f.name, hints[f.name]) for f in fields(cls) if f.name not in (*skip, "swin", "typed")
    }


MODEL = _flags(config.ModelConfig, [*ORIGINAL, "is_end_to_end"])
"""Sizes of the model that the original has no flag for."""
BACKBONE: Flags = {f"{SWIN}{name}": kind for name, kind in _flags(config.SwinConfig).items()}
"""Sizes of the backbone."""
OWN: Flags = {
    name: kind for cls in FIELDS.groups.values() for name, kind in _flags(cls, [*ORIGINAL, *MODEL]).items()
}
"""Flags of ours for all other fields of a configuration."""


def _docs(*classes: type, **defaults: Any) -> dict[str, str]:
    """Help for flags: the docstrings of fields."""
    found = {f"{SWIN}{name}": f"backbone: {text}" for name, text in field_docs(config.SwinConfig).items()}
    for cls in classes:
        found |= field_docs(cls, defaults)
    return found | {"print_config": "print the configuration as YAML and stop"}


def _parser(command: str, summary: str) -> Parser:
    return command_parser("expansionnet", command, summary)


def _add_size(parser: Parser) -> None:
    """Add ``--model-size``."""
    text = "sizes that are not typed: the paper's, or small ones for tests"
    parser.add_own_argument("--model-size", choices=tuple(MODEL_SIZES), help=text)


def parse_train(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``train``.

    Raises:
        UserError: an unknown flag, or a value that a flag does not take.
    """
    parser = _parser("train", "train a captioner, a phase at a time; alone: the tour on generated pictures")
    docs = _docs(*FIELDS.groups.values(), preset="faithful")
    add_flags(parser, ORIGINAL, docs)
    add_own_flags(parser, {**OWN, "print_config": bool}, docs)
    _add_size(parser)
    add_own_flags(parser, {**MODEL, **BACKBONE}, docs)
    typed = typed_flags(parser, argv)
    return Raw(print_config=typed.pop("print_config", False), typed=typed)


def _named(typed: dict[str, Any], field: str) -> None:
    """Put the value of ``--model`` where it belongs: a place in ``field``, a number in ``model_dim``.

    The original's parsers complete ``--model`` to ``--model_dim``.
    """
    text = typed.pop("model", None)
    if text is not None:
        name, value = ("model_dim", int(text)) if text.isdecimal() else (field, text)
        typed.setdefault(name, value)


def _split(cls: type, typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed as arguments of a dataclass; what is no field of it goes to its field ``typed``."""
    names = {f.name for f in fields(cls)}
    rest = {name: value for name, value in typed.items() if name not in names}
    return {name: value for name, value in typed.items() if name in names} | {"typed": rest}


def parse_test(argv: Sequence[str] | None = None) -> TestOptions:
    """Read the command line of ``test``; ``--model`` is ``--save_model_path`` without the original's quirks.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("test", "caption splits and score the captions; alone: the newest run on its own data")
    docs = _docs(*FIELDS.groups.values(), preset="the run's") | _docs(TestOptions)
    add_flags(parser, _TEST, docs)
    parser.add_own_argument(
        "--model", help="checkpoint, model folder or run: as save_model_path", metavar="TEXT"
    )
    add_own_flags(parser, _flags(TestOptions, [*_TEST, "original"]), docs)
    own = ("dataset", "vocab_path", "limited_num_val_images", "dict_min_occurrences", "workers", "fake_data")
    more = ("seed", "device", "amp", "compile", "channels_last", "preset")
    shown = {name: kind for name, kind in {**OWN, "seed": int}.items() if name in own + more}
    shown |= _flags(config.DecodeConfig, ["eval_beam_sizes"]) | _flags(config.QuirkConfig)
    _add_size(parser)
    add_own_flags(parser, {**shown, **MODEL, **BACKBONE}, docs)
    typed = typed_flags(parser, argv)
    original = "save_model_path" in typed
    _named(typed, "save_model_path")
    return TestOptions(original=original, **_split(TestOptions, typed))


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Read the command line of ``demo``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("demo", "caption pictures")
    docs = _docs(config.ModelConfig, DemoOptions)
    parser.add_argument("files", nargs="*", metavar="FILE", help=docs["files"])
    flags: Flags = {**_SIZES, "max_seq_len": int, "device": str, "load_path": str}
    add_flags(parser, flags, docs)
    parser.add_argument("--image_paths", nargs="+", metavar="FILE", help="pictures: as FILE")
    add_flags(parser, {"beam_size": int}, docs)
    parser.add_own_argument("--model", metavar="TEXT", help="checkpoint, model folder or run: as load_path")
    parser.add_own_argument("--beam-size", type=int, dest="beam_size", metavar="N", help="as beam_size")
    own = _flags(DemoOptions, [*flags, "files", "beam_size"])
    add_own_flags(parser, {**own, **_but(MODEL, flags), **BACKBONE}, docs)
    typed = typed_flags(parser, argv)
    files = (*typed.pop("files", ()), *typed.pop("image_paths", ()))
    _named(typed, "load_path")
    return DemoOptions(files=files, **_split(DemoOptions, typed))


def _but(flags: Flags, others: Flags) -> Flags:
    """Flags without those of the same names."""
    return {name: kind for name, kind in flags.items() if name not in others}


def parse_data_generator(argv: Sequence[str] | None = None) -> GenerateOptions:
    """Read the command line of ``data-generator``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("data-generator", "compute the features that a model without a backbone reads")
    docs = _docs(GenerateOptions)
    flags: Flags = dict.fromkeys(("save_model_path", "output_path", "images_path", "captions_path"), str)
    flags["dtype"] = DTYPES
    add_flags(parser, flags, docs)
    _add_size(parser)
    add_own_flags(parser, {**_flags(GenerateOptions, list(flags)), **BACKBONE}, docs)
    typed = typed_flags(parser, argv)
    sizes = {name: typed.pop(name) for name in (MODEL_SIZE, *BACKBONE) if name in typed}
    return GenerateOptions(swin=model_config(sizes).swin, **typed)


def parse_convert(argv: Sequence[str] | None = None) -> ConvertOptions:
    """Read the command line of ``convert``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("convert", "read a published file")
    docs = _docs(config.ModelConfig, ConvertOptions)
    parser.add_argument("source", metavar="SRC", help=docs["source"])
    parser.add_argument("destination", metavar="DST", help=docs["destination"])
    add_flags(parser, _SIZES, docs)
    own = _flags(ConvertOptions, ["source", "destination"])
    add_own_flags(parser, {**own, **MODEL, **BACKBONE}, docs)
    return ConvertOptions(**_split(ConvertOptions, typed_flags(parser, argv)))


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of ``export``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("export", f"write a model as {' or '.join(EXPORT_FORMATS)}")
    docs = _docs(config.ModelConfig, ExportOptions)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=docs["model"])
    add_flags(parser, _SIZES, docs)
    add_own_flags(parser, {**_flags(ExportOptions, ["model"]), **MODEL, **BACKBONE}, docs)
    return ExportOptions(**_split(ExportOptions, typed_flags(parser, argv)))


def parse_convert2onnx(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of the original's ``convert2onnx.py``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("convert2onnx", "write a model as ONNX, with the original's flags")
    docs = _docs(config.ModelConfig, ExportOptions)
    add_flags(parser, {**_SIZES, "vocab_path": str, "max_seq_len": int}, docs)
    names = {
        "image_path_1": "picture on which the export is verified",
        "image_path_2": "another one",
        "load_model_path": "checkpoint, model folder or run",
        "output_onnx_path": "folder that is written",
    }
    add_flags(parser, dict.fromkeys(names, str), names)
    tests: Flags = {"onnx_runtime_test": word_bool, "onnx_tensorrt_test": word_bool, "max_worker_size": int}
    docs |= dict.fromkeys(tests, "taken and not needed: every export is compared with PyTorch")
    add_flags(parser, {"onnx_simplify": word_bool, **tests, "onnx_opset": int}, docs)
    add_own_flags(parser, {"dry_run": bool, **_but(MODEL, {"max_seq_len": int}), **BACKBONE}, docs)
    typed = {name: value for name, value in typed_flags(parser, argv).items() if name not in tests}
    pictures = tuple(typed.pop(name) for name in ("image_path_1", "image_path_2") if name in typed)
    model = typed.pop("load_model_path", "./rf_model.pth")
    output = typed.pop("output_onnx_path", "./rf_model.onnx")
    return ExportOptions(model=model, output=output, pictures=pictures, **_split(ExportOptions, typed))


def parse_onnx2tensorrt(argv: Sequence[str] | None = None) -> EngineOptions:
    """Read the command line of the original's ``onnx2tensorrt.py``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("onnx2tensorrt", "build TensorRT engines from exported ONNX files")
    docs = _docs(EngineOptions)
    add_flags(parser, {"onnx_path": str, "engine_path": str, "data_type": DTYPES}, docs)
    add_own_flags(parser, {"max_pictures": int, "max_beams": int, "dry_run": bool}, docs)
    return typed_options(EngineOptions, parser, argv)
