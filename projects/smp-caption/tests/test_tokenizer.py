"""Tokenizers: where a model comes from, what is cut, and what is written."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from prunelab.errors import UserError
from smp_caption.tokenizer import (
    MODEL_TYPES,
    RadixTokenizer,
    Tokenizer,
    build_tokenizer,
    train_sentencepiece,
)

CAPTIONS = ["a dog runs", "a cat sits on a mat", "the dog sits", "a red bus on the street", "A Dog"]
LONG = "a dog sits on a mat"


def word(folder: Path, **options: object) -> Tokenizer:
    return build_tokenizer(folder, kind="word", vocab_size=100, captions=CAPTIONS, **options)  # type: ignore[arg-type]


def test_training_writes_captions_model_and_vocabulary_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = word(tmp_path)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    folder = tmp_path / "tokenizer"
    assert sorted(p.name for p in folder.iterdir()) == ["train_captions.txt", "word.model", "word.vocab"]
    assert (folder / "train_captions.txt").read_text() == "\n".join(CAPTIONS)
    vocabulary = (folder / "word.vocab").read_text(encoding="utf-8").splitlines()
    assert len(vocabulary) == len(tokenizer)
    assert [line.split("\t")[0] for line in vocabulary[:5]] == ["<pad>", "<unk>", "<bos>", "<eos>", "▁a"]


def test_equal_captions_give_equal_bytes() -> None:
    first = train_sentencepiece(CAPTIONS, model_type="word", vocab_size=50)
    assert first == train_sentencepiece(CAPTIONS, model_type="word", vocab_size=50)


def test_a_model_that_is_there_is_read_and_not_trained_again(tmp_path: Path) -> None:
    first = word(tmp_path)
    before = (tmp_path / "tokenizer" / "word.model").stat().st_mtime_ns
    again = build_tokenizer(tmp_path, kind="word", vocab_size=100)
    assert again.encode(LONG) == first.encode(LONG)
    assert (tmp_path / "tokenizer" / "word.model").stat().st_mtime_ns == before


@pytest.mark.parametrize("start", ["run", "run/model_best.pth", "run/best", "converted"])
def test_the_tokenizer_of_start_from_is_copied_without_captions(tmp_path: Path, start: str) -> None:
    first = word(tmp_path / "run")
    (tmp_path / "run" / "best").mkdir()
    (tmp_path / "run" / "model_best.pth").touch()
    # A lone model folder holds its tokenizer itself, whatever lies beside the folder.
    shutil.copytree(tmp_path / "run/tokenizer", tmp_path / "converted")
    build_tokenizer(tmp_path, kind="word", vocab_size=9, captions=["y"])
    other = build_tokenizer(
        tmp_path / "new", kind="word", vocab_size=9, captions=["x"], start_from=tmp_path / start
    )
    assert other.encode(LONG) == first.encode(LONG)
    assert sorted(p.name for p in (tmp_path / "new/tokenizer").iterdir()) == ["word.model", "word.vocab"]


def test_a_start_with_other_words_is_refused(tmp_path: Path) -> None:
    word(tmp_path / "run")
    with pytest.raises(UserError, match=r"start_from .*run: its tokenizer is word or radix, expected bpe"):
        build_tokenizer(
            tmp_path / "a", kind="bpe", vocab_size=40, captions=CAPTIONS, start_from=tmp_path / "run"
        )
    build_tokenizer(tmp_path / "b", kind="word", vocab_size=9, captions=["x"])
    with pytest.raises(UserError, match=r"b/tokenizer/word.model has other words than .*run/tokenizer"):
        build_tokenizer(tmp_path / "b", kind="word", vocab_size=9, start_from=tmp_path / "run")


@pytest.mark.parametrize(("kind", "most"), [("word", 16), ("bpe", 16), ("character", 60), ("radix", 30)])
def test_a_caption_has_so_many_ids_as_its_kind_allows_where_nobody_says_how_many(
    kind: str, most: int, tmp_path: Path
) -> None:
    tokenizer = build_tokenizer(tmp_path, kind=kind, vocab_size=40, radix_base=4, captions=CAPTIONS)
    text = " ".join(CAPTIONS * 9)
    assert tokenizer.encode(text) == tokenizer.encode(text, max_seq_length=most)
    assert len(tokenizer.encode(text)) in range(most - 2, most + 1)
    assert len(tokenizer.encode_tokenized(["x"] * 99)) == most


def test_a_caption_that_is_cut_ends_in_eos_unless_the_original_rule_is_asked_for(tmp_path: Path) -> None:
    ids = word(tmp_path).encode(LONG, max_seq_length=0)
    assert (ids[0], ids[-1], len(ids)) == (2, 3, 8)
    assert word(tmp_path).encode(LONG, max_seq_length=5) == [*ids[:4], 3]
    assert word(tmp_path, truncation_drops_eos=True).encode(LONG, max_seq_length=5) == ids[:5]
    plain = word(tmp_path).encode(LONG, max_seq_length=5, add_bos_eos=False)
    assert plain == ids[1:6]
    assert word(tmp_path).encode("a dog", max_seq_length=5) == [2, ids[1], ids[2], 3]


def test_radix_cuts_whole_words_and_keeps_eos_within_the_limit(tmp_path: Path) -> None:
    model = word(tmp_path).model_file
    original = RadixTokenizer(model, base=3, truncation_drops_eos=True)
    fixed = RadixTokenizer(model, base=3)
    k = fixed.tokens_per_word
    assert k == 3
    limit = 2 + 2 * k
    assert len(fixed.encode(LONG, max_seq_length=limit)) == limit
    assert fixed.encode(LONG, max_seq_length=limit)[-1] == fixed.eos
    assert fixed.decode(fixed.encode("a dog", max_seq_length=limit)[1:]) == "a dog"
    assert len(original.encode(LONG, max_seq_length=limit)) == 1 + 3 * k
    rebuilt = build_tokenizer(tmp_path, kind="radix", vocab_size=9, radix_base=3)
    assert rebuilt.encode(LONG) == fixed.encode(LONG)


def test_decoding_takes_lists_tensors_arrays_and_single_ids(tmp_path: Path) -> None:
    tokenizer = word(tmp_path)
    ids = tokenizer.encode("the dog sits")
    for form in (ids, tuple(ids), torch.tensor(ids), np.array(ids)):
        assert tokenizer.decode(form) == "the dog sits"
    assert tokenizer.decode(torch.tensor(ids[1])) == "the"
    assert tokenizer.decode([ids[1], 9999, 3, 0]) == "the <unk>"


def test_words_keep_their_case_and_unknown_ones_are_unk(tmp_path: Path) -> None:
    tokenizer = word(tmp_path)
    assert tokenizer.encode("A Dog") != tokenizer.encode("a dog")
    assert tokenizer.encode("zebra") == [2, 1, 3]


def test_sampling_draws_segmentations_of_subwords(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path, kind="unigram", vocab_size=28, captions=CAPTIONS)
    found = {tuple(tokenizer.encode(LONG, max_seq_length=0, sampling=True)) for _ in range(20)}
    assert len(found) > 1
    assert {tokenizer.decode(list(ids)) for ids in found} == {LONG}


def test_a_pickled_tokenizer_reads_its_model_again(tmp_path: Path) -> None:
    tokenizer = word(tmp_path)
    state = tokenizer.__getstate__()
    assert "_processor" not in state
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: TID251 - our own object, as a worker gets it
    assert copy.encode(LONG) == tokenizer.encode(LONG)


@pytest.mark.parametrize("kind", list(MODEL_TYPES))
def test_every_kind_trains_round_trips_cuts_pickles_and_starts_from_another(
    kind: str, tmp_path: Path
) -> None:
    def build(name: str, **more: object) -> Tokenizer:
        sizes = {"vocab_size": 30 if kind != "character" else 40, "radix_base": 4}
        return build_tokenizer(tmp_path / name, kind=kind, **sizes, **more)  # type: ignore[arg-type]

    tokenizer = build("a", captions=CAPTIONS)
    text = "the dog sits on a mat"
    ids = tokenizer.encode(text, max_seq_length=0)
    assert (ids[0], ids[-1]) == (tokenizer.bos, tokenizer.eos)
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.decode([*ids[1:], *[0] * 5]) == text
    limit = 2 + 2 * getattr(tokenizer, "tokens_per_word", 1)
    cut = tokenizer.encode(text, max_seq_length=limit)
    assert (len(cut), cut[-1]) == (limit, tokenizer.eos)
    original = build("a", truncation_drops_eos=True).encode(text, max_seq_length=limit)
    assert original[-1] != tokenizer.eos
    assert original[: limit - 1] == cut[:-1]
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: TID251 - our own object, as a worker gets it
    assert (type(copy), len(copy), copy.encode(text)) == (
        type(tokenizer),
        len(tokenizer),
        tokenizer.encode(text),
    )
    for start in (tmp_path / "a", tmp_path / "a/model_best.pth"):
        taken = build(start.name + "b", captions=["something else"], start_from=start)
        assert taken.encode(text) == tokenizer.encode(text)
        name = MODEL_TYPES[kind]
        written = {
            file.name: file.read_bytes() for file in (tmp_path / (start.name + "b") / "tokenizer").iterdir()
        }
        own = tmp_path / "a/tokenizer"
        assert written == {file: (own / file).read_bytes() for file in (f"{name}.model", f"{name}.vocab")}
    drawn = {tuple(tokenizer.encode(text, max_seq_length=0, sampling=True)) for _ in range(20)}
    # Words and characters are cut in one way only.
    assert (len(drawn) > 1) == (kind in ("unigram", "bpe"))
    assert {tokenizer.decode(list(one[1:])) for one in drawn} == {text}
    fields = tokenizer.config_fields()
    assert (fields["bos_token_id"], fields["eos_token_id"]) == (tokenizer.bos, tokenizer.eos)


def test_a_saved_tokenizer_is_loaded_from_its_new_folder(tmp_path: Path) -> None:
    tokenizer = word(tmp_path / "a")
    tokenizer.save(tmp_path / "b")
    copy = build_tokenizer(tmp_path / "b", kind="word", vocab_size=1)
    assert copy.encode(LONG) == tokenizer.encode(LONG)
    assert set(tokenizer.files()) == {"tokenizer/word.model", "tokenizer/word.vocab"}


def test_mistakes_are_answered_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer/word\.model"):
        build_tokenizer(tmp_path, kind="word", vocab_size=9)
    with pytest.raises(UserError, match="no captions to train on"):
        build_tokenizer(tmp_path, kind="word", vocab_size=9, captions=["", " "])
    with pytest.raises(UserError, match="cannot train a bpe model of vocab_size 3"):
        train_sentencepiece(CAPTIONS, model_type="bpe", vocab_size=3)
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer(broken)
    with pytest.raises(UserError, match="no tokenizer file"):
        Tokenizer(tmp_path / "none.model")
