"""Train a ResNet-18 on CIFAR-10, dense or pruned: the same loop with the original's recipe for it.

What differs from ``train`` stands in the configuration: Adam, and rates that are set once an epoch. There is
also the original's log, ``log_{sparsity}.txt``; in place of its pickled network the best one is a model
folder, ``best/``.
"""

from __future__ import annotations

from collections.abc import Sequence

from acosp_seg.cli import parse_train_cifar10
from acosp_seg.lowering import lower_cifar10
from acosp_seg.train import train
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``train_cifar10``."""
    raw = parse_train_cifar10(argv)
    cfg = lower_cifar10(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print("resnet18 on cifar10: configuration is right; nothing was run")
    elif not cfg.run.output:
        raise UserError("train_cifar10 needs save_dir: the folder of the run")
    else:
        train(cfg)


if __name__ == "__main__":
    main()
