"""What moves in a training: network, words, batches, optimiser, masks, rewards; and where a run begins."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunelab import checkpoint, dist
from prunelab.caption.split import Evaluator
from prunelab.data.loader import Loader
from prunelab.mask import MASK_SUFFIX
from prunelab.optim import Schedule
from prunelab.run import Run
from prunelab.run import RunConfig as RunSettings
from prunelab.runfolder import CHECKPOINTS
from smp_caption import steps
from smp_caption.captioner import Captioner
from smp_caption.config import Config
from smp_caption.data import CaptionData, open_data
from smp_caption.evaluate import decode_options, make_evaluator
from smp_caption.features.extractor import Extractor, ShapeExtractor, has_extractor
from smp_caption.files import original
from smp_caption.learning.scst import SelfCritical
from smp_caption.learning.start import load_start
from smp_caption.model import Network, build, choose_caching
from smp_caption.pruner import Pruner, make_pruner, mask_spec
from smp_caption.tokenizer import RadixTokenizer, Tokenizer, build_tokenizer, model_beside

FAKE_DATA = "fake_data"
"""Folder in a run's for the data of ``--fake-data``."""


@dataclass(kw_only=True)
class Job:
    """A training's parts."""

    cfg: Config
    """The run's configuration."""
    data: CaptionData
    captioner: Captioner
    """Network, tokenizer, and (where the features know theirs) extractor."""
    loader: Loader[Any]
    """Batches of the training split."""
    evaluator: Evaluator[Network]
    """Of the validation split."""
    optimizer: Optimizer
    schedule: Schedule
    pruner: Pruner | None
    """None for a dense network."""
    rewards: SelfCritical | None
    """Where some epoch is trained by reward."""

    @property
    def model(self) -> Network:
        """The network."""
        return self.captioner.model

    @property
    def max_step(self) -> int:
        """Steps M of the whole training."""
        return self.cfg.optim.max_epochs * len(self.loader)

    @property
    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        parts = {
            "model": self.model,
            "sampler": self.loader.sampler,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "pruner": self.pruner,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def rewards_in(self, epoch: int) -> SelfCritical | None:
        """What an epoch is trained by, from 0; None: cross entropy."""
        return self.rewards if by_reward(self.cfg, epoch) else None

    def work_of_step(self, epoch: int) -> tuple[str, int]:
        """What the speed is told in, and how much of it all processes do in a step."""
        pictures = self.cfg.data.batch_size * dist.world_size()
        if by_reward(self.cfg, epoch):
            return "pictures", pictures
        return "captions", pictures * self.cfg.data.seq_per_img

    def batches(self, device: torch.device) -> Iterator[dict[str, Any]]:
        """Training batches on a device, as training will see them first."""
        for batch in self.loader:
            yield to_device(batch, device)


def by_reward(cfg: Config, epoch: int) -> bool:
    """Whether an epoch, from 0, is one of self-critical training."""
    return 0 <= cfg.scst.scst_start_epoch <= epoch


def make_job(cfg: Config, run: Run) -> Job:
    """Build everything on the run's device, from the weights that the run starts from.

    Raises:
        UserError: data or weights are missing, damaged or do not fit each other or the configuration.
    """
    data = open_data(cfg, run.cfg.dir / FAKE_DATA)
    captioner = make_captioner(cfg, data, run)
    loader = data.loader("train", captioner.tokenizer, rank=run.rank, world_size=run.world_size)
    max_step = cfg.optim.max_epochs * len(loader)
    rewards = None
    if by_reward(cfg, cfg.optim.max_epochs - 1):
        rewards = SelfCritical.open(cfg, data, captioner.tokenizer, once=run.once)
    # A pruner first: what it freezes is left out of the optimiser.
    pruner = make_pruner(captioner.model, cfg, max_step)
    optimizer = steps.make_optimizer(captioner.model, cfg.optim, cfg.prune)
    return Job(
        cfg=cfg,
        data=data,
        captioner=captioner,
        loader=loader,
        evaluator=val_evaluator(cfg, data, captioner, run),
        optimizer=optimizer,
        schedule=steps.make_schedule(optimizer, cfg, max_step),
        pruner=pruner,
        rewards=rewards,
    )


def make_captioner(cfg: Config, data: CaptionData, run: Run) -> Captioner:
    """Tokenizer, network and (where the features know theirs) extractor of a new or resumed run."""
    start = Path(cfg.run.start_from) if cfg.run.start_from else None
    dist.on_main(lambda: _tokenizer(cfg, run.cfg.dir, data, start) and None)
    tokenizer = _tokenizer(cfg, run.cfg.dir, data, start)
    mask = mask_spec(cfg.model, cfg.prune)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    ids["vocab_size"] = cfg.network_vocab_size
    if isinstance(tokenizer, RadixTokenizer):
        ids["unk_token_id"] = -1  # its unknown word is a code of several ordinary ids
    config = replace(cfg.model, **ids)
    model = build(config, mask)
    choose_caching(model, cfg.quirks)
    if not run.resumed:
        if cfg.run.preset == "faithful":  # the original writes them before it reads others
            dist.on_main(lambda: original.write_state(run.cfg.dir / original.INIT, weights_alone(model)))
        if start is not None and model_beside(start, cfg.data.tokenizer) is None:
            tell(cfg, run, f"warning: {start} has no tokenizer: words get their ids anew, from the captions")
        noted = cfg.run.preset == "faithful" and cfg.model.pruned
        log = partial(run.append, original.RESTORE_LOG) if noted else None
        for line in load_start(model, cfg, log=log):
            tell(cfg, run, line)
    if cfg.run.compile:
        model.compile()
    return Captioner(
        model=model.to(run.device),
        config=config,
        tokenizer=tokenizer,
        mask=mask,
        decode=cfg.decode,
        extractor=_extractor(cfg),
    )


def weights_alone(model: Network) -> dict[str, Tensor]:
    """The state of a network without its masks: that of the dense one."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith(MASK_SUFFIX)}


def _extractor(cfg: Config) -> Extractor | None:
    """What the configured features were computed with, where that is known."""
    if cfg.data.dataset == "tiny" and not cfg.data.input_att_dir:
        return ShapeExtractor(cfg.model.att_feat_size)
    features = Path(cfg.data.input_att_dir).parent
    return Extractor.load(features) if cfg.data.input_att_dir and has_extractor(features) else None


def _tokenizer(cfg: Config, folder: Path, data: CaptionData, start: Path | None) -> Tokenizer:
    return build_tokenizer(
        folder,
        kind=cfg.data.tokenizer,
        vocab_size=cfg.model.vocab_size,
        radix_base=cfg.data.radix_base,
        captions=data.train_captions(),
        start_from=start,
        truncation_drops_eos=cfg.quirks.truncation_drops_eos,
    )


def val_evaluator(cfg: Config, data: CaptionData, captioner: Captioner, run: Run) -> Evaluator[Network]:
    """The evaluator of the validation split."""
    options = decode_options(
        captioner.config, cfg.decode, cfg.decode.beam_size_val, original=cfg.quirks.original_decoding
    )
    return make_evaluator(
        "val",
        data.loader("val", captioner.tokenizer, rank=run.rank, world_size=run.world_size),
        data.references("val"),
        captioner.tokenizer,
        options,
        device=run.device,
    )


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}


def tell(cfg: Config, run: Run, line: str) -> None:
    """Say a line; a warning is shown by ``logging_level`` WARNING, too, although that keeps the run quiet."""
    run.say(line)
    if line.startswith("warning: ") and cfg.run.logging_level == "WARNING" and run.is_main:
        print(line, file=sys.stderr)


def settings(cfg: Config, folder: Path) -> RunSettings:
    """What core's run needs of the configuration."""
    run = cfg.run
    return RunSettings(
        dir=folder,
        seed=run.seed,
        resume=run.resume,
        start_from=continued(cfg),
        device=run.device,
        max_steps=run.max_steps,
        keep_last=run.keep_last,
        log_every=f"{run.losses_log_every} steps",
        console_every=f"{run.console_every} steps",
        quiet=run.logging_level not in ("DEBUG", "INFO"),
    )


def continued(cfg: Config) -> Path | None:
    """The run of ours that ``resume_training`` goes on with, whose whole state a new run takes over.

    None for runs of the original, which hold weights and moments alone (see `finish.begin`).
    """
    if not (cfg.run.resume_training and cfg.run.start_from):
        return None
    start = Path(cfg.run.start_from)
    folder = start.parent if start.name in ("last", original.LAST) else start
    return folder if checkpoint.listed(folder / CHECKPOINTS) else None


def in_place(cfg: Config, folder: Path) -> Config:
    """The configuration, with ``resume`` where ``resume_training`` starts from the run's own folder."""
    run = cfg.run
    if not (run.resume_training and run.start_from and Path(run.start_from).resolve() == folder.resolve()):
        return cfg
    return replace(cfg, run=replace(run, resume=True))
