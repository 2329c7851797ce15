"""From what was typed to a `Config`: presets, YAML files, KEY VALUE pairs, flags, and the tour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from acosp_seg.config import DATASETS, Config, QuirkConfig
from acosp_seg.layout import find_config, newest_model, resolve, run_config
from prunelab.config import Flat, to_plain
from prunelab.doors import apply_pairs, did_you_mean, read_sections, runs_root
from prunelab.errors import UserError

FIELDS = Flat(Config)
"""Every field of a configuration by its name, which is used once."""

ALIASES = {"save_path": "output", "manual_seed": "seed"}
"""Keys of the original whose field has another name; its ``resume`` is `RunOptions.resume_from`."""

BASELINE = "config/ade20k/ade20k_pspnet50.yaml"
"""The file that KEY VALUE pairs without ``--config`` change, as in the original."""

PRETRAINED = {"psp": "/data/resnet50_v2.pth", "segnet": "/data/vgg16-397923af.pth"}
"""Initial weights of a training by a file of the original, which names none."""

TOUR_TAKES = frozenset({"tour", "resume", "output", "seed", "device", "dry_run", "max_steps", "preset"})
"""What may be typed beside ``--tour``."""

TOUR: dict[str, Any] = {
    "dataset": "tiny",
    "data_root": "",
    "train_list": "",
    "val_list": "",
    "test_list": "",
    "names_path": "",
    "colors_path": "",
    "arch": "segnet",
    "layers": None,
    "classes": 5,
    "width": 16,
    "train_h": 48,
    "train_w": 64,
    "test_h": 48,
    "test_w": 64,
    "base_size": 64,
    "batch_size": 8,
    "batch_size_val": 8,
    "workers": 0,
    "base_lr": 0.05,
    "epochs": 16,
    "aux_weight": 0.0,
    "evaluate": True,
    "save_freq": 1,
    "model_path": "",
    "save_folder": "",
    "result_path": "",
    "train_gpu": [0],
    "tour": True,
}
"""The dense run of the tour; its pruned run changes pruning alone."""

TOUR_PRUNED: dict[str, Any] = {"sparsity": 0.75, "ending_epoch": 6}
"""How the tour's pruned run prunes."""

CIFAR10: dict[str, Any] = {
    "arch": "resnet18",
    "layers": None,
    "classes": 10,
    "dataset": "cifar10",
    "data_root": "/data/cifar10",
    "train_list": "",
    "val_list": "",
    "test_list": "",
    "names_path": "",
    "colors_path": "",
    "train_h": 32,
    "train_w": 32,
    "test_h": 32,
    "test_w": 32,
    "base_size": 32,
    "flip": False,
    "batch_size": 512,
    "batch_size_val": 512,
    "workers": 8,
    "optimiser": "adam",
    "base_lr": 0.01,
    "lr_schedule": "cosine_epoch",
    "weight_decay": 0.0001,
    "epochs": 50,
    "ending_epoch": 10,
    "aux_weight": 0.0,
    "sync_bn": False,
    "evaluate": True,
    "train_gpu": [0],
    "model_path": "",
    "save_folder": "",
    "result_path": "",
}
"""The recipe of the CIFAR-10 classifier, which the original keeps in code."""

CIFAR10_FLAGS = {"save_dir": "output", "lr": "base_lr", "pruner_ending_epoch": "ending_epoch"}
"""Flags of the CIFAR-10 program whose field has another name."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a command line said, before anything is decided."""

    typed: Mapping[str, Any] = field(default_factory=dict)
    """Field name to value, for the flags that were typed and no others."""
    config_file: str | None = None
    """YAML file of ``--config``."""
    overrides: tuple[str, ...] = ()
    """Trailing KEY VALUE pairs, flat."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""


def lower(raw: Raw) -> Config:
    """The configuration that a command line of ``train`` means.

    Later ones win: defaults, the preset's quirks, the YAML file, KEY VALUE pairs, flags. A bare command line,
    or one with ``--resume`` or ``--dry-run`` alone, is the tour.

    Raises:
        UserError: an unknown key, a value out of range, or flags that do not go together.
    """
    typed = dict(raw.typed)
    bare = not (raw.config_file or raw.overrides or raw.print_config) and set(typed) <= {"resume", "dry_run"}
    if bare or typed.get("tour"):
        return _lower_tour(typed, raw)
    return lower_file(raw.config_file or BASELINE, raw.overrides, typed)


def lower_test(raw: Raw) -> Config:
    """The configuration that a command line of ``test`` means.

    Without ``--config`` it is that of the run which holds the model, and without a model the newest run's.
    ``model`` becomes `TestConfig.model_path`, ``output`` the folder of predictions and scores.

    Raises:
        UserError: see `lower`; no run, or a model without one.
    """
    typed = dict(raw.typed)
    model, output = typed.pop("model", ""), typed.pop("output", "")
    path = raw.config_file
    if path is None and (model or not raw.overrides):
        try:
            place = resolve(model) if model else newest_model()
            model, path = str(place), str(run_config(place))
        except UserError:
            if not typed.get("dry_run"):
                raise
            return _lower_tour({"dry_run": True}, Raw())  # nothing is there, and nothing is needed
        output = output or str(Path(path).parent / "result")
    if model:
        typed["model_path"] = model
    if output:
        typed["save_folder"] = output
        typed["result_path"] = str(Path(output) / "results.csv")
    return lower_file(path or BASELINE, raw.overrides, typed)


def lower_file(path: str, overrides: tuple[str, ...] = (), typed: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a YAML file, the original's or that of one of our runs.

    Args:
        path: sections of keys; their names mean nothing.
        overrides: KEY VALUE pairs.
        typed: flags by field name; they win over all.

    Raises:
        UserError: see `lower`.
    """
    typed = dict(typed or {})
    file = _with_pairs(read_sections(find_config(path)), overrides, path)
    values = _by_field(file, path)
    preset = typed.get("preset", values.get("preset", "faithful"))
    quirks = to_plain(QuirkConfig.of(preset))
    if "preset" in typed:  # a preset that is typed wins over the quirks that a file lists
        values = {name: value for name, value in values.items() if name not in quirks}
    implied = _implied(values | typed, preset)
    lowest = FIELDS.values(Config()) | quirks | implied
    return FIELDS.build(lowest | values | typed | {"preset": preset}, where=path)


