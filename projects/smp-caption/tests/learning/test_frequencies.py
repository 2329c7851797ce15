"""Document frequencies of self-critical training: where they come from, and what is checked before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prunelab.caption.frequency import DocumentFrequency
from prunelab.data.captions import CaptionRecord
from prunelab.errors import UserError
from smp_caption.config import Config, DataConfig, QuirksConfig, RunConfig, ScstConfig
from smp_caption.data import CaptionData
from smp_caption.learning.frequencies import ADVICE, CORPUS, count_frequencies, find_table, open_frequencies
from smp_caption.learning.scst import SelfCritical
from smp_caption.tokenizer import Tokenizer, train_sentencepiece

CAPTIONS = [["a red cat", "the cat sits"], ["two dogs run", "dogs run"], ["a bus", "one bus"]]


def data_of(folder: Path, captions: list[list[str]] = CAPTIONS, *, others: int = 0) -> CaptionData:
    """Training captions, and pictures with one word each in the other splits."""

    def record(number: int, split: str, texts: list[str]) -> CaptionRecord:
        name, said = f"{number}.jpg", tuple(texts)
        return CaptionRecord(
            image_id=number, file=name, path=folder / name, split=split, references=said, raw=said
        )

    records = {
        "train": [record(number, "train", texts) for number, texts in enumerate(captions)],
        "val": [record(100 + number, "val", ["run"]) for number in range(others)],
        "test": [],
    }
    stand_in = SimpleNamespace(records=records, sources=SimpleNamespace(places={"dataset_dir": str(folder)}))
    return cast(CaptionData, stand_in)


def config(table: str | None = None, *, start_epoch: int = 3, start_from: str = "", **quirks: bool) -> Config:
    return Config(
        data=DataConfig(cached_tokens=table),
        scst=ScstConfig(scst_start_epoch=start_epoch),
        run=RunConfig(start_from=start_from),
        quirks=QuirksConfig(**quirks),
    )


class Keeper:
    """Keeps results as a run does, and says what was asked for."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.worked: list[str] = []

    def __call__(self, key: str, work: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.worked.append(key)
            self.kept[key] = work()
        return self.kept[key]


def never(key: str, work: Callable[[], Any]) -> Any:
    raise AssertionError(f"{key} was worked on")


def words_of(folder: Path, captions: list[list[str]] = CAPTIONS) -> Tokenizer:
    path = folder / "word.model"
    lines = [text for image in captions for text in image]
    path.write_bytes(train_sentencepiece(lines, model_type="word", vocab_size=30))
    return Tokenizer(path)


def with_end(scst: Config) -> Config:
    return replace(scst, scst=replace(scst.scst, scst_end_in_reward=True))


@pytest.mark.parametrize("name", [None, CORPUS])
def test_frequencies_are_counted_from_the_training_captions_once_a_run(
    tmp_path: Path, name: str | None
) -> None:
    once, data = Keeper(), data_of(tmp_path, others=9)
    (tmp_path / "bu").mkdir()
    (tmp_path / "bu/coco-train-words.p").touch()  # is not looked at
    for _ in range(2):
        table, path = open_frequencies(config(name), data, once)
        assert path is None
        counts = table.counts()
        assert (counts["cat",], counts["dogs", "run"], counts["a",]) == (1, 1, 2)
        assert ("<eos>",) not in counts
        assert table.images == len(CAPTIONS)
    assert once.worked == ["document frequencies"]


def test_an_end_that_counts_in_the_reward_is_counted(tmp_path: Path) -> None:
    counts = count_frequencies(with_end(config()), data_of(tmp_path)).counts()
    assert counts["cat", "<eos>"] == 1
    assert counts["<eos>",] == len(CAPTIONS)
    assert ("UNK",) not in counts


def test_the_originals_count_has_ends_and_makes_rare_words_of_all_splits_one_word(tmp_path: Path) -> None:
    data = data_of(tmp_path, others=4)  # "run" six times in all: once more than a rare word
    counts = count_frequencies(config(frequencies_with_end=True), data).counts()
    assert counts["run", "<eos>"] == 1
    assert counts["UNK", "run", "<eos>"] == 1
    assert counts["UNK",] == len(CAPTIONS)
    assert ("dogs",) not in counts


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("table.npz", "table"),
        ("data/coco-train-words.p", "coco-train-words"),
        ("set/bu/coco-train-words.p", "coco-train-words"),
        ("set/some.npz", "some.npz"),
    ],
)
def test_a_table_is_found_by_its_name(
    tmp_path: Path, place: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "set").mkdir(exist_ok=True)
    count_frequencies(config(), data_of(tmp_path)).save(path)
    data = data_of(tmp_path / "set")
    table, found = open_frequencies(config(name), data, never)
    assert found is not None
    assert found.resolve() == path
    assert table.images == len(CAPTIONS)
    assert find_table(config(str(path.with_suffix(""))), data) == path  # an absolute name
    if path.parent.name == "bu":  # one from another machine
        assert find_table(config("/far/away/bu/coco-train-words"), data) == path


