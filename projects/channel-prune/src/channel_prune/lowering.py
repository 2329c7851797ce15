"""From what was typed to a `Config`: the original's defaults for each network, presets, flags, the tour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from channel_prune.config import DATASETS, FOREIGN, Config, NetConfig, PruneConfig, QuirkConfig
from channel_prune.layout import count_classes, data_dir, newest_model, run_config
from prunelab.config import Flat, load_config, load_yaml, to_plain
from prunelab.errors import UserError

COPIED = {"loss_w_dcy": "optim", "batch_size": "data", "seed": "run"}
"""Fields of `PruneConfig` that are those of another group."""
FIELDS = Flat(Config, COPIED)

PRUNING = (
    *("prune_ratio", "skip_frst_layer", "skip_last_layer", "skip_op_names", "nb_smpls", "nb_crops_per_smpl"),
    *("ista_lrn_rate", "ista_nb_iters", "lstsq_lrn_rate", "lstsq_nb_iters", "warm_start"),
)
"""Fields whose flag of the original begins with ``cpr_``."""
NAMES = {
    **{name: f"cpr_{name}" for name in PRUNING},
    "save_path_cpr": "cpr_save_path",
    "save_path_cpr_eval": "cpr_save_path_eval",
    "save_path_ws": "cpr_save_path_ws",
    "ratio_list": "cpr_ratio_list",
    "name": "net",
}
"""Fields whose flag has another name."""
PROGRAMS: dict[str, dict[str, Any]] = {
    "resnet_at_cifar10_run": {"name": "resnet_v2", "dataset": "cifar10"},
    "resnet_at_ilsvrc12_run": {"name": "resnet_v2", "dataset": "ilsvrc12"},
    "mobilenet_at_ilsvrc12_run": {"name": "mobilenet_v1", "dataset": "ilsvrc12"},
    "vgg_at_pascalvoc_run": {"name": "ssd_vgg16", "dataset": "voc"},
}
"""The original's programs, one for each network and data set."""

SMALL: dict[str, Any] = {}
"""ResNet on CIFAR-10 and on pictures of that size: the fields' own defaults."""

ILSVRC: dict[str, Any] = {
    "dataset_form": "ilsvrc12",
    "resnet_size": 18,
    "nb_classes": 1001,
    "label_offset": 1,
    "image_size": 224,
    "batch_size": 64,
    "nb_smpls_train": 1281167,
    "nb_smpls_val": 10000,
    "nb_smpls_eval": 50000,
    "batch_size_norm": 256,
    "loss_w_dcy": 1e-4,
    "schedule": "ilsvrc",
    "workers": 8,
}
"""ResNet on ILSVRC-12."""

MOBILENET = ILSVRC | {
    "lrn_rate_init": 0.045,
    "batch_size_norm": 96,
    "loss_w_dcy": 4e-5,
    "decay_norms": True,
}
"""MobileNet on ILSVRC-12; of version 2 the schedule differs."""

SSD: dict[str, Any] = {
    "nb_classes": 21,
    "label_offset": 1,
    "image_size": 300,
    "batch_size": 32,
    "batch_size_eval": 1,
    "nb_smpls_train": 22136,
    "nb_smpls_val": 500,
    "nb_smpls_eval": 4952,
    "lrn_rate_init": 1e-3,
    "batch_size_norm": None,
    "loss_w_dcy": 5e-4,
    "schedule": "ssd",
    "workers": 8,
}
"""SSD-VGG16 on Pascal VOC."""

FAITHFUL: dict[str, Any] = {
    "selection": "ista",
    "reconstruction": "adam",
    "sample_mode": "train",
    "sample_augmented": True,
    "positions": "crops",
    "compensate_shortcut": False,
    "recalibrate": 0,
    "skip_match": "substring",
}
"""How the original prunes."""

TOUR: dict[str, Any] = {
    "name": "tiny",
    "dataset": "tiny",
    "batch_size": 64,
    "nb_smpls_train": 2000,
    "nb_smpls_val": 0,
    "nb_smpls_eval": 1000,
    "workers": 0,
    "nb_epochs_rat": 0.08,
    "nb_smpls": 512,
    "recalibrate": 512,
    "summ_step": 10,
    "save_step": 100,
    "tour": True,
}
"""The full network of the tour; what it does besides, the tour itself knows."""

