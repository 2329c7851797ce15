"""Train a captioner, dense or pruned: the loop, and what surrounds it.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prunelab import dist
from prunelab.caption.split import Evaluator
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry
from prunelab.mask import draw_once
from prunelab.optim import Schedule
from prunelab.run import Run
from prunelab.run import RunConfig as RunSettings
from smp_caption import finish, steps
from smp_caption.captioner import Captioner
from smp_caption.cli import parse_train
from smp_caption.config import Config
from smp_caption.data import CaptionData, open_data
from smp_caption.evaluate import decode_options, make_evaluator
from smp_caption.extractor import Extractor, ShapeExtractor, has_extractor
from smp_caption.lowering import as_begun, lower, run_folder
from smp_caption.model import AVAILABLE, Network, build
from smp_caption.original import load_weights
from smp_caption.pruner import SupermaskPruner, crowded, mask_spec
from smp_caption.tokenizer import RadixTokenizer, build_tokenizer
from smp_caption.tour import tour


def train(cfg: Config) -> Path:
    """Train as configured, export the best model and score it on the test split.

    Returns:
        The run's folder.

    Raises:
        UserError: data are missing or do not fit the configuration, the folder holds a run already, or a
            loss is not finite.
    """
    _check_available(cfg)
    folder = run_folder(cfg)
    cfg = as_begun(cfg, folder)
    with Run(settings(cfg, folder), config=to_plain(cfg), name="smp-caption") as run:
        data = open_data(cfg, folder / "fake_data")
        captioner = make_captioner(cfg, data, run)
        loader = data.loader("train", captioner.tokenizer, rank=run.rank, world_size=run.world_size)
        max_step = cfg.optim.max_epochs * len(loader)
        job = _prepare(cfg, captioner, max_step)
        run.track(model=captioner.model, sampler=loader.sampler, **job.tracked)
        if not run.resumed:
            finish.begin(cfg, run, captioner, data, job.optimizer, max_step)
        captioner.model.train()
        evaluator = val_evaluator(cfg, data, captioner, run)
        every = f"{cfg.run.save_checkpoint_every} steps"
        for epoch in run.epochs(cfg.optim.max_epochs):
            for step, batch in run.steps(loader):
                losses = steps.train_step(
                    captioner.model,
                    job.optimizer,
                    job.schedule,
                    to_device(batch, run.device),
                    cfg,
                    epoch=epoch,
                    update=step - 1,
                    pruner=job.pruner,
                )
                run.updated()
                run.log(**losses)
                if run.due(every):
                    validate(cfg, run, captioner, evaluator, job)
        if not run.stopping and not run.finished:
            finish.end(cfg, run, data, folder)
    return folder


@dataclass(kw_only=True)
class Job:
    """What moves in training besides the model."""

    optimizer: torch.optim.Optimizer
    schedule: Schedule
    pruner: SupermaskPruner | None

    @property
    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        parts = {"optimizer": self.optimizer, "schedule": self.schedule, "pruner": self.pruner}
        return {name: part for name, part in parts.items() if part is not None}


def _prepare(cfg: Config, captioner: Captioner, max_step: int) -> Job:
    pruner = None
    if captioner.mask is not None:
        pruner = SupermaskPruner(
            captioner.model,
            cfg.model.caption_model,
            cfg.prune,
            max_step,
            per_call=cfg.quirks.masks_per_call,
            sample_frozen=cfg.quirks.frozen_masks_sampled,
        )
    optimizer = steps.make_optimizer(captioner.model, cfg.optim, cfg.prune)
    return Job(optimizer=optimizer, schedule=steps.make_schedule(optimizer, cfg, max_step), pruner=pruner)


def settings(cfg: Config, folder: Path) -> RunSettings:
    """What core's run needs of the configuration."""
    run = cfg.run
    return RunSettings(
        dir=folder,
        seed=run.seed,
        resume=run.resume,
        device=run.device,
        max_steps=run.max_steps,
        keep_last=run.keep_last,
        log_every=f"{run.losses_log_every} steps",
        console_every=f"{run.console_every} steps",
        quiet=run.logging_level not in ("DEBUG", "INFO"),
    )


def make_captioner(cfg: Config, data: CaptionData, run: Run) -> Captioner:
    """Tokenizer, network and (where the features know theirs) extractor of a new or resumed run."""
    start = Path(cfg.run.start_from) if cfg.run.start_from else None
    dist.on_main(lambda: _tokenizer(cfg, run.cfg.dir, data, start) and None)
    tokenizer = _tokenizer(cfg, run.cfg.dir, data, start)
    mask = mask_spec(cfg.model, cfg.prune)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    if isinstance(tokenizer, RadixTokenizer):
        ids["unk_token_id"] = -1  # its unknown word is a code of several ordinary ids
    config = replace(cfg.model, **ids)
    model = build(config, mask)
    if start is not None and not run.resumed:
        load_weights(model, start, last=cfg.run.resume_training)
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


def _extractor(cfg: Config) -> Extractor | None:
    """What the configured features were computed with, where that is known."""
    if cfg.data.dataset == "tiny" and not cfg.data.input_att_dir:
        return ShapeExtractor(cfg.model.att_feat_size)
    features = Path(cfg.data.input_att_dir).parent
    return Extractor.load(features) if cfg.data.input_att_dir and has_extractor(features) else None


def _tokenizer(cfg: Config, folder: Path, data: CaptionData, start: Path | None) -> Any:
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


def validate(cfg: Config, run: Run, captioner: Captioner, evaluator: Evaluator[Network], job: Job) -> None:
    """Score the validation pictures and save; the best CIDEr counts only once the sparsity is on target."""
    model, pruner = captioner.model, job.pruner
    with run.evaluating(model), draw_once(model):
        scores = run.report(evaluator.run(model))
    if pruner is not None:
        run.report(pruner.scalars(), tell=["prune/sparsity/all"])
        for name in crowded(pruner.masks):
            finish.warn(cfg, run, f"{name} prunes more than 99.9 % of its weights")
    evaluator.write(run.cfg.dir / f"val_beam_{cfg.decode.beam_size_val}", run.step)
    best = run.is_best(finish.SCORE, scores[finish.SCORE], allowed=pruner is None or pruner.on_target())
    finish.keep(cfg, run, captioner, job.optimizer, pruner, best=best)
    note = {"step": run.step, "scores": scores}
    run.save(best=best, model_folder=lambda place: captioner.save_pretrained(place, extra=note) and None)


def _check_available(cfg: Config) -> None:
    """Refuse what cannot be trained yet before anything is read or written."""
    if cfg.model.caption_model not in AVAILABLE:
        raise UserError(
            f"caption_model {cfg.model.caption_model!r} is not available: expected {' or '.join(AVAILABLE)}"
        )
    mask_spec(cfg.model, cfg.prune)
    if cfg.scst.scst_start_epoch >= 0:
        raise UserError(
            f"scst_start_epoch {cfg.scst.scst_start_epoch}: self-critical training is not available"
        )


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train``."""
    raw = parse_train(argv)
    cfg = lower(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        _check_available(cfg)
        print(f"{cfg.model.caption_model}: configuration is right; nothing was run")
    elif cfg.run.tour:
        tour(cfg, train)
    else:
        train(cfg)


if __name__ == "__main__":
    main()
