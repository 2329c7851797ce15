"""``test``: caption splits of a data set with a trained model, or an ensemble, and score the captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from expansionnet.cli import parse_test
from expansionnet.config import Config
from expansionnet.data import CaptionData, open_data
from expansionnet.ensemble import Ensemble
from expansionnet.evaluate import Model, make_evaluators, on_machine
from expansionnet.files import loading
from expansionnet.files.recognise import Weights, config_of
from expansionnet.layout import FAKE_DATA, found, newest_model
from expansionnet.lowering import lower_test
from expansionnet.model import ExpansionNet, build
from expansionnet.options import TestOptions
from expansionnet.summary import METRICS_IN_ORDER, notes_of, scores_table
from expansionnet.words.vocabulary import Vocabulary
from prunelab import dist
from prunelab.caption.split import Evaluator, best_constant_caption
from prunelab.config import load_config, to_plain, yaml_text
from prunelab.data.coco import write_predictions
from prunelab.errors import UserError, entry
from prunelab.hub import is_model_folder, load_state
from prunelab.seed import seed_all
from prunelab.util import atomic_write, write_json

PREDICTIONS = "predictions.txt"
"""Captions beside their references, for ``show_predictions``."""
FOLDER = "tested"
"""Folder for captions and scores, beside the model."""
SCORES = "scores.json"
"""What `test` returns."""
CONSTANT = "constant.json"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be tested, before data are opened."""

    places: Sequence[Path]
    """Where the models lie."""
    weights: Sequence[Weights]
    """What lies there."""
    cfg: Config
    """How to test them, with the sizes of the first one."""

    def __str__(self) -> str:
        """What the models are, for people."""
        first = str(self.places[0])
        return first if len(self.places) == 1 else f"ensemble of {len(self.places)} models, the first {first}"


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Models and data, ready."""

    model: Model
    """A captioner, or several that agree on each word."""
    cfg: Config
    """How to test."""
    data: CaptionData
    """Pictures and captions, with the model's words."""
    folder: Path
    """Where captions and scores go."""
    step: int
    """Micro-batches that the model was trained for, where it says so; else 0."""
    device: torch.device
    """Where the model is."""

    @property
    def positions(self) -> int:
        """Most tokens of a caption."""
        return self.model.positions if isinstance(self.model, Ensemble) else self.model.cfg.max_seq_len


def test(options: TestOptions) -> dict[str, float]:
    """Caption and score as asked; files lie beside the model or in ``options.output``.

    Returns:
        The scores by ``split/metric``, and ``split_beam_5/metric`` for further numbers of beams; none for
        pictures without captions (the online test).

    Raises:
        UserError: no model, no data, or they do not fit each other.
    """
    if options.constant:
        return constant(options)
    subject = find_subject(options)
    if options.print_config:
        print(yaml_text(to_plain(subject.cfg)))
        return {}
    tested = open_tested(options, subject)
    scores = score_splits(options, tested, tell=True)
    if dist.is_main():
        write_json(tested.folder / SCORES, scores)
        scores_table(str(subject), scores)
        print(f"captions and scores: {tested.folder}")
    return scores


def find_models(options: TestOptions) -> list[Path]:
    """Where the models lie: one, or with ``is_ensemble`` all of a folder, in the order of their names.

    Raises:
        UserError: none is there.
    """
    if not options.save_model_path:
        return [newest_model()]
    if not options.is_ensemble:
        return [loading.find_weights(options.save_model_path)]
    folder = found(options.save_model_path)
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    models = [path for path in inside if path.suffix == ".pth" or (path / "config.json").is_file()]
    if not models:
        raise UserError(
            f"save_model_path is {options.save_model_path}, expected a folder of checkpoints (.pth) or model "
            "folders, for an ensemble"
        )
    return models


def find_subject(options: TestOptions) -> Subject:
    """Read the weights of the models, and what they and the command line say of how to test them.

    Raises:
        UserError: nothing is there, it is no captioner, or it contradicts the command line.
    """
    places = find_models(options)
    weights = [_read(place, options) for place in places]
    base = _run_config(places[0]) or Config()
    cfg = lower_test(options, replace(base, model=config_of(weights[0], options.typed)))
    return Subject(places=places, weights=weights, cfg=cfg)


def _run_config(place: Path) -> Config | None:
    """The configuration of the run that a model folder belongs to."""
    written = place.parent / "config.yaml"
    return load_config(Config, written) if place.is_dir() and written.is_file() else None