TOUR_TAKES = frozenset({"tour", "resume", "output", "seed", "device", "dry_run", "max_steps", "preset"})
"""What may be typed beside ``--tour``."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a command line said, before anything is decided."""

    typed: Mapping[str, Any] = field(default_factory=dict)
    """Field name to value, for the flags that were typed and no others; also ``model`` of ``test`` and
    ``prune``, and ``mobilenet_version``."""
    program: str | None = None
    """Which of the original's programs was started (`PROGRAMS`); None: ours."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""


def lower(raw: Raw) -> Config:
    """The configuration that a command line of ``train`` means.

    Later ones win: defaults of the network and data set, the preset, flags. A bare command line, or one with
    ``--resume`` or ``--dry-run`` alone, is the tour.

    Raises:
        UserError: an unknown name, a value out of range, or flags that do not go together.
    """
    typed = dict(raw.typed)
    bare = not (raw.program or raw.print_config) and set(typed) <= {"resume", "dry_run"}
    if bare or typed.get("tour"):
        return _lower_tour(typed, raw.program)
    return lower_values(PROGRAMS.get(raw.program or "", {}) | typed, preset="faithful")


def lower_test(raw: Raw) -> Config:
    """The configuration that a command line of ``test`` means.

    It is that of the run which holds the model, without one the newest model's, with flags over it;
    `NetConfig.weights` is the model.

    Raises:
        UserError: see `lower`; there is no model.
    """
    typed = dict(raw.typed)
    model = typed.pop("model", "")
    if not model and (raw.program or "name" in typed or "dataset" in typed):
        return lower_values(PROGRAMS.get(raw.program or "", {}) | typed, preset="faithful")
    if not model and typed.get("dry_run"):
        return _lower_tour({"dry_run": True}, None)  # nothing is there, and nothing is needed
    return _lower_model(Path(model) if model else newest_model(), typed | {"exec_mode": "eval"})


def lower_prune(raw: Raw) -> Config:
    """The configuration that a command line of ``prune`` means: the pruning of a model, without training.

    The network is the model's own where nothing else is typed; the preset is ``fixed``.

    Raises:
        UserError: see `lower_test`.
    """
    typed = {"preset": "fixed", **raw.typed, "learner": "chn-pruned-rmt", "exec_mode": "train"}
    model = typed.pop("model", "")
    if not model and typed.get("dry_run"):
        return lower_values(typed, preset="fixed")
    return _lower_model(Path(model) if model else newest_model(), typed)


def lower_values(values: Mapping[str, Any], *, preset: str = "fixed") -> Config:
    """The configuration of some values by field name, over the defaults of their network and data set.

    Args:
        values: field names, ``mobilenet_version``.
        preset: where the values name none.

    Raises:
        UserError: see `lower`.
    """
    typed = dict(values)
    typed |= _network(typed)
    preset = typed.get("preset", preset)
    found = FIELDS.values(Config()) | _recipe(typed["name"], typed["dataset"]) | preset_values(preset)
    found |= _of_data(found | typed, typed)
    return FIELDS.build(found | typed | {"preset": preset}, where="the command line")


def preset_values(preset: str) -> dict[str, Any]:
    """The fields that a preset sets: how channels are chosen, and the quirks.

    Raises:
        UserError: no such preset.
    """
    quirks = to_plain(QuirkConfig.of(preset))
    fixed = to_plain(PruneConfig())
    return quirks | {name: FAITHFUL[name] if preset == "faithful" else fixed[name] for name in FAITHFUL}


def _network(typed: dict[str, Any]) -> dict[str, Any]:
    """Name of network and data set: what one does not say, the other does."""
    version = typed.pop("mobilenet_version", None)
    name, dataset = typed.get("name"), typed.get("dataset")
    if version is not None:
        if version not in (1, 2):
            raise UserError(f"mobilenet_version is {version}, expected 1 or 2")
        name = f"mobilenet_v{version}"
    if name is None:
        by_data = {"voc": "ssd_vgg16", "tiny_voc": "ssd_vgg16", "tiny": "tiny"}
        name = by_data.get(str(dataset), "resnet_v2")
    if dataset is None:
        foreign = name.startswith((*FOREIGN, "mobilenet"))
        dataset = "ilsvrc12" if foreign else {"ssd_vgg16": "voc", "tiny": "tiny"}.get(name, "cifar10")
    return {"name": name, "dataset": dataset}


def _recipe(name: str, dataset: str) -> dict[str, Any]:
    """The original's defaults for a network on a data set (the nearest ones, where it had no such pair)."""
    if name == "ssd_vgg16":
        return SSD
    if name.startswith(FOREIGN):
        small = {"dataset_form": "cifar"} if dataset in ("cifar10", "tiny") else {}
        return ILSVRC | {"nb_classes": 1000, "label_offset": 0, "pixels": "imagenet"} | small
    if name.startswith("mobilenet"):
        return MOBILENET | ({"schedule": "mobilenet_v2"} if name == "mobilenet_v2" else {})
    if dataset in ("ilsvrc12", "folder"):
        return ILSVRC
    return SMALL | ({"pixels": "imagenet"} if name == "resnet_v1" else {})