def lower_cifar10(raw: Raw) -> Config:
    """The configuration of ``train_cifar10``: its flags (``save_dir``, ``lr``, ...) or field names.

    Raises:
        UserError: see `lower`.
    """
    named = {CIFAR10_FLAGS.get(name, name): value for name, value in raw.typed.items()}
    if "gpu" in named:
        named["train_gpu"] = [named.pop("gpu")]
    preset = named.get("preset", "faithful")
    base = FIELDS.values(Config()) | to_plain(QuirkConfig.of(preset)) | CIFAR10
    return FIELDS.build(base | named | {"preset": preset}, where="train_cifar10")


def run_folder(cfg: Config) -> Path:
    """The folder of a run: ``output`` on this machine, else one of the network's name among the runs."""
    if cfg.run.output:
        return resolve(cfg.run.output)
    suffix = f"_{cfg.prune.sparsity:g}" if cfg.prune.active else ""
    return runs_root() / cfg.data.dataset / f"{cfg.model.arch}{suffix}" / "model"


def _lower_tour(typed: dict[str, Any], raw: Raw) -> Config:
    extra = sorted(set(typed) - TOUR_TAKES)
    if extra or raw.config_file or raw.overrides:
        what = f"--{extra[0].replace('_', '-')}" if extra else "--config"
        raise UserError(f"--tour does not go with {what}: expected only {', '.join(sorted(TOUR_TAKES))}")
    preset = typed.get("preset", "fixed")
    base = FIELDS.values(Config()) | to_plain(QuirkConfig.of(preset))
    return FIELDS.build(base | TOUR | typed | {"preset": preset}, where="the tour")


def _implied(values: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """What a file of the original means without a key: the data set, initial weights, its own files."""
    arch, root = values.get("arch", "psp"), str(values.get("data_root", ""))
    dataset = values.get("dataset", PurePosixPath(root).name)
    dataset = dataset if dataset in DATASETS else "folder"
    known = dataset not in ("tiny", "folder")
    return {
        "dataset": dataset,
        "layers": 50 if arch == "psp" else None,
        "pretrained": PRETRAINED.get(arch, "") if known and not values.get("fake_data") else "",
        "names_path": "",
        "colors_path": "",
        "original_files": preset == "faithful",
        "lr_schedule": "poly",
    }


def _with_pairs(file: Mapping[str, Any], overrides: tuple[str, ...], path: str) -> dict[str, Any]:
    """A file's values with KEY VALUE pairs over them; a key may be any field, in the file or not."""
    defaults = FIELDS.values(Config())
    known = defaults | {alias: defaults[name] for alias, name in ALIASES.items()}
    old = {
        key: float(value) if type(value) is int and type(known.get(key)) is float else value
        for key, value in file.items()
    }
    merged = apply_pairs(known | old, overrides, where=path)
    typed = [name.split(".")[-1] for name in overrides[::2]]
    # what was typed comes last: it wins over the same field under its other name
    return {key: merged[key] for key in [*(k for k in old if k not in typed), *typed]}


def _by_field(file: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A file's values by field name; a key without a value leaves the field's default."""
    values: dict[str, Any] = {}
    for key, value in file.items():
        name = ALIASES.get(key, key)
        if name == "resume" and not isinstance(value, bool):
            name = "resume_from"
        if name not in FIELDS.group_of:
            known = [*FIELDS.group_of, *ALIASES]
            raise UserError(f"{path}: unknown key {key}: {did_you_mean(str(key), known)}")
        if value is not None:
            values[name] = value
    return values
