"""Words, vocabularies and sentences agree with the recorded ones of the original, to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expansionnet.config import DataConfig
from expansionnet.data import open_records
from expansionnet.words.text import lowered, reward_words, spaced, to_text, without_punctuation, words
from expansionnet.words.vocabulary import Vocabulary
from prunelab.data.captions import CaptionRecord
from testing.parity import Folder, of_kind

from .recorded import beside


def records_of(folder: Folder, split: str) -> list[CaptionRecord]:
    """A split of the folder's data set, read as the original reads it."""
    facts = folder.facts
    data = DataConfig(
        captions_path=str(beside(folder, facts["dataset"])), images_path=facts.get("images_path", "")
    )
    return [record for record in open_records(data, lenient=True).records if record.split == split]


def vocabulary_of(folder: Folder, recorded: dict[str, Any]) -> Vocabulary:
    captions = (raw for record in records_of(folder, "train") for raw in record.raw)
    return Vocabulary.from_captions(captions, min_occurrences=recorded["min_occurrences"])


@pytest.mark.parity
@of_kind("text")
def test_every_step_from_a_caption_to_its_words_agrees(folder: Folder) -> None:
    for case in folder.json("tokenisation.json"):
        raw = case["raw"]
        assert lowered(raw) == case["lower"]
        assert spaced(case["lower"]) == case["spaced"]
        assert without_punctuation(case["spaced"]) == case["no_punct"]
        assert words(raw) == case["tokens"]
        assert " ".join([*reward_words(raw), "EOS"]) == case["reward_reference"]


@pytest.mark.parity
@of_kind("text")
def test_vocabularies_and_splits_agree(folder: Folder) -> None:
    for recorded in folder.json("vocabulary.json").values():
        vocabulary = vocabulary_of(folder, recorded)
        assert list(vocabulary.words) == recorded["idx2word"]
        assert vocabulary.longest == recorded["max_seq_len"]
        for name in ("pad", "sos", "eos", "unk"):
            assert getattr(vocabulary, name) == recorded[name]
        for split in ("train", "val", "test"):
            ids = [record.image_id for record in records_of(folder, split)]
            assert len(ids) == recorded[f"num_{split}"]
            assert ids == recorded[f"{split}_ids"]
        assert records_of(folder, "train")[0].path == Path(recorded["first_train_path"])


@pytest.mark.parity
@of_kind("text")
def test_sentences_of_a_demonstration_agree(folder: Folder) -> None:
    recorded = folder.json("vocabulary.json")[folder.facts["descriptions_vocabulary"]]
    vocabulary = vocabulary_of(folder, recorded)
    for case in folder.json("descriptions.json"):
        assert to_text(vocabulary.decode(case["tokens"])) == case["description"]
