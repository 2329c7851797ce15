"""What moves in a training: network, words, optimiser, batches, reward; and where a run begins."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expansionnet import steps
from expansionnet.captioner import Captioner
from expansionnet.config import Config, ModelConfig
from expansionnet.data import CaptionData, open_data
from expansionnet.evaluate import (
    Model,
    ValidationLoss,
    choose_captions,
    make_evaluators,
    most_tokens,
    on_machine,
)
from expansionnet.features.extractor import FeatureExtractor
from expansionnet.files import original
from expansionnet.files.loading import Start, open_start
from expansionnet.files.original import Resumed
from expansionnet.layout import FAKE_DATA, found, run_folder, saves
from expansionnet.learning.order import OriginalOrder
from expansionnet.learning.reward import Reward
from expansionnet.learning.schedules import make_schedule
from expansionnet.model import ExpansionNet, build
from expansionnet.words.vocabulary import Vocabulary
from prunelab import checkpoint
from prunelab.caption.split import Evaluator
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError
from prunelab.run import Run
from prunelab.runfolder import CHECKPOINTS, FINISHED
from prunelab.seed import derive


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where a run begins, decided before its folder is touched."""

    cfg: Config
    """The configuration; with ``resume`` where the run goes on by the original's rule."""
    checkpoint: Path | None = None
    """The original's checkpoint that it goes on from."""


def find_beginning(cfg: Config) -> Beginning:
    """Apply the original's rule: without weights to start from, a run goes on with what lies in its folder.

    Only under ``faithful``. First comes the run's own unfinished state, then the newest checkpoint of the
    original in ``save_path``.
    """
    run = cfg.run
    if run.resume or run.preset != "faithful" or run.backbone_save_path or run.body_save_path:
        return Beginning(cfg=cfg)
    folder = run_folder(cfg)
    if checkpoint.listed(folder / CHECKPOINTS) and not (folder / FINISHED).is_file():
        return Beginning(cfg=replace(cfg, run=replace(run, resume=True)))
    return Beginning(cfg=cfg, checkpoint=original.find_newest(saves(cfg)))


@dataclass(kw_only=True)
class Job:
    """A training's parts."""

    cfg: Config
    """The run's configuration, with the sizes that its words gave it."""
    data: CaptionData
    captioner: Captioner
    loader: Any
    """Batches of the training split."""
    updates: steps.Updates
    reward: Reward | None
    """Where training is by reward."""
    evaluators: Mapping[int, Evaluator[Model]]
    """Of the validation split, by number of beams."""
    validation_loss: ValidationLoss | None
    """Where training is by cross entropy."""
    lines: list[str]
    """What is told of the beginning."""
    saved: float = field(default_factory=time.monotonic)
    """When the original's checkpoint was written, or the run was started."""

    @property
    def model(self) -> ExpansionNet:
        """The network."""
        return self.captioner.model

    @property
    def vocabulary(self) -> Vocabulary:
        """Its words."""
        return self.captioner.vocabulary

    @property
    def total(self) -> int:
        """Micro-batches of the whole training."""
        return self.cfg.optim.num_epochs * len(self.loader)

    def minutes_since_saved(self) -> float:
        """Minutes since the original's checkpoint was written, or the run was started."""
        return (time.monotonic() - self.saved) / 60

    @property
    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "model": self.model,
            "optimizer": self.updates.optimizer,
            "schedule": self.updates.schedule,
            "sampler": self.loader.sampler,
        }


