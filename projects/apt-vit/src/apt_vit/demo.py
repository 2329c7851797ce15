"""Show what the best model of a run folder says about a few points."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from apt_vit.cli import parse
from apt_vit.config import Config, lower
from apt_vit.model.network import Network
from apt_vit.train import run_folder
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry

POINTS = ((1.0, 0.0), (0.0, -1.0), (2.0, 0.0), (-1.4, 1.4))


@torch.no_grad()
def classify(cfg: Config) -> list[int]:
    """The class of each point of `POINTS`."""
    model = Network.load(run_folder(cfg.run) / "best")
    return model.eval()(torch.tensor(POINTS)).argmax(1).tolist()


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, lower, go."""
    raw = parse("demo", argv)
    dry = raw.pop("dry_run", False)
    cfg = lower(raw)
    if dry:
        print(yaml_text(to_plain(cfg)))
        return
    for point, ring in zip(POINTS, classify(cfg), strict=True):
        print(f"{point}: ring {ring}")


if __name__ == "__main__":
    main()