def open_tested(options: TestOptions, subject: Subject) -> Tested:
    """Build the models and open the data; joins the other processes.

    A model that does not know its words gets those of the training captions, as the original does.

    Raises:
        UserError: see `test`.
    """
    cfg, first = subject.cfg, subject.places[0]
    device = dist.start(cfg.run.device)
    seed_all(cfg.run.seed)
    folder = Path(options.output) if options.output else first.parent / FOLDER
    words = next((one.vocabulary for one in subject.weights if one.vocabulary is not None), None)
    data = open_data(cfg, first.parent / FAKE_DATA, vocabulary=words)
    models = [on_machine(_model(one, options, data.vocabulary), cfg.run, device) for one in subject.weights]
    return Tested(
        model=Ensemble(models=models) if options.is_ensemble else models[0],
        cfg=cfg,
        data=data,
        folder=folder,
        step=int(notes_of(first).get("step", 0)) if is_model_folder(first) else 0,
        device=device,
    )


def _read(place: Path, options: TestOptions) -> Weights:
    """The weights of a model; only the body's where features are to be read."""
    weights = loading.open_weights(place)
    if options.typed.get("vocab_path"):
        words = options.typed["vocab_path"]
        weights = loading.with_vocabulary(weights, Vocabulary.load(words), words)
    if options.typed.get("is_end_to_end") is False and weights.swin is not None:
        config = weights.config and replace(weights.config, is_end_to_end=False)
        weights = replace(weights, state=weights.body, swin=None, config=config)
    return weights


def _model(weights: Weights, options: TestOptions, vocabulary: Vocabulary) -> ExpansionNet:
    config = config_of(weights, options.typed)
    if config.vocab_size != len(vocabulary):
        raise UserError(
            f"{weights.path}: {config.vocab_size:,} words, the vocabulary has {len(vocabulary):,}: name the "
            "one that it was trained with by --vocab_path"
        )
    model = build(config, fresh=False)
    load_state(model, weights.state, where=str(weights.path))
    return model.eval()


def score_splits(options: TestOptions, tested: Tested, *, tell: bool) -> dict[str, float]:
    """Caption, score and write every split of the options.

    Args:
        options: what is wanted.
        tested: from `open_tested`.
        tell: print the scores of each split as they come.

    Returns:
        See `test`.
    """
    scores: dict[str, float] = {}
    compared: list[str] = []
    for split in options.splits:
        evaluators = make_evaluators(
            split,
            tested.cfg,
            tested.data.loader(split, rank=dist.rank(), world_size=dist.world_size()),
            tested.data.references(split),
            tested.data.vocabulary,
            positions=tested.positions,
            device=tested.device,
            metrics=options.metrics,
            max_batches=options.max_steps,
        )
        for beam_size, evaluator in evaluators.items():
            scores |= dict(evaluator.run(tested.model))
            evaluator.write(tested.folder / f"{split}_beam_{beam_size}", tested.step)
            if tell and dist.is_main():
                _say(split, beam_size, evaluator)
        first = next(iter(evaluators.values()))
        compared += _compared(first)
        if options.server_name and dist.is_main():
            name = f"captions_{split}2014_{options.server_name}_results.json"
            write_predictions(tested.folder / name, first.predictions)
    if options.show_predictions and dist.is_main():
        with atomic_write(tested.folder / PREDICTIONS, "w") as file:
            file.writelines(compared)
    return scores


def _say(split: str, beam_size: int, evaluator: Evaluator[Model]) -> None:
    """Print the scores as the original does: a list of names and values, rounded to four digits."""
    title = f"{split}, {len(evaluator.predictions):,} pictures, beam {beam_size}"
    if evaluator.scores is None:
        print(f"{title}: no captions to compare with")
        return
    overall = evaluator.scores.overall
    pairs = [(name, round(overall[name], 4)) for name in METRICS_IN_ORDER if name in overall]
    print(f"{title}: {pairs}")
    for reason in evaluator.scores.unavailable.values():
        print(f"{title}: {reason}")


def _compared(evaluator: Evaluator[Model]) -> list[str]:
    """Each picture's caption and its references, as the original writes them."""
    return [
        f"{place}\nPred: {said}\nGt: {json.dumps(evaluator.references[image_id], ensure_ascii=False)}\n"
        for place, (image_id, said) in enumerate(evaluator.predictions.items())
    ]


def constant(options: TestOptions) -> dict[str, float]:
    """Score the one caption that fits the training pictures best; what a captioner must beat.

    Raises:
        UserError: the data set is missing.
    """
    cfg = lower_test(options)
    if options.print_config:
        print(yaml_text(to_plain(cfg)))
        return {}
    folder = Path(options.output or ".")
    data = open_data(cfg, folder / FAKE_DATA)
    scores: dict[str, float] = {}
    for split in options.splits:
        pictures = data.references(split)
        caption, found = best_constant_caption(data.references("train"), pictures)
        scores |= {f"{split}/{metric}": value for metric, value in found.items()}
        scores_table(f'"{caption}" said of {len(pictures):,} pictures', scores)
        if options.output:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CONSTANT, {"caption": caption, **scores})
    return scores


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``test``."""
    options = parse_test(argv)
    if options.dry_run:
        print(options)
        return
    test(options)


if __name__ == "__main__":
    main()