def make_job(begin: Beginning, run: Run) -> Job:
    """Build everything on the run's device; nothing is written.

    Raises:
        UserError: data or weights are missing, damaged or do not fit each other or the configuration.
    """
    cfg = begin.cfg
    start = Start() if run.resumed else open_start(cfg)
    words = from_plain(Vocabulary, run.structure, where="the checkpoint") if run.resumed else start.vocabulary
    data = open_data(cfg, run.cfg.dir / FAKE_DATA, vocabulary=words)
    cfg = replace(cfg, model=sized(cfg.model, data, start))
    model = build(cfg.model)
    lines = start.load_into(model)
    captioner = Captioner(
        model=on_machine(model, cfg.run, run.device),
        vocabulary=data.vocabulary,
        decode=cfg.decode,
        extractor=_extractor(cfg, run),
        black_pictures=cfg.quirks.black_pictures,
    )
    if not run.resumed:
        run.retrack(structure=to_plain(data.vocabulary))
    loader = data.loader("train", rank=run.rank, world_size=run.world_size)
    optimizer = steps.make_optimizer(model, cfg.optim)
    schedule = make_schedule(optimizer, cfg.optim, len(loader))
    val = data.loader("val", rank=run.rank, world_size=run.world_size)
    positions = most_tokens(cfg, cfg.model.max_seq_len)
    references = data.references("val")
    return Job(
        cfg=cfg,
        data=data,
        captioner=captioner,
        loader=loader,
        updates=steps.Updates(optimizer, schedule, cfg, cfg.optim.num_epochs * len(loader)),
        reward=_reward(cfg, data),
        evaluators=make_evaluators(
            "val", cfg, val, references, data.vocabulary, positions=positions, device=run.device
        ),
        validation_loss=None
        if cfg.scst.reinforce
        else ValidationLoss(val, _chooser(cfg, loader, references), data.vocabulary, cfg, run.device),
        lines=lines,
    )


def sized(model: ModelConfig, data: CaptionData, start: Start) -> ModelConfig:
    """The sizes of a model with its numbers of words and positions.

    Raises:
        UserError: those that are given do not fit the vocabulary or the training captions; with both numbers.
    """
    words = len(data.vocabulary)
    if model.vocab_size not in (0, words):
        raise UserError(
            f"vocab_size is {model.vocab_size:,}, expected {words:,}, the words of the vocabulary"
        )
    positions = model.max_seq_len or start.max_seq_len or data.vocabulary.max_seq_len or data.positions
    if positions < data.longest:
        raise UserError(
            f"max_seq_len is {positions}, expected at least {data.longest}: the words of the longest "
            "training caption, with start and end"
        )
    return replace(model, vocab_size=words, max_seq_len=positions)


def _extractor(cfg: Config, run: Run) -> FeatureExtractor | None:
    """The backbone whose features are read, where it is known and still there; on rank 0, which saves it."""
    if cfg.model.is_end_to_end or not run.is_main:
        return None
    return FeatureExtractor.beside(found(cfg.data.features_path))


def _reward(cfg: Config, data: CaptionData) -> Reward | None:
    if not cfg.scst.reinforce:
        return None
    captions = list(data.references("train").values())
    return Reward.from_references(captions, end=cfg.scst.end_in_reward)


def _chooser(
    cfg: Config, loader: Any, references: Mapping[int, Sequence[str]]
) -> Callable[[], Mapping[int, str]]:
    """Which caption of each picture the validation loss is of.

    The original goes on drawing where the order of the epoch's samples left Python's random numbers; else it
    is always the same.
    """

    def choose() -> Mapping[int, str]:
        if cfg.quirks.original_order:
            return choose_captions(references, loader.sampler.generator())
        return choose_captions(references, random.Random(derive(cfg.run.seed, "validation captions")))

    return choose


def go_on(run: Run, job: Job, path: Path) -> Resumed:
    """Begin a fresh run where a checkpoint of the original ends.

    Raises:
        UserError: the file is damaged, or of another model.
    """
    resumed = original.resume(
        path,
        job.model,
        reinforce=job.cfg.scst.reinforce,
        batch_size=job.cfg.data.batch_size,
        optim_type=job.cfg.optim.optim_type,
    )
    if resumed.optimizer is not None:
        job.updates.optimizer.load_state_dict(resumed.optimizer)
    if resumed.schedule is not None:
        job.updates.schedule.load_state_dict(resumed.schedule)
    per_epoch = len(job.loader)
    step = min(resumed.loader.micro_batches(per_epoch), job.total)
    epoch, position = divmod(step, per_epoch)
    sampler = job.loader.sampler
    if isinstance(sampler, OriginalOrder):
        sampler.begin_at(epoch, position, resumed.loader.seeds)
    else:
        sampler.set_epoch(epoch)
        sampler.position = position
    updates = sum(job.updates.due(it) for it in range(step))
    run.begin_at(step=step, updates=updates, epoch=epoch, position=position)
    return resumed
