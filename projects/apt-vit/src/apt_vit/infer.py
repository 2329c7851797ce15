"""``infer``: the original's inference program: classify the test pictures with tokens really dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

from apt_vit import messages
from apt_vit.classifier import Classifier
from apt_vit.cli import parse_infer
from apt_vit.config import Config
from apt_vit.data import Data, open_data
from apt_vit.evaluate import Answer, Evaluator, Scores, summarise
from apt_vit.files.loading import open_weights
from apt_vit.layout import FAKE_DATA, checkpoint_file, run_folder
from apt_vit.lowering import lower_infer, run_base
from apt_vit.options import InferOptions
from apt_vit.test import adjusted
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry
from prunelab.modes import evaluating
from prunelab.util import human_count

FIRST = "初始输入形状::: "
"""Before the shape that enters the first clip layer's block, in the original's words."""
BEHIND = "第{}层形状::: "
"""Before the shape behind a clip layer."""


def infer(options: InferOptions, *, data: Data | None = None) -> Scores:
    """Classify the test pictures.

    Args:
        options: which model, and how.
        data: the data set, opened; None: that of the configuration.

    Returns:
        Figures of all pictures.

    Raises:
        UserError: the model or the data are missing, or do not fit each other; or under ``faithful`` the
            batches that are to drop tokens have more than one picture.
    """
    cfg = lower_infer(options, run_base(Path(options.model)) if options.model else None)
    device = dist.start(cfg.run.device)
    faithful = cfg.run.preset == "faithful"
    if faithful and options.mode == "dropped" and cfg.data.eval_batch_size != 1:
        raise UserError(
            f"eval_batch_size is {cfg.data.eval_batch_size}, expected 1 under preset faithful; preset fixed "
            "drops tokens of each picture in a batch"
        )
    place = Path(options.model) if options.model else checkpoint_file(cfg, options.stream)
    found = adjusted(opened(place, cfg), options).to(device)
    data = data or open_data(replace(cfg, model=found.config), run_folder(cfg) / FAKE_DATA)
    with messages.shown() if faithful else nullcontext(), evaluating(found.model):
        if faithful:
            messages.process(cfg, device)
        return _classify(found, cfg, options, data)


def opened(place: Path, cfg: Config) -> Classifier:
    """The model; of a bare checkpoint the configuration says what its file does not.

    Raises:
        UserError: there is none, or it is of another network than the configuration's.
    """
    if not place.exists():
        raise UserError(
            f"{place}: no network there, expected what `train` wrote under --output_dir {cfg.run.output_dir} "
            f"and --name {cfg.run.name}, or another place named by --model"
        )
    typed = {**vars(cfg.model), "preset": cfg.run.preset}
    found, loaded = open_weights(place, typed)
    if loaded.notes or loaded.missing:
        what = loaded.notes[0] if loaded.notes else f"it lacks {loaded.missing[0]}"
        raise UserError(f"{place}: {what}; expected weights of the configured network")
    return found


def _classify(found: Classifier, cfg: Config, options: InferOptions, data: Data) -> Scores:
    evaluator = Evaluator(
        found.model,
        found.rule,
        options.mode,
        layout=options.layout,
        amp=cfg.run.amp,
        channels_last=cfg.run.channels_last,
    )
    batches = islice(data.loader("test", dist.rank(), dist.world_size()), options.max_steps)
    answers = evaluator.answers(batches)
    faithful, size = cfg.run.preset == "faithful", cfg.data.eval_batch_size
    if faithful:
        count = -(-data.sizes["test"] // size)
        messages.validation(min(count, options.max_steps or count), size)
    if options.mode == "dropped" and (options.show_shapes or faithful):
        answers = _with_shapes(answers, evaluator)
    scores = summarise(evaluator, answers, cfg.quirks)
    if faithful:
        messages.results(scores)
    elif dist.is_main():
        kept = ", ".join(f"{count:.1f}" for count in scores.tokens)
        print(
            f"{scores.pictures} pictures, {options.mode}: accuracy {scores.accuracy:.4f}  loss "
            f"{scores.loss:.4f}  MACs {human_count(round(scores.macs))}"
            + (f"  tokens kept behind clip layers {kept}" if kept else "")
        )
    return scores


def _with_shapes(answers: Iterable[Answer], evaluator: Evaluator) -> Iterator[Answer]:
    """Answers; of each picture the shapes are printed behind every clip layer, as the original does."""
    height, width = evaluator.model.grid
    for answer in answers:
        for counts in answer.counts.tolist():
            kept = dict(zip(evaluator.layers, counts, strict=True))
            print(shapes_of(height * width + 1, kept, evaluator.model.cfg.hidden_size))
        yield answer


def shapes_of(tokens: int, kept: Mapping[int, int], width: int) -> str:
    """What the original prints of a picture.

    Args:
        tokens: their number before the first block.
        kept: clip layer to the number of tokens behind it.
        width: of a token.
    """
    lines = [f"{FIRST}torch.Size([1, {tokens}, {width}])"]
    lines += [f"{BEHIND.format(layer)}torch.Size([1, {count}, {width}])" for layer, count in kept.items()]
    return "\n".join(["", *lines])


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``infer``."""
    options = parse_infer(argv)
    cfg = lower_infer(options, run_base(Path(options.model)) if options.model else None)
    if options.print_config:
        print(yaml_text(to_plain(cfg)))
    elif options.dry_run:
        print(f"{cfg.model.model_type} on {cfg.data.dataset}: command line is right; nothing was run")
    else:
        infer(options)


if __name__ == "__main__":
    main()
