"""From what was typed to a `Config`: presets, sizes, flags, the tour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expansionnet.config import Config, ModelConfig, QuirkConfig, SwinConfig
from expansionnet.options import TestOptions
from prunelab.config import Flat, from_plain, to_plain
from prunelab.errors import UserError

FIELDS = Flat(Config)
"""Every field of a configuration by its name, which is used once; the backbone is one field, ``swin``."""

SWIN = "swin_"
"""How typed fields of the backbone begin: ``swin_img_size`` is ``img_size`` of `SwinConfig`."""

FAITHFUL: dict[str, Any] = {"scoring": "original", "sample_mode": "train", "suppress_unk": False}
"""How the original trains and decodes, besides its quirks."""

MODEL_SIZE = "model_size"
"""What is typed beside fields: which of `MODEL_SIZES`."""

MODEL_SIZES: dict[str, dict[str, Any]] = {
    "paper": {},
    "testing": {
        "model_dim": 32,
        "N_enc": 2,
        "N_dec": 2,
        "ff": 64,
        "num_heads": 4,
        "num_exp_enc_list": [4, 8],
        "num_exp_dec": 4,
        "swin_img_size": 32,
        "swin_patch_size": 4,
        "swin_embed_dim": 16,
        "swin_depths": [2, 2],
        "swin_num_heads": [2, 4],
        "swin_window_size": 4,
    },
}
"""``--model-size``: sizes that hold unless the size itself is typed; ``paper`` leaves the original's."""

TOUR: dict[str, Any] = {
    **MODEL_SIZES["testing"],
    **dict.fromkeys(("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other"), 0.0),
    "dataset": "tiny",
    "workers": 0,
    "model_dim": 64,
    "ff": 128,
    "swin_img_size": 64,
    "swin_patch_size": 8,
    "swin_embed_dim": 24,
    "swin_drop_path_rate": 0.0,
    "optim_type": "radam",
    "lr": 2e-3,
    "min_lr": 0.0,
    "warmup_iters": 10,
    "anneal_coeff": 0.4,
    "anneal_every_epoch": 1.0,
    "batch_size": 32,
    "eval_parallel_batch_size": 60,
    "num_epochs": 3,
    "save_every_minutes": 0.5,
    "print_every_iter": 50,
    "tour": True,
}
"""The first phase of the tour; how the others differ from it, the tour itself knows."""

TOUR_TAKES = frozenset({"tour", "resume", "output", "seed", "device", "dry_run", "max_steps", "preset"})
"""What may be typed beside ``--tour``."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a command line said, before anything is decided."""

    typed: Mapping[str, Any] = field(default_factory=dict)
    """Field name to value, for the flags that were typed and no others; fields of the backbone begin with
    `SWIN`. Also `MODEL_SIZE`."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""


def lower(raw: Raw) -> Config:
    """The configuration that a command line of ``train`` means.

    Later ones win: defaults, the preset, ``model_size``, flags. A bare command line, or one with ``--resume``
    or ``--dry-run`` alone, is the tour.

    Raises:
        UserError: an unknown name, a value out of range, or flags that do not go together.
    """
    typed = dict(raw.typed)
    if typed.get("tour") or (not raw.print_config and set(typed) <= {"resume", "dry_run"}):
        return _lower_tour(typed)
    cfg = lower_values(typed, preset="faithful")
    check_start(cfg)
    return cfg


def lower_test(options: TestOptions, base: Config | None = None) -> Config:
    """The configuration with which ``test`` captions.

    Args:
        options: what was typed; fields of the configuration in ``typed`` go over the base.
        base: that of the run which the model comes from; None: the original's defaults.

    Raises:
        UserError: see `lower`.
    """
    typed = dict(options.typed)
    values = {"preset": "fixed"} if base is None else FIELDS.values(base)
    preset = typed.get("preset", "faithful" if options.original else values["preset"])
    if preset != values["preset"]:
        values |= preset_values(preset)
    model = to_plain(model_config(typed, None if base is None else base.model))
    typed = {name: value for name, value in typed.items() if not name.startswith(SWIN) and name != MODEL_SIZE}
    values |= {"output": "", "resume": False, "tour": False, "max_steps": None}
    return lower_values(values | typed | model | {"preset": preset})


def lower_values(values: Mapping[str, Any], *, preset: str = "fixed") -> Config:
    """The configuration of some values by field name, over the defaults and a preset.

    The width of visual tokens follows that of the backbone where only the latter is among the values.

    Args:
        values: field names, as in `Raw`.
        preset: where the values name none.

    Raises:
        UserError: see `lower`.
    """
    preset = values.get("preset", preset)
    found = FIELDS.values(Config()) | preset_values(preset) | dict(values) | {"preset": preset}
    rest = {name: v for name, v in found.items() if not name.startswith(SWIN) and name != MODEL_SIZE}
    return FIELDS.build(rest | to_plain(model_config(values)), where="the command line")


def preset_values(preset: str) -> dict[str, Any]:
    """The fields that a preset sets: the quirks, and how samples and captions are drawn.

    Raises:
        UserError: no such preset.
    """
    quirks = to_plain(QuirkConfig.of(preset))
    fixed = FIELDS.values(Config())
    return quirks | {name: FAITHFUL[name] if preset == "faithful" else fixed[name] for name in FAITHFUL}


def check_start(cfg: Config) -> None:
    """See that the weights which a run starts from will be used, and that its processes are there.

    Raises:
        UserError: they would be passed over in silence, as the original does.
    """
    run = cfg.run
    if not cfg.model.is_end_to_end:
        if run.backbone_save_path:
            raise UserError(
                f"backbone_save_path is {run.backbone_save_path}, expected none: a model that reads "
                "features has no backbone (--is_end_to_end True has one)"
            )
        if run.body_save_path and not run.partial_load:
            raise UserError(
                f"body_save_path is {run.body_save_path} and partial_load is False, expected "
                "--partial_load True: otherwise nothing of the file is loaded"
            )
        if run.partial_load and not run.body_save_path:
            raise UserError("partial_load is True and body_save_path is empty, expected a checkpoint")


def model_config(typed: Mapping[str, Any], base: ModelConfig | None = None) -> ModelConfig:
    """The sizes of a model as typed beside a file that does not tell them.

    Args:
        typed: as in `Raw`; what is no field of the model is passed over.
        base: what is known already; None: the original's sizes.

    Raises:
        UserError: sizes that do not go together.
    """
    typed = MODEL_SIZES[typed.get(MODEL_SIZE, "paper")] | dict(typed)
    values = to_plain(base or ModelConfig())
    values |= {name: value for name, value in typed.items() if FIELDS.group_of.get(name) == "model"}
    parts = {name.removeprefix(SWIN): value for name, value in typed.items() if name.startswith(SWIN)}
    if parts:
        swin = from_plain(SwinConfig, values["swin"] | parts, where="the command line")
        values |= {"swin": to_plain(swin), "img_feature_dim": typed.get("img_feature_dim", swin.width)}
    return from_plain(ModelConfig, values, where="the command line")


def _lower_tour(typed: dict[str, Any]) -> Config:
    extra = sorted(set(typed) - TOUR_TAKES)
    if extra:
        raise UserError(
            f"--tour does not go with --{extra[0]}: expected only {', '.join(sorted(TOUR_TAKES))}"
        )
    return lower_values(TOUR | typed)
