"""From what was typed to a `Config`: defaults, presets, YAML files, flags, and the tour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from prunelab.config import Flat, load_config, to_plain
from prunelab.doors import apply_pairs, did_you_mean, read_yaml, runs_root
from prunelab.errors import UserError
from smp_caption.config import UP_DOWN, Config, QuirksConfig

COMMAND_LINE_DEFAULTS = {"caption_model": "relation_transformer", "preset": "faithful"}
"""Where the original's command line starts from another value than the Python API."""

MODEL_SIZES = ("paper", "testing")
"""``--model_size``: ``paper`` leaves the original's sizes, ``testing`` takes `SMALL_SIZES`."""

SMALL_SIZES = {
    "up_down": {"rnn_size": 64, "input_encoding_size": 64, "att_hid_size": 32},
    "transformer": {"d_model": 32, "dim_feedforward": 64, "num_layers": 2, "num_heads": 4},
}
"""Sizes for tests of each family, which hold unless the size itself is typed."""

DATASET_SIZES = {"tiny": {"att_feat_size": 64, "fc_feat_size": 64, "vocab_size": 200}}
"""Sizes that follow from a data set of ours, unless they are typed."""

FIELDS = Flat(Config)
"""Every field of a configuration by its name, which is used once."""

TOUR_TAKES = frozenset({"tour", "resume", "output", "seed", "device", "dry_run", "max_steps", "preset"})
"""What may be typed beside ``--tour``."""

TOUR: dict[str, Any] = {
    "dataset": "tiny",
    "num_workers": 0,
    "batch_size": 16,
    "batch_size_eval": 64,
    "rnn_size": 128,
    "max_epochs": 15,
    "lr_scheduler": "cosine",
    "learning_rate": 0.004,
    "drop_prob_lm": 0.1,
    "save_checkpoint_every": 300,
    "console_every": 50,
    "tour": True,
}
"""The dense run of the tour, over the sizes ``testing``; its pruned run changes model and pruning alone."""

TOUR_PRUNED: dict[str, Any] = {
    "prune_type": "supermask",
    "prune_sparsity_target": 0.95,
    "prune_supermask_sparsity_weight": 30.0,
}
"""How the tour's pruned run prunes."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a command line said, before anything is decided."""

    typed: Mapping[str, Any]
    """Field name (or ``model_size``) to value, for the flags that were typed and no others."""
    config_file: str | None = None
    """YAML file of ``--config``."""
    overrides: tuple[str, ...] = ()
    """Trailing KEY VALUE pairs, flat."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""


def lower(raw: Raw) -> Config:
    """The configuration that a command line means.

    Later ones win: defaults, the preset's quirks, the YAML file, ``--model_size``, flags, KEY VALUE pairs. A
    bare command line, or one with ``--resume`` or ``--dry-run`` alone, is the tour.

    Raises:
        UserError: an unknown key, a value out of range, or flags that do not go together.
    """
    typed = dict(raw.typed)
    bare = not (raw.config_file or raw.overrides or raw.print_config) and set(typed) <= {"resume", "dry_run"}
    if bare or typed.get("tour"):
        return _lower_tour(typed, raw)
    if raw.config_file is not None:
        values = read_flat(raw.config_file)
    elif raw.overrides:
        raise UserError(
            f"{raw.overrides[0]}: no flag takes this word, and KEY VALUE pairs need --config FILE"
        )
    else:
        values = dict(COMMAND_LINE_DEFAULTS)
    preset = typed.get("preset", values.get("preset", "faithful"))
    quirks = to_plain(QuirksConfig.of(preset))
    if "preset" in typed:
        values = {name: value for name, value in values.items() if name not in quirks}
    size = _model_sizes(typed.pop("model_size", "paper"), values | typed)
    values = FIELDS.values(Config()) | quirks | values | _data_sizes(values | typed) | size | typed
    where = raw.config_file or "the configuration"
    return FIELDS.build(apply_pairs(values | {"preset": preset}, raw.overrides, where=where), where=where)


def read_flat(path: str) -> dict[str, Any]:
    """The values of a YAML configuration by field name, groups taken off.

    Raises:
        UserError: the file is missing or broken, or a group or key is unknown.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected the groups {', '.join(FIELDS.groups)}")
    flat: dict[str, Any] = {}
    for group, content in data.items():
        if group not in FIELDS.groups:
            raise UserError(f"{path}: unknown group {group}: {did_you_mean(str(group), FIELDS.groups)}")
        names = [f.name for f in fields(FIELDS.groups[group])]
        for name, value in (content or {}).items():
            if name not in names:
                raise UserError(f"{path}: unknown key {group}.{name}: {did_you_mean(str(name), names)}")
            flat[name] = value
    return flat


