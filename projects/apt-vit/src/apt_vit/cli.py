"""The command lines: the original's flags, ours beside them, and what was typed as plain data.

Unique prefixes of the original's flags work, as ``--model`` does for ``--model_type``; ours are typed in
full. A parser here knows no default: it tells what was typed, and `apt_vit.lowering` knows the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from apt_vit import config
from apt_vit.configs import NPZ_FILES
from apt_vit.lowering import CLIP_FRACTIONS, FIELDS, STEM, Raw, preset_values
from apt_vit.options import (
    EXPORT_FORMATS,
    LAYOUTS,
    SPLITS,
    CompareOptions,
    ConvertOptions,
    DemoOptions,
    ExportOptions,
    InferOptions,
    TestOptions,
)
from prunelab.doors import (
    NONE_WORDS,
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
    word_bool,
)


def _pair(text: str) -> tuple[int, ...]:
    """One number for both sides, or two: ``224``, ``224,192``, ``[224,192]``."""
    numbers = bracket_list(int)(text.replace("x", ","))
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r}, expected one number or two, such as 224 or 224,192")
    return numbers * 2 if len(numbers) == 1 else numbers


def _path(text: str) -> str:
    """A path; ``none`` for no file."""
    return "" if text.strip().lower() in NONE_WORDS else text


ORIGINAL: Flags = {
    "name": str,
    "dataset": config.DATASETS,
    "model_type": config.MODEL_TYPES,
    "pretrained_dir": _path,
    "output_dir": str,
    "img_size": _pair,
    "train_batch_size": int,
    "eval_batch_size": int,
    "eval_every": int,
    "learning_rate": float,
    "weight_decay": float,
    "num_steps": int,
    "decay_type": config.DECAYS[:2],
    "warmup_steps": int,
    "max_grad_norm": float,
    "local_rank": int,
    "seed": int,
    "gradient_accumulation_steps": int,
    "fp16": bool,
    "fp16_opt_level": str,
    "loss_scale": float,
}
"""The original's flags of training, which its inference has too."""
_KINDS: Flags = {
    "checksum": config.CHECKSUMS,
    "method": config.METHODS,
    "reward_dropout": config.REWARD_DROPOUTS,
    "preset": PRESETS,
    "amp": config.AMP,
    "format": EXPORT_FORMATS,
    "layout": LAYOUTS,
    "split": SPLITS,
    "mode": str,
    "clip_layers": bracket_list(int),
    **dict.fromkeys(("resume", "compile", "channels_last", "dry_run", "print_config"), bool),
    **dict.fromkeys(("tour", "fake_data", "show_shapes"), bool),
}
"""Flags of ours that are not read by the type of their field."""


def _kind(name: str, hint: Any) -> Any:
    """What the flag of a field takes."""
    known: dict[Any, Callable[[str], Any]] = {
        int: int,
        float: float,
        bool: word_bool,
        str: str,
        int | None: none_word(int),
        float | None: none_word(float),
        tuple[int, int]: _pair,
        tuple[int, int] | None: none_word(_pair),
        tuple[int, ...]: bracket_list(int),
        tuple[float, ...]: bracket_list(float),
        tuple[str, ...]: csv(),
    }
    return _KINDS[name] if name in _KINDS else known[hint]


def _flags(cls: type, skip: Sequence[str] = (), start: str = "") -> Flags:
    """A flag of ours for every field of a dataclass, but for some, and for groups."""
    hints, groups = get_type_hints(cls), ("resnet", "typed")
    return {
        start + f.name: _kind(f.name, hints[f.name]) for f in fields(cls) if f.name not in (*skip, *groups)
    }


