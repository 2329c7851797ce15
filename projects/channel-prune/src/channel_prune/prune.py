"""``prune``: choose the channels of a trained network and make it slim, without training it.

The network is one of this project's or any classifier of torchvision or timm; the pictures are those of a
data set, or one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from channel_prune import finish
from channel_prune.cli import parse_prune
from channel_prune.config import Config
from channel_prune.layout import run_folder
from channel_prune.lowering import lower_prune
from channel_prune.train import CHOOSE, choose_channels
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry


def prune(cfg: Config, *, quiet: bool = False) -> Path:
    """Choose channels, and write the pruned network, the slim one and the table.

    Returns:
        The folder: ``last/`` in it is the network with zeros for channels, ``slim/`` that without them.

    Raises:
        UserError: the network or the pictures are missing or do not fit, or the folder holds a run.
    """
    folder = run_folder(cfg)
    if choose_channels(cfg, folder / CHOOSE, quiet=quiet):
        finish.end_pruning(cfg, folder)
    return folder


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``prune``."""
    raw = parse_prune(argv)
    cfg = lower_prune(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.net.name} on {cfg.data.dataset}: configuration is right; nothing was run")
    else:
        prune(cfg)


if __name__ == "__main__":
    main()
