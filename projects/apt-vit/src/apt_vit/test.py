"""``test``: accuracy, tokens and multiply-accumulates of a model, unpruned and with tokens dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from apt_vit.classifier import Classifier
from apt_vit.cli import parse_test
from apt_vit.config import DATASETS, Config
from apt_vit.data import Batch, Data, Pictures, Thumbnails, open_data
from apt_vit.evaluate import Scores, evaluate
from apt_vit.files.loading import open_weights
from apt_vit.layout import FAKE_DATA, newest_model, run_folder
from apt_vit.lowering import lower_test, run_base
from apt_vit.options import InferOptions, TestOptions
from apt_vit.summary import DROPPED, PLAIN
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import entry
from prunelab.modes import evaluating
from prunelab.report import Format, result_table
from prunelab.util import human_count, write_json

MODES = {PLAIN: "plain", DROPPED: "dropped"}
"""Rows of the table, and how the network is asked for each."""
COLUMNS = ("tokens", "accuracy", "loss", "kept by clip layers", "MACs")
FORMATS: dict[str, Format] = {"accuracy": ".4f", "loss": ".4f", "MACs": human_count}
RULE = {"method", "threshold", "keep_rate"}
"""What may be typed in place of the model's own rule."""


def test(options: TestOptions) -> dict[str, Scores]:
    """Evaluate a model on the pictures of a split, each once whatever the number of processes.

    Args:
        options: what is evaluated, and on what.

    Returns:
        Scores by mode: ``plain`` and, unless the model prunes nothing, ``dropped``.

    Raises:
        UserError: the model or the data are missing, or do not fit each other.
    """
    place = Path(options.model) if options.model else newest_model()
    device = dist.start(str(options.typed.get("device", "auto")))
    found, loaded = open_weights(place, options.typed, device=device)
    found = adjusted(found, options)
    cfg = configured(options, found, place)
    if dist.is_main():
        print(f"{place}: {loaded.what}")
        for line in loaded.notes:
            print(line)
    batches = batches_of(options, open_data(cfg, run_folder(cfg) / FAKE_DATA))
    scores = {}
    with evaluating(found.model):
        for mode in MODES.values() if found.rule.prunes else ["plain"]:
            wanted = islice(batches, options.max_steps)
            scores[mode] = evaluate(found.model, wanted, found.rule, mode, cfg.quirks, amp=cfg.run.amp)
    dist.on_main(lambda: tell(options, scores))
    return scores


def adjusted(found: Classifier, options: TestOptions | InferOptions) -> Classifier:
    """A model with those parts of its rule that were typed."""
    typed = {name: value for name, value in options.typed.items() if name in RULE}
    return found.with_rule(replace(found.rule, **typed))


def configured(options: TestOptions, found: Classifier, place: Path) -> Config:
    """What says which pictures are classified: the configuration of the model's run, where that is known."""
    base = run_base(place)
    if base is None and found.dataset in DATASETS:
        options = replace(options, typed={"dataset": found.dataset, **options.typed})
    cfg = lower_test(options, base)
    return replace(cfg, model=replace(found.config, pretrained_dir=""))


def batches_of(options: TestOptions, data: Data) -> Iterable[Batch]:
    """Batches of this process, without anything random."""
    split = data.split(options.split)
    if isinstance(split, Thumbnails | Pictures) and split.training:
        split = copy(split)
        split.training = False
    data = replace(data, splits={**data.splits, "test": split})
    return data.loader("test", dist.rank(), dist.world_size())


def tell(options: TestOptions, scores: dict[str, Scores]) -> None:
    """Print the table and write the figures."""
    names = {mode: name for name, mode in MODES.items()}
    rows = [
        {
            "tokens": names[mode],
            "accuracy": found.accuracy,
            "loss": found.loss,
            "kept by clip layers": ", ".join(f"{count:.1f}" for count in found.tokens) or None,
            "MACs": round(found.macs),
        }
        for mode, found in scores.items()
    ]
    pictures, constant = scores["plain"].pictures, scores["plain"].constant
    note = f"best constant answer {constant:.4f}; MACs have the agents (folded) in them"
    title = f"{pictures} pictures of {options.split}"
    result_table(title, COLUMNS, rows, formats=FORMATS, notes=[note]).print()
    if options.output:
        write_json(Path(options.output), {mode: asdict(found) for mode, found in scores.items()})


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``test``."""
    options = parse_test(argv)
    if options.print_config:
        place = Path(options.model) if options.model else None
        print(yaml_text(to_plain(lower_test(options, run_base(place) if place else None))))
    elif options.dry_run:
        lower_test(options)
        print(f"test {options.model or 'the newest model'}: command line is right; nothing was run")
    else:
        test(options)


if __name__ == "__main__":
    main()
