"""``test``: evaluate a network: that of a run, of a model folder, or of a file of the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from channel_prune import steps
from channel_prune.cli import parse_test
from channel_prune.config import Config
from channel_prune.data import open_data
from channel_prune.files.loading import load_network
from channel_prune.finish import answers_folder
from channel_prune.job import distillation, make_task, newest
from channel_prune.layout import place, run_folder
from channel_prune.lowering import lower_test
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry
from prunelab.modes import evaluating
from prunelab.progress import number


def trained(cfg: Config) -> Path:
    """Where the network lies that is evaluated: ``weights``, else what the learner wrote.

    Raises:
        UserError: nothing is there.
    """
    run = cfg.run
    if cfg.net.weights:
        return Path(cfg.net.weights)
    found = Path(run.output) if run.output else place(run.save_path_cpr if run.prunes else run.save_path)
    if not found.exists():
        raise UserError(
            f"{found}: no network there; expected a trained one, or --weights with a folder or file of one"
        )
    return newest(found, cfg)


def test(cfg: Config) -> dict[str, float]:
    """Evaluate on all evaluation pictures, each once whatever the number of processes.

    Returns:
        The figures: ``loss`` (decay and distillation included, as in training) and ``accuracy``, or
        ``acc_top1`` and ``acc_top5``; ``mAP`` and that of each class for a detector.

    Raises:
        UserError: the network or the data are missing, or do not fit each other.
    """
    device = dist.start(cfg.run.device)
    spot = trained(cfg)
    network = load_network(spot, cfg.net).to(device)
    data = open_data(cfg, run_folder(cfg) / "fake_data")
    task = make_task(cfg, data, device, distillation=distillation(cfg, device))
    optimizer = steps.make_optimizer(network, cfg.optim)  # it knows what decays
    with evaluating(network):
        found = dict(task.evaluate(network, optimizer))
    files = task.write(answers_folder(cfg))
    if dist.is_main():
        print(f"{spot}: " + "  ".join(f"{name} {number(value)}" for name, value in found.items()))
        if files:
            print(f"detections: {files[0].parent}")
    return found


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``test``."""
    raw = parse_test(argv)
    cfg = lower_test(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.net.name} on {cfg.data.dataset}: configuration is right; nothing was run")
    else:
        test(cfg)


if __name__ == "__main__":
    main()
