"""What the original says and leaves beside a run: log messages, progress text, TensorBoard.

Under preset ``faithful`` users find all of it where the original has it, in the original's words. Messages go
to the standard error in its format; logger and text of each are its own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict

from apt_vit.config import Config, ModelConfig
from apt_vit.configs import TRANSFORMER
from apt_vit.evaluate import Scores
from prunelab import dist

LOGGER = "__main__"
"""Its loggers' name: of the programs themselves."""
FORMAT = "%(asctime)s - %(levelname)s - %(name)s - %(message)s"
DATES = "%m/%d/%Y %H:%M:%S"
TRAINING_FLAGS = {
    "run": (
        *("name", "output_dir", "eval_every", "local_rank", "seed", "fp16", "fp16_opt_level", "loss_scale"),
    ),
    "data": ("dataset", "train_batch_size", "eval_batch_size"),
    "model": ("model_type", "pretrained_dir"),
    "optim": (
        *("learning_rate", "weight_decay", "num_steps", "decay_type", "warmup_steps", "max_grad_norm"),
        "gradient_accumulation_steps",
    ),
}
"""Flags of the original's training that are fields here, by group."""

log = logging.getLogger(LOGGER)
modeling = logging.getLogger("models.modeling")


@contextmanager
def shown() -> Iterator[None]:
    """Show messages in here on the standard error: all of rank 0, warnings of others."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, DATES))
    before = {logger: (logger.level, logger.propagate) for logger in (log, modeling)}
    for logger in before:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if dist.is_main() else logging.WARNING)
        logger.propagate = False  # handlers of the program around would show them a second time
    try:
        yield
    finally:
        for logger, (level, propagate) in before.items():
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def process(cfg: Config, device: Any) -> None:
    """Say which process this is; on every rank."""
    log.warning(
        "Process rank: %s, device: %s, n_gpu: %s, distributed training: %s, 16-bits training: %s",
        _local_rank(cfg),
        device,
        _gpus(device),
        dist.world_size() > 1,
        cfg.run.fp16,
    )


def resized(logged: Sequence[str], printed: Sequence[str]) -> None:
    """Say that position embeddings were resized, as another module of the original does.

    Args:
        logged: its messages.
        printed: its lines on the standard output.
    """
    for line in logged:
        modeling.info("%s", line)
    if dist.is_main():
        for line in printed:
            print(line)


def model(cfg: Config, parameters: int) -> None:
    """Say what is trained, and print its size in millions on the standard output.

    Args:
        cfg: the run's configuration.
        parameters: of the network, agents included.
    """
    log.info("%s", _config_dict(cfg.model))
    values = {
        name: getattr(getattr(cfg, group), name) for group, names in TRAINING_FLAGS.items() for name in names
    }
    log.info("Training parameters %s", argparse.Namespace(**values, img_size=cfg.model.img_size[0]))
    log.info("Total Parameter: \t%2.1fM", parameters / 1e6)
    if dist.is_main():
        print(parameters / 1e6)


def begin(cfg: Config) -> None:
    """Say that training begins."""
    accumulated, micro_batch = cfg.optim.gradient_accumulation_steps, cfg.micro_batch_size
    log.info("***** Running training *****")
    log.info("  Total optimization steps = %d", cfg.optim.num_steps)
    log.info("  Instantaneous batch size per GPU = %d", micro_batch)
    log.info(
        "  Total train batch size (w. parallel, distributed & accumulation) = %d",
        micro_batch * accumulated * dist.world_size(),
    )
    log.info("  Gradient Accumulation steps = %d", accumulated)


def validation(batches: int, batch_size: int) -> None:
    """Say that an evaluation begins.

    Args:
        batches: how many it has.
        batch_size: pictures of one.
    """
    log.info("***** Running Validation *****")
    log.info("  Num steps = %d", batches)
    log.info("  Batch size = %d", batch_size)


def results(scores: Scores, stream: int | None = None, updates: int = 0) -> None:
    """Say what an evaluation found.

    Args:
        scores: its figures.
        stream: which was evaluated in training, 0 unpruned or 1 pruned; None: this is the inference program.
        updates: made so far.
    """
    log.info("\n")
    if stream is None:
        log.info("Validation Results")
    else:
        log.info("Stream %d Validation Results", stream)
        log.info("Global Steps: %d", updates)
    log.info("Valid Loss: %2.5f", scores.loss)
    log.info("Valid Accuracy: %2.5f", scores.accuracy)


def saved(folder: Path) -> None:
    """Say that a network was saved."""
    log.info("Saved model checkpoint to [DIR: %s]", folder)


def end(best: float, best_pruned: float) -> None:
    """Say the best accuracies, of stream 0 and of stream 1."""
    log.info("Best Accuracy: \t%f", best)
    log.info("Best Clip Accuracy: \t%f", best_pruned)
    log.info("End Training!")


class ProgressText:
    """One line on a terminal that is written over, without a bar; elsewhere nothing is shown.

    Args:
        file: where to; None: the standard error of rank 0, if it is a terminal.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file or (sys.stderr if dist.is_main() and sys.stderr.isatty() else None)

    def training(self, update: int | None = None, total: int = 0, loss: float = 0.0) -> None:
        """Show the loss at an update of ``total``; None: an epoch begins."""
        at, value = ("X / X", "X.X") if update is None else (f"{update} / {total}", f"{loss:2.5f}")
        self._show(f"Training ({at} Steps) (loss={value})")

    def validating(self, loss: float | None = None) -> None:
        """Show the last batch's loss; None: an evaluation begins."""
        self._show(f"Validating... (loss={'X.X' if loss is None else f'{loss:2.5f}'})")

    def _show(self, text: str) -> None:
        if self.file is not None:
            print(f"\r\033[K{text}", end="", file=self.file, flush=True)

    def close(self) -> None:
        """Leave the line as it is and go to the next."""
        if self.file is not None:
            print(file=self.file)


