"""From what was typed to a `Config`: sizes of the named networks, presets, data sets, flags, the tour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_vit.config import CLIP_LAYERS, Config, ModelConfig, QuirkConfig, RunOptions
from apt_vit.configs import NPZ_FILES, named_values
from apt_vit.layout import count_classes, data_dir, run_config
from apt_vit.options import InferOptions, TestOptions
from prunelab.config import Flat, load_config, to_plain
from prunelab.doors import check_above, check_order, did_you_mean
from prunelab.errors import UserError

FIELDS = Flat(Config)
"""Every field of a configuration by its name, which is used once; a hybrid's stem is one field."""
STEM = "resnet_"
"""How typed fields of the stem begin: ``resnet_width_factor``."""
CLIP_FRACTIONS = "clip_fractions"
"""What is typed beside fields: clip layers as shares of the depth."""
SIZES = (
    *("patch_size", "patch_grid", "hidden_size", "mlp_dim", "num_heads", "num_layers"),
    *(f"{STEM}num_layers", f"{STEM}width_factor"),
)
"""Typed fields with which a network is none of those that there are published weights of."""

FRACTIONS = (0.25, 0.5, 0.75)
"""Shares of the depth behind which ``fixed`` prunes; of 12 blocks these are the original's."""
FAITHFUL: dict[str, Any] = {
    "clip_layers": list(CLIP_LAYERS),
    "normalise_agent_input": False,
    "root_pool_same": False,
    "stem_as_published": False,
    "flip": False,
    "validation_share": 0.0,
    "reward_dropout": "fresh",
}
"""What the original does where ``fixed`` does otherwise, besides its quirks."""
CLASSES = {"cifar10": 10, "cifar100": 100, "tiny": 10}
"""Classes of the data sets that have a number of their own."""
IMG_SIZES = {"tiny": 32}
"""Sides of pictures of networks that are not made for 224 pixels."""
PRETRAINED = "checkpoint"
"""The original's folder of published weights."""