@pytest.mark.parametrize("ending", [".p", ".npz"])
def test_the_prepared_table_is_read_where_the_originals_numbers_are_asked_for(
    tmp_path: Path, ending: str
) -> None:
    data = data_of(tmp_path)
    assert find_table(config(frequencies_with_end=True), data) is None
    path = tmp_path / f"bu/coco-train-words{ending}"
    path.parent.mkdir()
    count_frequencies(config(), data).save(path)
    assert find_table(config(frequencies_with_end=True), data) == path
    assert find_table(config(), data) is None
    assert find_table(config(CORPUS, frequencies_with_end=True), data) is None


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cached_tokens nowhere: no such file, .*; expected a table of"):
        find_table(config("nowhere"), data_of(tmp_path))


def test_what_is_told_at_the_start_names_the_table_and_gives_advice(tmp_path: Path) -> None:
    data, tokenizer = data_of(tmp_path), words_of(tmp_path)
    lines = SelfCritical.open(config(), data, tokenizer, once=Keeper()).lines
    assert len(lines) == 2
    assert lines[0] == "document frequencies of 3 pictures: counted from the training captions"
    assert lines[1].startswith("rewards: a training caption earns ")
    count_frequencies(config(), data).save(tmp_path / "table.npz")
    read = SelfCritical.open(config(str(tmp_path / "table.npz")), data, tokenizer, once=never)
    assert read.lines[0].endswith(f": {tmp_path / 'table.npz'}")
    untrained = SelfCritical.open(config(start_epoch=0), data, tokenizer, once=Keeper())
    assert untrained.lines[-1] == ADVICE
    trained = config(start_epoch=0, start_from="some")
    assert ADVICE not in SelfCritical.open(trained, data, tokenizer, once=Keeper()).lines


def saved(path: Path, captions: list[list[str]], end: str | None = None) -> str:
    DocumentFrequency.from_captions([[t.split() for t in image] for image in captions], end=end).save(path)
    return str(path)


def test_a_table_of_other_words_is_refused_before_training(tmp_path: Path) -> None:
    numbers = [["17 4 9", "3 4"], ["8 a"]]
    name = saved(tmp_path / "coco-train-idxs.npz", numbers)
    with pytest.raises(UserError, match=r"coco-train-idxs.npz: knows 2 of 15 words in the captions of 3 tr"):
        SelfCritical.open(config(name), data_of(tmp_path), words_of(tmp_path), once=never)


def test_a_table_without_ends_is_refused_where_ends_count(tmp_path: Path) -> None:
    name = saved(tmp_path / "table.npz", CAPTIONS)
    with pytest.raises(UserError, match=r"table.npz: has no '<eos>', expected one where scst_end_in_reward"):
        SelfCritical.open(with_end(config(name)), data_of(tmp_path), words_of(tmp_path), once=never)
    name = saved(tmp_path / "table.npz", CAPTIONS, end="<eos>")
    SelfCritical.open(with_end(config(name)), data_of(tmp_path), words_of(tmp_path), once=never)


def test_captions_that_earn_nothing_are_refused_before_training(tmp_path: Path) -> None:
    same = [["a cat"], ["a cat", "a cat"]]
    with pytest.raises(UserError, match="the reward of every reference of 2 training pictures is 0"):
        SelfCritical.open(config(), data_of(tmp_path, same), words_of(tmp_path), once=Keeper())


def test_a_tokenizer_of_another_language_is_refused_before_training(tmp_path: Path) -> None:
    foreign = words_of(tmp_path, [["eine rote katze", "zwei hunde"]])
    with pytest.raises(UserError, match=r"word.model: the captions of 3 training pictures, put into its tok"):
        SelfCritical.open(config(), data_of(tmp_path), foreign, once=Keeper())
