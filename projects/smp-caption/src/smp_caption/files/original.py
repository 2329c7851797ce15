"""The original's files: run folders with ``model_*.pth``, ``config.json`` and ``tokenizer/``.

A flag that names a checkpoint takes any of these: a file of the original, a run of the original, a model
folder of ours, a run of ours; which one it is, is told by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from prunelab.config import from_plain, load_config
from prunelab.doors import csv
from prunelab.errors import UserError
from prunelab.hub import is_model_folder
from prunelab.mask import MASK_SUFFIX
from prunelab.torchfile import load_pth
from prunelab.util import atomic_write, read_json, write_json
from smp_caption.captioner import Captioner, check_tokenizer
from smp_caption.config import (
    Config,
    DataConfig,
    DecodeConfig,
    ModelConfig,
    OptimConfig,
    PruneConfig,
    QuirksConfig,
    ScstConfig,
)
from smp_caption.features.extractor import Extractor, has_extractor
from smp_caption.features.layout import FEATURE_DIRS
from smp_caption.files.original_states import binary_mask_state, pruned_state, sparse_state
from smp_caption.model import build
from smp_caption.pruner import mask_spec, read_weights, write_sparsities
from smp_caption.tokenizer import RadixTokenizer, build_tokenizer

CONFIG = "config.json"
BEST, LAST, INIT = "model_best.pth", "model_last.pth", "model_init.pth"
OPTIMIZER_BEST, OPTIMIZER_LAST = "optimizer_best.pth", "optimizer_last.pth"
PRUNED, SPARSE, BINARY = "model_best_pruned.pth", "model_best_pruned_sparse.pth", "model_best_bin_mask.pth"
RESTORE_LOG = "restore_log.txt"
"""What a pruned run found missing or unexpected in the weights that it starts from."""
RUN_FLAGS = (
    *("log_dir", "id", "start_from", "resume_training", "seed", "logging_level"),
    *("save_checkpoint_every", "losses_log_every"),
)
"""The original's flags among the fields of `RunConfig`."""
OPTIMISER_OPTIONS = frozenset({"betas", "alpha", "momentum", "lr_decay"})
"""Options of torch's optimisers that tell their kinds apart."""
VERSION = "1.0.0-alpha"
"""Version of the original whose layout is written."""


def find(path: Path, *, last: bool = False) -> Path:
    """The checkpoint that a path means: a file, or a model folder of ours.

    Args:
        path: a file, a model folder, or a run (of ours or of the original).
        last: in a run, the last state rather than the best one.

    Raises:
        UserError: nothing is there.
    """
    if path.is_file() or is_model_folder(path):
        return path
    names = ("last", LAST) if last else ("best", BEST, "pruned", SPARSE, "last", LAST)
    for name in names:
        candidate = path / name
        if candidate.is_file() or is_model_folder(candidate):
            return candidate
    raise UserError(f"{path}: no checkpoint there; expected a model folder, a run, or a file such as {BEST}")


def load(path: Path, *, config_file: Path | None = None, device: str | torch.device = "cpu") -> Captioner:
    """Load a captioner from any checkpoint; a file has an extractor where `export` wrote one beside it.

    Args:
        path: see `find`.
        config_file: the original's ``config.json`` of a file; None: the one beside it.
        device: where the network goes.

    Raises:
        UserError: nothing is there, its configuration or tokenizer is missing, or it is another model's.
    """
    place = find(path)
    if place.is_dir():
        return Captioner.from_pretrained(place, device=device)
    file = config_file or place.parent / CONFIG
    config, plain = read_config(file)
    state = read_weights(place)
    masked = any(name.endswith(MASK_SUFFIX) for name in state)
    name = config.caption_model.removesuffix("_prune") + ("_prune" if masked else "")
    config = replace(config, caption_model=name)
    prune = from_plain(PruneConfig, known(PruneConfig, plain), where=str(file))
    if masked and prune.prune_type is None:
        prune = replace(prune, prune_type="mask_freeze")
    mask = mask_spec(config, prune)
    model = build(config, mask)
    model.load_original(state, str(place))
    chosen = {name: plain[name] for name in ("tokenizer", "radix_base") if plain.get(name) is not None}
    data = from_plain(DataConfig, chosen, where=str(file))
    tokenizer = build_tokenizer(
        file.parent, kind=data.tokenizer, vocab_size=config.vocab_size, radix_base=data.radix_base
    )
    check_tokenizer(tokenizer, config, str(file))
    decode = from_plain(DecodeConfig, known(DecodeConfig, plain), where=str(file))
    return Captioner(
        model=model.to(device).eval(),
        config=config,
        tokenizer=tokenizer,
        mask=mask,
        decode=decode,
        extractor=Extractor.load(place.parent, torch.device(device)) if has_extractor(place.parent) else None,
        notes={"step": plain.get("best_global_step") or 0},
    )