TOUR: dict[str, Any] = {
    "model_type": "tiny",
    "dataset": "tiny",
    "patch_size": (8, 8),
    "num_layers": 4,
    "dropout_rate": 0.0,
    "crop_scale": 0.9,
    "num_workers": 0,
    "train_batch_size": 32,
    "eval_batch_size": 100,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.1,
    "num_steps": 2500,
    "warmup_steps": 100,
    "eval_every": 500,
    "save_every": 500,
    "tour": True,
}
"""The run of the tour; what it does besides, the tour itself knows.

From nothing a network needs some thousand updates to see shapes at all, so pictures have few patches
and are cropped little.
"""
TOUR_TAKES = frozenset({"tour", "resume", "output", "seed", "device", "dry_run", "max_steps", "preset"})
"""What may be typed beside ``--tour``."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a command line said, before anything is decided."""

    typed: Mapping[str, Any] = field(default_factory=dict)
    """Field name to value, for the flags that were typed and no others; fields of the stem begin with `STEM`.
    Also `CLIP_FRACTIONS`."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""


def lower(raw: Raw) -> Config:
    """The configuration that a command line of ``train`` means.

    Later ones win: defaults, the network's sizes, the data set, the preset, flags. A bare command line, or
    one with ``--resume`` or ``--dry-run`` alone, is the tour.

    Raises:
        UserError: an unknown name, a value out of range, or flags that do not go together.
    """
    typed = dict(raw.typed)
    bare = not raw.print_config and set(typed) <= {"resume", "dry_run"}
    if bare or typed.get("tour"):
        return _lower_tour(typed)
    return lower_values(typed, preset="faithful")


def lower_test(options: TestOptions, base: Config | None = None) -> Config:
    """The configuration with which ``test`` classifies.

    Args:
        options: what was typed; fields of the configuration in ``typed`` go over the base.
        base: that of the run or the model folder which is tested; None: the defaults, under ``fixed``.

    Raises:
        UserError: see `lower`.
    """
    named = {"pretrained_dir": options.model} if options.model else {}
    return _over(base, options.typed, named, preset="fixed")


def lower_infer(options: InferOptions, base: Config | None = None) -> Config:
    """The configuration with which ``infer`` classifies: a picture at a time, unless more are typed.

    Args:
        options: what was typed; fields of the configuration in ``typed`` go over the base.
        base: that of the run or the model folder which is named by ``model``; None: the original's defaults.

    Raises:
        UserError: see `lower`.
    """
    named = {"pretrained_dir": options.model} if options.model else {}
    return _over(base, {"eval_batch_size": 1, **options.typed}, named, preset="faithful")


def run_base(model: Path) -> Config | None:
    """The configuration of the run that holds a model, for `lower_test` and `lower_infer`; None without one.

    Raises:
        UserError: the run's ``config.yaml`` is broken.
    """
    path = run_config(model)
    return None if path is None else load_config(Config, path)


def _over(base: Config | None, typed: Mapping[str, Any], named: Mapping[str, Any], *, preset: str) -> Config:
    """A configuration with what was typed over it, for a command that does not train."""
    once = {"tour": False, "resume": False, "max_steps": None}
    if base is None:
        return lower_values({**typed, **named, **once}, preset=preset)
    values = FIELDS.values(base)
    if typed.get("preset", values["preset"]) != values["preset"]:
        changed = preset_values(typed["preset"], num_layers=base.model.num_layers)
        # Agents are of certain blocks and have learnt from such inputs as they had: that is the model's.
        values |= {name: v for name, v in changed.items() if FIELDS.group_of[name] != "model"}
    return FIELDS.build(values | _plain(typed, values) | dict(named) | once, where="the command line")


def lower_values(values: Mapping[str, Any], *, preset: str = "fixed") -> Config:
    """The configuration of some values by field name, over the defaults of their network and data set.

    Args:
        values: as in `Raw`; pairs of numbers may be tuples or lists.
        preset: where the values name none.

    Raises:
        UserError: see `lower`.
    """
    typed = dict(values)
    preset = typed.get("preset", preset)
    dataset = typed.get("dataset", "cifar10")
    name = typed.get("model_type", "tiny" if dataset == "tiny" else "ViT-B_16")
    found = FIELDS.values(Config()) | named_values(name)
    side = IMG_SIZES.get(name, 224)
    found |= {"img_size": [side, side], "pretrained_dir": _pretrained(name, typed)} | _of_data(dataset, typed)
    plain = _plain(typed, found)
    depth = plain.get("num_layers", found["num_layers"])
    found |= preset_values(preset, num_layers=depth)
    return FIELDS.build(found | plain | {"preset": preset}, where="the command line")


def network(name: str = "ViT-B_16", **values: Any) -> ModelConfig:
    """A named network with other values for some fields of `ModelConfig`, as ``fixed`` has it.

    Args:
        name: one of `apt_vit.config.MODEL_TYPES`.
        **values: the fields; sizes of pictures and patches may be one number.

    Raises:
        UserError: there is no such network or field, or a value that does not fit.
    """
    fields = [field for field, group in FIELDS.group_of.items() if group == "model"]
    if unknown := [field for field in values if field not in fields]:
        raise UserError(f"{name}: unknown key {unknown[0]}: {did_you_mean(unknown[0], fields)}")
    return lower_values({"model_type": name, **values}).model


def preset_values(preset: str, *, num_layers: int = 12) -> dict[str, Any]:
    """The fields that a preset sets: the quirks, and how tokens are pruned and agents learn.

    Args:
        preset: faithful or fixed.
        num_layers: blocks, of which ``fixed`` prunes behind `FRACTIONS`.

    Raises:
        UserError: no such preset.
    """
    quirks = to_plain(QuirkConfig.of(preset))
    if preset == "faithful":
        return quirks | FAITHFUL
    defaults = FIELDS.values(Config())
    fixed = {name: defaults[name] for name in FAITHFUL}
    return quirks | fixed | {"clip_layers": list(clip_layers_of(FRACTIONS, num_layers))}


def clip_layers_of(fractions: Sequence[float], depth: int) -> tuple[int, ...]:
    """The blocks behind which shares of a depth lie: 0.25, 0.5 and 0.75 of 12 are blocks 2, 5 and 8.

    The last block is none of them, unless there is one alone: nothing comes after it that could be saved.

    Raises:
        UserError: a share is not above 0 and below 1, or they do not rise.
    """
    for before, share in zip((0.0, *fractions), fractions, strict=False):
        check_above(CLIP_FRACTIONS, share, 0)
        check_order(CLIP_FRACTIONS, before, CLIP_FRACTIONS, share)
        if share >= 1:
            raise UserError(f"{CLIP_FRACTIONS} is {share}, expected shares below 1")
    last = max(depth - 2, 0)
    return tuple(sorted({min(max(int(share * depth + 0.5) - 1, 0), last) for share in fractions}))


def notes(cfg: Config) -> list[str]:
    """Lines on what a configuration says and does not mean here as it did in the original, or not at all."""
    model, run = cfg.model, cfg.run
    beyond = [layer for layer in model.clip_layers if layer >= model.num_layers]
    found = []
    if beyond:
        found.append(
            f"clip_layers is {model.clip_layers} and there are {model.num_layers} blocks: the agents of "
            f"{', '.join(map(str, beyond))} never run"
        )
    unused = [n % m for n, m in zip(model.img_size, model.patch_size or (1, 1), strict=True)]
    if any(unused):
        found.append(
            f"img_size is {model.img_size} and patches {model.patch_size}: the last {unused[0]} rows and "
            f"{unused[1]} columns of pixels are not used"
        )
    if run.fp16:
        found.append("fp16 means mixed precision in bfloat16 here")
    if run.loss_scale:
        found.append(f"loss_scale {run.loss_scale:g} has no effect: bfloat16 needs none")
    return found


def _pretrained(name: str, typed: Mapping[str, Any]) -> str:
    """The weights that a network starts from where none are typed: the published ones, if they fit."""
    own = typed.get("fake_data") or any(size in typed for size in SIZES)
    return "" if own or name not in NPZ_FILES else f"{PRETRAINED}/{NPZ_FILES[name]}"


def _of_data(dataset: str, typed: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the data set: its folder and its classes."""
    found: dict[str, Any] = {"dataset": dataset}
    if dataset != "tiny":
        found["data_dir"] = data_dir(dataset)
    if typed.get("class_names"):
        found["num_classes"] = len(typed["class_names"])
    elif dataset in CLASSES:
        found["num_classes"] = CLASSES[dataset]
    elif classes := count_classes(Path(typed.get("data_dir") or found["data_dir"])):
        found["num_classes"] = classes
    return found


