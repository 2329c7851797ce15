"""Words get ids, which files keep."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expansionnet.words.vocabulary import MORE_POSITIONS, Corpus, Vocabulary
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError

CAPTIONS = ("A dog.", "A dog, a cat!", "The cat?", "zebra")


def made() -> Vocabulary:
    return Vocabulary.from_captions(CAPTIONS, min_occurrences=2)


def pickled(content: Any) -> bytes:
    return pickle.dumps(content)  # noqa: TID251 - what the original writes


def published(**changes: Any) -> dict[str, Any]:
    words = sorted(["\n", "PAD", "SOS", "EOS", "UNK", "a", "cat"])
    content = {
        "word2idx_dict": {word: place for place, word in enumerate(words)},
        "idx2word_list": words,
        "sos_str": "SOS",
        "eos_str": "EOS",
    }
    return content | changes


def test_a_vocabulary_has_frequent_words_sorted_by_code_point_with_special_ones_among_them() -> None:
    vocabulary = Vocabulary.from_captions((*CAPTIONS, "10 zebras", "10 \n x"), min_occurrences=2)
    assert vocabulary.words == ("10", "EOS", "PAD", "SOS", "UNK", "a", "cat", "dog")
    assert (vocabulary.eos, vocabulary.pad, vocabulary.sos, vocabulary.unk) == (1, 2, 3, 4)
    assert (vocabulary.longest, vocabulary.max_seq_len) == (6, 6 + MORE_POSITIONS)
    assert vocabulary.min_occurrences == 2


def test_captions_are_coded_and_decoded() -> None:
    vocabulary = made()
    ids = vocabulary.encode("A zebra, a dog.")
    assert [vocabulary.words[i] for i in ids] == ["SOS", "a", "UNK", "a", "dog", "EOS"]
    assert vocabulary.decode([*ids, vocabulary.pad]) == ["a", "UNK", "a", "dog"]
    assert vocabulary.decode([vocabulary.id("cat")]) == ["cat"]
    assert vocabulary.encode("") == [vocabulary.sos, vocabulary.eos]


def test_a_corpus_is_read_once_and_coded_as_single_captions_are() -> None:
    corpus, vocabulary = Corpus.read(iter(CAPTIONS)), made()
    coded = corpus.coded(vocabulary)
    assert len(corpus) == len(CAPTIONS)
    assert corpus.lengths.tolist() == [2, 4, 2, 1]
    for place, raw in enumerate(CAPTIONS):
        assert coded.caption(place).tolist() == vocabulary.encode(raw)[1:-1]
    assert coded.ids.dtype == np.int32
    assert len(Corpus.read([])) == Corpus.read([]).longest == 0


def test_a_vocabulary_comes_back_from_its_file_from_folders_and_from_plain_data(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_captions((*CAPTIONS, "개 \n 개"), min_occurrences=1)
    file = vocabulary.save(tmp_path / "own.json")
    assert Vocabulary.load(file) == vocabulary
    (tmp_path / "run" / "best").mkdir(parents=True)
    assert vocabulary.save(tmp_path / "run" / "best").name == "vocabulary.json"
    assert Vocabulary.load(tmp_path / "run") == Vocabulary.load(tmp_path / "run" / "best") == vocabulary
    assert from_plain(Vocabulary, json.loads(json.dumps(to_plain(vocabulary)))) == vocabulary


def test_the_published_pickle_is_read_and_nothing_in_it_is_run(tmp_path: Path) -> None:
    file = tmp_path / "vocab.pickle"
    file.write_bytes(pickled(published()))
    vocabulary = Vocabulary.load(file)
    assert vocabulary.words == ("\n", "EOS", "PAD", "SOS", "UNK", "a", "cat")
    assert (vocabulary.sos, vocabulary.max_seq_len) == (3, 0)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    file.write_bytes(pickled(published(sos_str=Evil())))
    with pytest.raises(UserError, match=r"refused: the pickle names (posix|nt)\.mkdir"):
        Vocabulary.load(file)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (published(word2idx_dict={"a": 0}), "word2idx_dict and idx2word_list differ"),
        (published(idx2word_list=["a", 7]), "idx2word_list holds 7 at place 1, expected words"),
        (published(eos_str="END"), "vocabulary of 7 words lacks END"),
        ({"word2idx_dict": {}}, "not a vocabulary, expected a pickle with word2idx_dict, idx2word_list"),
    ],
)
def test_other_pickles_are_one_clear_line(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "v.pickle").write_bytes(pickled(content))
    with pytest.raises(UserError, match=message) as caught:
        Vocabulary.load(tmp_path / "v.pickle")
    assert str(caught.value).startswith(str(tmp_path / "v.pickle"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "else"}, "expected JSON with the format 'expansionnet-vocabulary/1'"),
        ({"words": "abc"}, "words is str, expected a list of words"),
        ({"words": ["PAD", "EOS", "SOS", "UNK", "EOS"]}, "holds 'EOS' twice"),
        ({"words": ["a"]}, "vocabulary of 1 words lacks PAD, SOS, EOS, UNK"),
        ({"longest": -1}, "longest is -1, expected a whole number of at least 0"),
    ],
)
def test_other_json_files_are_one_clear_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "v.json").write_text(json.dumps(made().plain() | change))
    with pytest.raises(UserError, match=message) as caught:
        Vocabulary.load(tmp_path / "v.json")
    assert "\n" not in str(caught.value)


def test_a_missing_vocabulary_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no vocabulary there, expected vocabulary\.json"):
        Vocabulary.load(tmp_path)
