"""Evaluation: every picture once, its last word, the loss of one caption a picture."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import expansionnet
from expansionnet.captioner import Captioner
from expansionnet.config import Config
from expansionnet.data import CaptionData, open_data
from expansionnet.evaluate import (
    ValidationLoss,
    choose_captions,
    make_evaluators,
    most_tokens,
    on_device,
    score_name,
    sentence,
)
from expansionnet.learning.loss import smoothed_cross_entropy
from expansionnet.words.vocabulary import Vocabulary
from prunelab.config import load_config

CPU = torch.device("cpu")
WORDS = Vocabulary.from_captions(["a dog and a cat"], min_occurrences=1)


@pytest.fixture(scope="module")
def trained(finished: Callable[..., Path]) -> tuple[Captioner, CaptionData]:
    run = finished("xe")
    captioner = expansionnet.load(run / "best")
    cfg = load_config(Config, run / "config.yaml")
    cfg = replace(cfg, model=captioner.config)
    return captioner, open_data(cfg, vocabulary=captioner.vocabulary)


def said(captioner: Captioner, data: CaptionData, *, rank: int = 0, world: int = 1) -> dict[int, str]:
    [evaluator] = make_evaluators(
        "test",
        data.cfg,
        data.loader("test", rank=rank, world_size=world),
        data.references("test"),
        captioner.vocabulary,
        positions=captioner.config.max_seq_len,
        device=CPU,
    ).values()
    return dict(evaluator.captions(captioner.model))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_picture_is_captioned_exactly_once_and_the_same_for_any_number_of_processes(
    batch: int, count: int, world: int, trained: tuple[Captioner, CaptionData]
) -> None:
    captioner, data = trained
    cfg = replace(data.cfg, data=replace(data.cfg.data, eval_parallel_batch_size=batch))
    records = {**data.records, "test": data.records["test"][:count]}
    some = CaptionData(cfg, records, data.visual, captioner.vocabulary)
    parts = [said(captioner, some, rank=rank, world=world) for rank in range(world)]
    assert sum(map(len, parts)) == count
    alone = said(captioner, data)
    joined = {image_id: caption for part in parts for image_id, caption in part.items()}
    assert joined == {record.image_id: alone[record.image_id] for record in records["test"]}


def test_captions_lose_their_end_and_under_the_quirk_whatever_is_last() -> None:
    ended = [WORDS.sos, *(WORDS.id(word) for word in ("a", "dog")), WORDS.eos]
    cut = ended[:-1]
    assert sentence(ended, WORDS, drop_last_word=False) == "a dog"
    assert sentence(ended, WORDS, drop_last_word=True) == "a dog"
    assert sentence(cut, WORDS, drop_last_word=False) == "a dog"
    assert sentence(cut, WORDS, drop_last_word=True) == "a"
    assert sentence([WORDS.sos, WORDS.eos], WORDS, drop_last_word=False) == ""


def test_training_by_reward_is_validated_with_its_own_limit_of_length() -> None:
    cfg = Config()
    assert most_tokens(cfg, 74) == 74
    rewarded = replace(cfg, scst=replace(cfg.scst, reinforce=True))
    assert most_tokens(rewarded, 74) == cfg.scst.scst_max_len == 20
    assert most_tokens(rewarded, 12) == 12


def test_scores_of_the_first_number_of_beams_bear_the_name_of_the_split() -> None:
    assert [score_name("val", (3, 5), beams) for beams in (3, 5)] == ["val", "val_beam_5"]


def test_one_caption_a_picture_is_drawn_as_the_original_draws() -> None:
    references = {7: ["a", "b", "c"], 3: ["d"], 9: ["e", "f"]}
    draws = random.Random(5)
    wanted = {key: captions[draws.randint(0, len(captions) - 1)] for key, captions in references.items()}
    assert choose_captions(references, random.Random(5)) == wanted
    assert list(choose_captions(references, random.Random(5))) == [7, 3, 9]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_validation_loss_is_that_of_all_words_whatever_the_batches(
    size: int, trained: tuple[Captioner, CaptionData]
) -> None:
    captioner, data = trained
    chosen = choose_captions(data.references("val"), random.Random(1))
    cfg = replace(data.cfg, data=replace(data.cfg.data, eval_parallel_batch_size=size))
    batches = CaptionData(cfg, data.records, data.visual, captioner.vocabulary).loader("val")
    [(name, value)] = ValidationLoss(batches, lambda: chosen, captioner.vocabulary, cfg, CPU).run(
        captioner.model
    )
    total, words = 0.0, 0
    for record in data.records["val"]:
        tokens = torch.tensor([captioner.vocabulary.encode(chosen[record.image_id])])
        x, _ = data.visual([record])
        with torch.inference_mode():
            logits = captioner.model(x, tokens[:, :-1])
        pad, smoothing = captioner.vocabulary.pad, cfg.optim.label_smoothing
        total += float(
            smoothed_cross_entropy(logits, tokens[:, 1:], pad=pad, smoothing=smoothing, mean=False)
        )
        words += tokens.shape[1] - 1
    assert name == "val/loss"
    assert value == pytest.approx(total / words, rel=1e-5)


def test_batches_go_to_the_device_with_channels_last_where_wanted() -> None:
    batch: Mapping[str, Any] = {"x": torch.zeros(2, 3, 4, 4), "pads": None, "image_ids": [1, 2]}
    moved = on_device(batch, CPU, channels_last=True)
    assert moved["x"].is_contiguous(memory_format=torch.channels_last)
    assert moved["image_ids"] == [1, 2]
    features = on_device({"x": torch.zeros(2, 3, 4)}, CPU, channels_last=True)
    assert features["x"].is_contiguous()