def read_config(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The sizes in the original's ``config.json`` (of any version), and all of it, brought up to date.

    Raises:
        UserError: the file is missing or broken, or lacks what the model is built by.
    """
    plain = read_json(path)
    if not isinstance(plain, dict) or "caption_model" not in plain:
        raise UserError(f"{path}: no configuration of a captioning run; expected the key caption_model")
    plain = up_to_date(plain, str(path))
    values = known(ModelConfig, plain)
    if "unk_token_id" in plain:  # radix has none
        values.setdefault("unk_token_id", -1)
    return from_plain(ModelConfig, values, where=str(path)), plain


def known(cls: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group's fields in a flat configuration, those left open (null) not among them."""
    return {f.name: plain[f.name] for f in fields(cls) if plain.get(f.name) is not None}


def up_to_date(plain: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A configuration of an older version of the original in the names of the newest.

    Raises:
        UserError: version 0.0.0, which cannot be converted.
    """
    config = dict(plain)
    written = str(config.get("version", VERSION))
    try:
        version = tuple(int(part) for part in written.split("-")[0].split("."))
    except ValueError as error:
        raise UserError(f"{where}: version is {written!r}, expected one such as {VERSION}") from error
    if version == (0, 0, 0):
        raise UserError(f"{where}: version 0.0.0 cannot be converted")
    if version == (0, 1, 0):
        config["scst_sample"] = "beam_search" if config.pop("scst_beam_search", False) else "random"
        config["scst_baseline"] = "greedy" if "greedy" in str(config.pop("scst_mode", "")) else "sample"
    if version < (0, 3, 0):
        config["vocab_size"] = config.get("vocab_size", ModelConfig().vocab_size - 1) + 1
        if "transformer" in config["caption_model"]:
            for old, new in (
                ("input_encoding_size", "d_model"),
                ("rnn_size", "dim_feedforward"),
                ("drop_prob_lm", "drop_prob_src"),
            ):
                config[new] = config.pop(old, config.get(new))
    if version < (0, 6, 0):
        for part in ("encoder", "decoder"):
            config |= {f"share_att_{part}": None, f"share_layer_{part}": None}
        config["no_box_trigonometric_embedding"] = not config.pop("box_trigonometric_embedding", True)
        config["num_heads"] = 8
    if config.get("decoding_constraint") in (0, 1):  # no flag, but read where somebody wrote it in
        config["decoding_constraint"] = bool(config["decoding_constraint"])
    return config


def flat_config(cfg: Config, captioner: Captioner) -> dict[str, Any]:
    """The original's ``config.json`` of a run: every flag, and its notes on the tokenizer."""
    flat: dict[str, Any] = {}
    for group in (cfg.data, cfg.optim, cfg.prune, cfg.scst, cfg.decode, captioner.config):
        flat |= {f.name: getattr(group, f.name) for f in fields(group)}
    for name in RUN_FLAGS:
        flat[name] = getattr(cfg.run, name)
    flat |= {"caption_model": cfg.model.caption_model, "tokenizer": captioner.tokenizer.kind}
    if isinstance(captioner.tokenizer, RadixTokenizer):
        flat["radix_base"] = captioner.tokenizer.base
    flat["scst_bleu_weight"] = ",".join(f"{w:g}" for w in cfg.scst.scst_bleu_weight)
    return flat | captioner.tokenizer.config_fields() | {"version": VERSION}


def write_config(folder: Path, cfg: Config, captioner: Captioner, **notes: Any) -> None:
    """Write the original's ``config.json``, with ``notes`` besides the flags, and ``tokenizer/``."""
    write_json(folder / CONFIG, flat_config(cfg, captioner) | notes)
    captioner.tokenizer.save(folder)


def add_notes(folder: Path, **notes: Any) -> None:
    """Put notes into the ``config.json`` of a run, in the place of earlier ones of the same name."""
    write_json(folder / CONFIG, read_json(folder / CONFIG) | notes)


def run_config(folder: Path) -> Config:
    """The configuration of a run, of ours or of the original; the defaults where there is none.

    Raises:
        UserError: a file is broken.
    """
    if (folder / "config.yaml").is_file():
        return load_config(Config, folder / "config.yaml")
    if not (folder / CONFIG).is_file() or is_model_folder(folder):
        return Config()
    model, plain = read_config(folder / CONFIG)
    for name, place in FEATURE_DIRS.items():
        # The data set's own features go where the data set goes.
        if plain.get(name) and Path(plain[name]) == Path(plain.get("dataset_dir") or "", place):
            plain[name] = ""
    if isinstance(plain.get("scst_bleu_weight"), str):
        plain["scst_bleu_weight"] = csv(float)(plain["scst_bleu_weight"])
    groups = {"data": DataConfig, "optim": OptimConfig, "scst": ScstConfig, "decode": DecodeConfig}
    if model.pruned:  # the flags of pruning stand in the file of any run
        groups["prune"] = PruneConfig
    where = str(folder / CONFIG)
    read = {name: from_plain(cls, known(cls, plain), where=where) for name, cls in groups.items()}
    return Config(model=model, quirks=QuirksConfig.of("faithful"), **read)


def fitted(cfg: Config, captioner: Captioner) -> Config:
    """A run's configuration with the network that a captioner has: pruned for good, say, or a lone model."""
    prune = PruneConfig()
    if captioner.mask is not None:
        # How masks came about, as far as their run or they themselves tell.
        itself = "supermask" if captioner.mask.kind == "supermask" else "mask_freeze"
        prune = replace(cfg.prune, prune_type=cfg.prune.prune_type or itself)
    return replace(cfg, model=captioner.config, prune=prune)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state dict as the original does: a file of torch's that loads with ``weights_only=True``."""
    with atomic_write(path) as file:
        torch.save(state, file)


def write_training(folder: Path, model: nn.Module, optimizer: Optimizer, *, best: bool) -> None:
    """Write ``model_last.pth`` and ``optimizer_last.pth``, and the two ``best`` ones if ``best``."""
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    moments = optimizer.state_dict()
    moments["state"] = {
        number: {name: value.cpu() if torch.is_tensor(value) else value for name, value in of_one.items()}
        for number, of_one in moments["state"].items()
    }
    for weights_file, moments_file in ((LAST, OPTIMIZER_LAST), (BEST, OPTIMIZER_BEST))[: 1 + best]:
        write_state(folder / weights_file, weights)
        write_state(folder / moments_file, moments)


def load_optimizer(optimizer: Optimizer, path: Path) -> None:
    """Give an optimiser the moments of an ``optimizer_*.pth``; learning rates and the like stay its own.

    Raises:
        UserError: no such file, a damaged one, or one of another model or kind of optimiser.
    """
    content = load_pth(path)
    if not isinstance(content, Mapping) or not {"state", "param_groups"} <= content.keys():
        raise UserError(f"{path}: holds no optimiser; expected the keys state and param_groups")
    own, held = (
        [len(g["params"]) for g in groups] for groups in (optimizer.param_groups, content["param_groups"])
    )
    if own != held:
        raise UserError(f"{path}: groups of {held} parameters, expected {own}: it is of another model")
    state = content["state"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, value in state.get(number, {}).items():
            if torch.is_tensor(value) and value.ndim and value.shape != parameter.shape:
                raise UserError(
                    f"{path}: {name} of parameter {number} has shape {tuple(value.shape)}, expected "
                    f"{tuple(parameter.shape)}: it is of another model"
                )
    kept = {name for group in content["param_groups"] for name in group}
    lacking = sorted(OPTIMISER_OPTIONS & optimizer.defaults.keys() - kept)
    if lacking:
        raise UserError(
            f"{path}: has no {lacking[0]}: it is of another optimiser than {type(optimizer).__name__}"
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def write_parameter_counts(folder: Path, model: nn.Module) -> None:
    """Write ``model_params.json`` (weights) and, of a pruned model, ``mask_params.json``: numbers by name."""
    named = dict(model.named_parameters())
    groups = {
        "model_params.json": {n: p for n, p in named.items() if not n.endswith(MASK_SUFFIX)},
        "mask_params.json": {n: p for n, p in named.items() if n.endswith(MASK_SUFFIX)},
    }
    for name, group in groups.items():
        if group:
            counts = {
                "breakdown": {n: p.numel() for n, p in group.items()},
                "total": sum(p.numel() for p in group.values()),
                "trainable params": sum(p.numel() for p in group.values() if p.requires_grad),
            }
            write_json(folder / name, counts)


def write_exports(folder: Path, captioner: Captioner) -> list[Path]:
    """Write a finished pruned run's dense and COO-sparse weights, sparsities, and supermasks as 0/1 masks."""
    model = captioner.model
    states = {PRUNED: pruned_state(model), SPARSE: sparse_state(model)}
    if captioner.mask is not None and captioner.mask.kind == "supermask":
        states[BINARY] = binary_mask_state(model)
    for name, state in states.items():
        write_state(folder / name, state)
    masks = {name: value for name, value in model.state_dict().items() if name.endswith(MASK_SUFFIX)}
    write_sparsities(folder / "sparsities.csv", masks)
    return [folder / name for name in (*states, "sparsities.csv")]