def _of_data(values: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the data set: its folder, its classes, and the number of pictures."""
    dataset, names = values["dataset"], typed.get("class_names", ())
    found: dict[str, Any] = {}
    if dataset not in ("tiny", "tiny_voc") and not typed.get("data_dir"):
        found["data_dir"] = data_dir(dataset)
    if dataset == "folder":
        found["label_offset"] = 0
        classes, pictures = count_classes(Path(typed.get("data_dir") or found["data_dir"]))
        if pictures and not typed.get("fake_data"):
            found |= {"nb_classes": classes, "nb_smpls_train": pictures}
    elif dataset in ("cifar10", "tiny"):
        found |= {"nb_classes": 10, "label_offset": 0}
    elif dataset == "ilsvrc12" and typed.get("nb_classes", values["nb_classes"]) == 1000:
        found["label_offset"] = 0
    elif dataset == "tiny_voc":
        found["nb_classes"] = 4
    if names:
        found["nb_classes"] = len(names) + found.get("label_offset", values["label_offset"])
    return found


def _lower_tour(typed: dict[str, Any], program: str | None) -> Config:
    extra = sorted(set(typed) - TOUR_TAKES)
    if extra or program:
        what = f"--{NAMES.get(extra[0], extra[0].replace('_', '-'))}" if extra else program
        raise UserError(f"--tour does not go with {what}: expected only {', '.join(sorted(TOUR_TAKES))}")
    return lower_values(TOUR | typed)


def _lower_model(model: Path, typed: Mapping[str, Any]) -> Config:
    """The configuration of a model's run, else of its folder, with what was typed over it."""
    path = run_config(model)
    if path is not None:
        cfg = load_config(Config, path)
        # A test is at home in the run, wherever that lies now; a pruning needs a folder of its own.
        home = str(path.parent) if typed.get("exec_mode") == "eval" else ""
        values = FIELDS.values(cfg) | {"tour": False, "resume": False, "max_steps": None, "output": home}
        if "preset" in typed:
            values |= preset_values(typed["preset"])
        return FIELDS.build(values | dict(typed) | {"weights": str(model)}, where=str(path))
    net = model_config(model) if "name" not in typed else {}
    return lower_values(net | dict(typed) | {"weights": str(model)})


def model_config(model: Path) -> dict[str, Any]:
    """The fields of the network and the data set that a model folder states; nothing of a file of weights.

    Raises:
        UserError: the folder's ``config.json`` is broken.
    """
    path = model / "config.json"
    content = load_yaml(path).get("config", {}) if path.is_file() else {}  # JSON is YAML
    known = {f.name for f in fields(NetConfig)} - {"weights"}
    found = {name: value for name, value in content.get("net", {}).items() if name in known}
    return found | ({"dataset": content["dataset"]} if content.get("dataset") in DATASETS else {})
