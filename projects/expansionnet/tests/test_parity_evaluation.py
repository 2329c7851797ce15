"""Captions of two splits, the validation loss and the metrics agree with the recorded ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from expansionnet.config import Config, DecodeConfig, OptimConfig, QuirkConfig
from expansionnet.evaluate import ValidationLoss, choose_captions, make_evaluators
from expansionnet.model import ExpansionNet
from expansionnet.words.vocabulary import Vocabulary
from prunelab.caption.evaluate import evaluate
from testing.parity import Folder, of_kind

from .recorded import beside, load_model, model_facts

CPU = torch.device("cpu")


def read(folder: Folder) -> tuple[dict[str, dict[int, list[str]]], Vocabulary]:
    """Raw captions of each split by picture, and the words of the training captions."""
    entries = json.loads(beside(folder, folder.facts["dataset"]).read_text(encoding="utf-8"))["images"]
    splits: dict[str, dict[int, list[str]]] = {"train": {}, "val": {}, "test": {}}
    for entry in entries:
        name = "train" if entry["split"] == "restval" else entry["split"]
        if name in splits:
            splits[name][entry["cocoid"]] = [sentence["raw"] for sentence in entry["sentences"]]
    captions = [raw for image in splits["train"].values() for raw in image]
    return splits, Vocabulary.from_captions(captions, min_occurrences=folder.facts["min_occurrences"])


class Batches:
    """Features of some pictures, in batches."""

    def __init__(self, path: Path, image_ids: Sequence[int], size: int) -> None:
        self.path, self.image_ids, self.size = path, list(image_ids), size

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        with h5py.File(self.path) as file:
            for start in range(0, len(self.image_ids), self.size):
                chosen = self.image_ids[start : start + self.size]
                x = torch.stack([torch.from_numpy(file[f"{i}_features"][()]) for i in chosen])
                yield {"x": x, "pads": None, "image_ids": chosen}


def setup(folder: Folder) -> tuple[ExpansionNet, Config]:
    model = load_model(folder)
    assert model_facts(folder)["vocab_size"] == model.cfg.vocab_size
    cfg = Config(model=model.cfg, quirks=QuirkConfig.of("faithful"), decode=DecodeConfig(suppress_unk=False))
    return model.train(folder.facts["model_mode"] == "train"), cfg


@pytest.mark.parity
@of_kind("evaluation")
def test_captions_of_both_splits_are_the_recorded_ones(folder: Folder) -> None:
    model, cfg = setup(folder)
    splits, vocabulary = read(folder)
    features = beside(folder, folder.facts["features_file"])
    recorded = folder.json("expected.json")["predictions"]
    assert {case["beam"] for case in recorded} == set(folder.facts["beam_sizes"])
    for case in recorded:
        decode = replace(cfg.decode, eval_beam_sizes=(case["beam"],), max_len=case["max_len"])
        [evaluator] = make_evaluators(
            case["split"],
            replace(cfg, decode=decode),
            Batches(features, list(splits[case["split"]]), folder.facts["decode_batch_size"]),
            splits[case["split"]],
            vocabulary,
            positions=model.cfg.max_seq_len,
            device=CPU,
        ).values()
        assert [said for _, said in evaluator.captions(model)] == case["predictions"], case


@pytest.mark.parity
@of_kind("evaluation")
def test_the_validation_loss_is_the_recorded_one(folder: Folder) -> None:
    model, cfg = setup(folder)
    splits, vocabulary = read(folder)
    recorded = folder.json("expected.json")["validation_loss"]
    references = splits[recorded["split"]]
    features = beside(folder, folder.facts["features_file"])
    cfg = replace(cfg, optim=OptimConfig(label_smoothing=recorded["label_smoothing"]))

    def loss(cfg: Config, size: int) -> float:
        generator = random.Random(recorded["seed_python_random"])
        loss = ValidationLoss(
            Batches(features, list(references), size),
            lambda: choose_captions(references, generator),
            vocabulary,
            cfg,
            CPU,
        )
        [(_, value)] = loss.run(model)
        return value

    tolerance = folder.tolerance["loss_abs"]
    assert loss(cfg, recorded["sub_batch"]) == pytest.approx(recorded["value"], abs=tolerance)
    assert loss(cfg, len(references)) == pytest.approx(recorded["value"], abs=tolerance)
    words = replace(cfg, quirks=QuirkConfig.of("fixed"))
    assert loss(words, 1) > recorded["value"] + tolerance  # the start is not among them


@pytest.mark.parity
@of_kind("evaluation")
def test_metrics_of_captions_are_the_recorded_ones(folder: Folder) -> None:
    recorded, tolerance = folder.json("metrics.json"), folder.tolerance["metrics_rel"]
    said = {image: captions[0] for image, captions in recorded["res"].items()}
    scores = evaluate(recorded["gts"], said, ("BLEU", "ROUGE_L", "CIDEr"), tokenize=False)
    wanted = {f"Bleu_{n}": value for n, value in enumerate(recorded["bleu"], 1)}
    wanted |= {"ROUGE_L": recorded["rouge"], "CIDEr": recorded["cider"]}
    assert scores.overall == {name: pytest.approx(value, rel=tolerance) for name, value in wanted.items()}
    each = {f"Bleu_{n}": values for n, values in enumerate(recorded["bleu_each"], 1)}
    each |= {"ROUGE_L": recorded["rouge_each"], "CIDEr": recorded["cider_each"]}
    for name, values in each.items():
        assert [row[name] for row in scores.per_image] == pytest.approx(values, rel=tolerance), name