SIZES: Flags = _flags(config.ModelConfig, list(ORIGINAL)) | _flags(config.ResNetConfig, start=STEM)
"""Fields of the network that the original has no flag for."""
OWN: Flags = {
    name: kind
    for group, cls in FIELDS.groups.items()
    if group != "model"
    for name, kind in _flags(cls, list(ORIGINAL)).items()
}
"""Flags of ours for all other fields of a configuration."""
NETWORK: Flags = {name: ORIGINAL[name] for name in ("model_type", "img_size")}
"""The original's flags that tell what network a file is of."""
ASKED = (
    *("name", "dataset", "model_type", "output_dir", "img_size", "eval_batch_size", "local_rank", "seed"),
    *("data_dir", "download", "checksum", "num_workers", "validation_share", "class_names", "fake_data"),
    *("method", "threshold", "keep_rate", "output", "preset", "device", "amp", "compile", "channels_last"),
    *("batch_mean_loss", *SIZES, CLIP_FRACTIONS, "print_config"),
)
"""Fields of a configuration that decide something where a trained network is asked."""


def _docs(*classes: type, **defaults: Any) -> dict[str, str]:
    """Help for flags: the docstrings of fields, with the defaults of both presets where these differ."""
    found = {f"{STEM}{name}": f"stem: {text}" for name, text in field_docs(config.ResNetConfig).items()}
    for cls in classes:
        found |= field_docs(cls, defaults)
    faithful, fixed = preset_values("faithful"), preset_values("fixed")
    fixed["clip_layers"] = "as clip_fractions 0.25,0.5,0.75"
    for name in faithful.keys() & found.keys():
        found[name] = f"{_bare(found[name])} (faithful: {faithful[name]}, fixed: {fixed[name]})"
    return found | {
        "print_config": "print the configuration as YAML and stop",
        CLIP_FRACTIONS: "blocks after which tokens are pruned, as shares of the depth: 0.25,0.5,0.75 of 12 "
        "blocks are 2,5,8",
    }


def _bare(text: str) -> str:
    """A help text without its defaults."""
    return text.partition(" (default: ")[0].partition(" (faithful: ")[0]


def _parser(command: str, summary: str) -> Parser:
    return command_parser("apt-vit", command, summary)


def _add_config(parser: Parser, docs: dict[str, str], skip: Container[str] = ()) -> None:
    """Add a flag for every field of a configuration, but for some."""
    add_flags(parser, {name: kind for name, kind in ORIGINAL.items() if name not in skip}, docs)
    own = {**OWN, **SIZES, CLIP_FRACTIONS: bracket_list(float), "print_config": bool}
    add_own_flags(parser, {name: kind for name, kind in own.items() if name not in skip}, docs)


def _but(names: Iterable[str]) -> set[str]:
    """The flags of a configuration without some."""
    return {*ORIGINAL, *OWN, *SIZES, CLIP_FRACTIONS, "print_config"} - set(names)