class Events:
    """The original's TensorBoard: scalars of training at updates, accuracies at evaluations; on rank 0.

    Args:
        folder: where they go.
        update: that a run goes on from: what was written behind it is dropped by readers. 0: a fresh start.
    """

    def __init__(self, folder: Path, update: int = 0) -> None:
        self._writer: Any = None
        if dist.is_main():
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(
                logdir=str(folder),
                purge_step=update + 1 if update else None,
                filename_suffix=f".from-{update + 1}",
            )

    def add(self, tag: str, value: float, update: int) -> None:
        """Write a scalar at an update."""
        if self._writer is not None:
            self._writer.add_scalar(tag, value, update)

    def close(self) -> None:
        """Write what is not yet written."""
        if self._writer is not None:
            self._writer.close()


def _config_dict(cfg: ModelConfig) -> ConfigDict:
    """The sizes of a network as the original keeps them; `apt_vit.configs.model_values` reads it."""
    patches = {"size": cfg.patch_size} if cfg.patch_grid is None else {"grid": cfg.patch_grid}
    stem = {} if cfg.resnet is None else {"resnet": vars(cfg.resnet)}
    return ConfigDict(
        {
            "patches": patches,
            "hidden_size": cfg.hidden_size,
            "transformer": {name: getattr(cfg, name) for name in TRANSFORMER},
            "classifier": "token",
            "representation_size": None,
            **stem,
        }
    )


def _local_rank(cfg: Config) -> int:
    return cfg.run.local_rank if dist.world_size() == 1 else dist.rank()


def _gpus(device: Any) -> int:
    """The original's ``n_gpu``: those of this machine in one process, else the one of each."""
    import torch

    if dist.world_size() > 1:
        return 1
    return torch.cuda.device_count() if getattr(device, "type", str(device)) == "cuda" else 0