def _lower_tour(typed: dict[str, Any], raw: Raw) -> Config:
    extra = sorted(set(typed) - TOUR_TAKES)
    if extra or raw.config_file or raw.overrides:
        what = f"--{extra[0]}" if extra else "--config"
        raise UserError(f"--tour does not go with {what}: expected only {', '.join(sorted(TOUR_TAKES))}")
    preset = typed.get("preset", "fixed")
    base = (
        FIELDS.values(Config())
        | to_plain(QuirksConfig.of(preset))
        | _data_sizes(TOUR)
        | SMALL_SIZES["up_down"]
    )
    return FIELDS.build(base | TOUR | typed, where="the tour")


def _data_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    return DATASET_SIZES.get(values.get("dataset", ""), {})


def _model_sizes(name: str, values: Mapping[str, Any]) -> dict[str, int]:
    """What a name of sizes means for the model among the values."""
    if name == "paper":
        return {}
    return SMALL_SIZES["up_down" if values.get("caption_model", UP_DOWN[0]) in UP_DOWN else "transformer"]


def run_folder(cfg: Config) -> Path:
    """The folder of a run: ``output``, else ``id`` in ``log_dir``.

    Without a ``log_dir`` runs lie in PRUNELAB_RUNS, else in ``runs``, where one without an ``id`` is named
    after its model; the original would write into its source folder.
    """
    if cfg.run.output:
        return Path(cfg.run.output)
    root = Path(cfg.run.log_dir) if cfg.run.log_dir else runs_root()
    name = cfg.run.id or ("" if cfg.run.log_dir else cfg.model.caption_model)
    folder = root / name
    if cfg.quirks.weight_in_run_name and cfg.prune.prune_type == "supermask":
        return folder.with_name(f"{folder.name}__wg_{cfg.sparsity_weight:.1f}")
    return folder


def start_place(cfg: Config) -> Path | None:
    """What ``start_from`` names: the path as typed, else what lies there in the folder of runs.

    Shipped configurations start from ``runs/<id of another run>``, which PRUNELAB_RUNS moves.
    """
    if not cfg.run.start_from:
        return None
    typed = Path(cfg.run.start_from)
    moved = runs_root().joinpath(*typed.parts[1:])
    inside = typed.parts[0] == "runs" and not typed.exists() and moved.exists()
    return moved if inside else typed


def as_begun(cfg: Config, folder: Path) -> Config:
    """The configuration with which a run in ``folder`` begins or goes on.

    ``start_from`` becomes the path that it means (`start_place`). ``resume_training`` is as at the run's
    first start: beside ``--start_from`` the flag ``--resume`` means both, and a run that was killed before
    its first checkpoint begins once more from the weights that it began with.
    """
    place = start_place(cfg)
    if place is not None and str(place) != cfg.run.start_from:
        cfg = replace(cfg, run=replace(cfg.run, start_from=str(place)))
    written = folder / "config.yaml"
    if not (cfg.run.resume and cfg.run.resume_training and written.is_file()):
        return cfg
    first = load_config(Config, written).run.resume_training
    return replace(cfg, run=replace(cfg.run, resume_training=first))