def _split(cls: type, typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed as arguments of a dataclass; what is no field of it goes to its field ``typed``."""
    names = {f.name for f in fields(cls)}
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in typed.items() if name in names}
    return own | {"typed": {name: value for name, value in typed.items() if name not in names}}


def _type_too(typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed, where the name of a network behind ``--model`` or ``--mode`` is its ``model_type``.

    The original's parser completes these words to ``--model_type``.
    """
    found = dict(typed)
    for name in ("model", "mode"):
        if found.get(name) in NPZ_FILES:
            found.setdefault("model_type", found.pop(name))
    return found


def _rule_of(typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed, where a threshold alone takes the place of the share that a model keeps otherwise."""
    return ({"keep_rate": None} if "threshold" in typed else {}) | typed


def parse_train(argv: Sequence[str] | None = None) -> Raw:
    """Read the command line of ``train``.

    Raises:
        UserError: an unknown flag, or a value that a flag does not take.
    """
    parser = _parser("train", "train a ViT and the agents that prune its tokens; alone: the tour")
    _add_config(parser, _docs(*FIELDS.groups.values(), preset="faithful"))
    typed = typed_flags(parser, argv)
    return Raw(print_config=typed.pop("print_config", False), typed=typed)


def parse_test(argv: Sequence[str] | None = None) -> TestOptions:
    """Read the command line of ``test``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("test", "accuracy, tokens and multiply-adds of a model; alone: of the newest run's best")
    docs = _docs(*FIELDS.groups.values(), preset="the run's") | _docs(TestOptions)
    own = _flags(TestOptions)
    _add_config(parser, docs, _but(ASKED) | own.keys())
    add_own_flags(parser, own, docs)
    return TestOptions(**_split(TestOptions, _rule_of(typed_flags(parser, argv))))


def parse_infer(argv: Sequence[str] | None = None) -> InferOptions:
    """Read the command line of ``infer``, and of the original's inference program.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("infer", "classify the test pictures with tokens really dropped")
    docs = _docs(*FIELDS.groups.values(), preset="the run's, else faithful", eval_batch_size=1)
    docs |= dict.fromkeys(ORIGINAL.keys() - set(ASKED), "taken as the original does, and of no effect")
    docs |= _docs(InferOptions)
    own = _flags(InferOptions)
    _add_config(parser, docs, _but([*ASKED, *ORIGINAL]) | own.keys())
    add_own_flags(parser, own, docs)
    return InferOptions(**_split(InferOptions, _rule_of(_type_too(typed_flags(parser, argv)))))


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Read the command line of ``demo``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("demo", "name what pictures show, and draw the patches that are kept")
    docs = _docs(config.ModelConfig, DemoOptions)
    parser.add_argument("files", nargs="*", metavar="FILE", help=docs["files"])
    return DemoOptions(**_of_model(DemoOptions, parser, docs, argv, ["files"]))


def parse_convert(argv: Sequence[str] | None = None) -> ConvertOptions:
    """Read the command line of ``convert``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("convert", "read published weights, or a checkpoint of the original")
    docs = _docs(config.ModelConfig, config.RunOptions, ConvertOptions, preset="fixed")
    parser.add_argument("source", metavar="SRC", help=docs["source"])
    parser.add_argument("destination", metavar="DST", help=docs["destination"])
    add_own_flags(parser, {"preset": PRESETS}, docs)
    return ConvertOptions(**_of_model(ConvertOptions, parser, docs, argv, ["source", "destination"]))


def parse_export(argv: Sequence[str] | None = None) -> ExportOptions:
    """Read the command line of ``export``.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("export", f"write a model as {' or '.join(EXPORT_FORMATS)}")
    docs = _docs(config.ModelConfig, ExportOptions)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=docs["model"])
    return ExportOptions(**_of_model(ExportOptions, parser, docs, argv, ["model"]))


def _of_model(
    cls: type, parser: Parser, docs: dict[str, str], argv: Sequence[str] | None, skip: Sequence[str]
) -> dict[str, Any]:
    """Arguments of a dataclass from its own flags and those that tell what network a file is of."""
    told = {**NETWORK, **SIZES, CLIP_FRACTIONS: bracket_list(float), "class_names": csv()}
    # What is not typed, the file says.
    shown = field_docs(config.DataConfig) | docs
    docs = docs | {name: _bare(shown[name]) for name in told}
    add_flags(parser, NETWORK, docs)
    own = {name: kind for name, kind in told.items() if name not in NETWORK}
    add_own_flags(parser, {**_flags(cls, skip), **own}, docs)
    return _split(cls, typed_flags(parser, argv))


def parse_compare(argv: Sequence[str] | None = None) -> tuple[Raw, CompareOptions]:
    """Read the command line of ``compare``: as that of ``train``, with flags of its own.

    Raises:
        UserError: see `parse_train`.
    """
    parser = _parser("compare", "train ways to prune tokens by one recipe, and compare them")
    docs = _docs(*FIELDS.groups.values(), preset="that of the row") | _docs(CompareOptions)
    own = _flags(CompareOptions)
    _add_config(parser, docs, [*own, "tour"])
    add_own_flags(parser, own, docs)
    typed = typed_flags(parser, argv)
    options = CompareOptions(**{name: typed.pop(name) for name in own if name in typed})
    return Raw(print_config=typed.pop("print_config", False), typed=typed), options
