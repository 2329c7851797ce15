"""Captions become words and words become captions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from expansionnet.words.text import lowered, reward_words, spaced, to_text, without_punctuation, words


def test_a_caption_goes_through_its_steps() -> None:
    raw = "  A man's half-eaten 'hot-dog'!  \n"
    assert lowered(raw) == "  a man's half-eaten 'hot-dog'!"
    assert spaced("a, b") == "a ,    b"
    assert without_punctuation("a ,  b") == "a  b"
    assert words(raw) == ["a", "man", "s", "half", "eaten", "hot", "dog"]


def test_line_breaks_and_other_signs_are_words_of_training_and_line_breaks_none_of_references() -> None:
    raw = 'A "dog"\nand (a) cat & #1.'
    assert words(raw) == ["a", '"', "dog", '"', "\n", "and", "(", "a", ")", "cat", "&", "#", "1"]
    assert reward_words(raw) == [word for word in words(raw) if word != "\n"]


def test_letters_of_any_script_make_words() -> None:
    assert words("Ein Mädchen läuft über die Straße.") == ["ein", "mädchen", "läuft", "über", "die", "straße"]
    assert words("한 남자가 개와 걷는다") == ["한", "남자가", "개와", "걷는다"]
    assert words("一只猫。") == ["一只猫", "。"]


def test_sentences_begin_with_a_capital_and_no_words_make_no_sentence() -> None:
    assert to_text(["a", "man", "in", "NYC"]) == "A man in nyc."
    assert to_text([]) == ""


@given(st.text())
def test_words_hold_neither_spaces_nor_capitals(raw: str) -> None:
    found = words(raw)
    assert all(word and " " not in word for word in found)
    assert words(" ".join(found)) == found or any(not word.isprintable() for word in found)
    assert set(reward_words(raw)) <= {part for word in found for part in word.split()}
