"""Evaluate the best model of a run folder."""

from __future__ import annotations

from collections.abc import Sequence

from apt_vit.cli import parse
from apt_vit.config import Config, lower
from apt_vit.data import loader
from apt_vit.evaluate import Accuracy
from apt_vit.model.network import Network
from apt_vit.train import run_folder
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry


def evaluate(cfg: Config) -> dict[str, float]:
    """The figures of ``best/`` in the run's folder on the test split."""
    model = Network.load(run_folder(cfg.run) / "best")
    return dict(Accuracy(loader(cfg.data, seed=cfg.run.seed, split="test")).run(model.eval()))


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, lower, go."""
    raw = parse("test", argv)
    dry = raw.pop("dry_run", False)
    cfg = lower(raw)
    if dry:
        print(yaml_text(to_plain(cfg)))
    else:
        print("  ".join(f"{name} {value:.3f}" for name, value in evaluate(cfg).items()))


if __name__ == "__main__":
    main()