def _plain(typed: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, by the names of fields and as plain data.

    Args:
        typed: as in `Raw`.
        base: values of the fields that were not typed.
    """
    stem = {name.removeprefix(STEM): to_plain(v) for name, v in typed.items() if name.startswith(STEM)}
    plain = {name: to_plain(v) for name, v in typed.items() if not name.startswith(STEM)}
    for name in ("img_size", "patch_size", "patch_grid"):
        if isinstance(plain.get(name), int):
            plain[name] = [plain[name]] * 2
    fractions = plain.pop(CLIP_FRACTIONS, None)
    if fractions is not None:
        if "clip_layers" in plain:
            raise UserError("clip_layers and clip_fractions say the same, expected one of them")
        depth = plain.get("num_layers", base["num_layers"])
        plain["clip_layers"] = list(clip_layers_of(fractions, depth))
    if plain.get("patch_size") is not None:
        plain = {"patch_grid": None, "resnet": None} | plain
    if stem or plain.get("patch_grid") is not None:
        plain = {"patch_size": None, "resnet": (base["resnet"] or {}) | stem} | plain
    if plain.get("output"):
        plain = {"output_dir": RunOptions().output_dir} | plain  # the original's files follow the run
    if plain.get("fp16"):
        plain = {"amp": "bf16"} | plain
    return plain


def _lower_tour(typed: Mapping[str, Any]) -> Config:
    extra = sorted(set(typed) - TOUR_TAKES)
    if extra:
        raise UserError(
            f"--tour does not go with --{extra[0]}: expected only {', '.join(sorted(TOUR_TAKES))}"
        )
    return lower_values(TOUR | dict(typed))
