from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from prunelab.doors import (
    bracket_list,
    csv,
    fraction,
    natural_int,
    none_word,
    number,
    positive_float,
    positive_int,
    tuple_literal,
    word_bool,
)


@pytest.mark.parametrize("word", ["yes", "True", "T", "y", "1", " TRUE "])
def test_words_for_true(word: str) -> None:
    assert word_bool(word) is True


@pytest.mark.parametrize("word", ["no", "False", "F", "N", "0"])
def test_words_for_false(word: str) -> None:
    assert word_bool(word) is False


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (none_word(), "None", None),
        (none_word(), "", None),
        (none_word(), "NULL", None),
        (none_word(), "kv", "kv"),
        (none_word(int), "3", 3),
        (none_word(csv(float)), "none", None),
        (csv(float), "0, 0,0,1", (0.0, 0.0, 0.0, 1.0)),
        (csv(), "a,b", ("a", "b")),
        (csv(), " ", ()),
        (bracket_list(), "[3]", (3,)),
        (bracket_list(), "[3, 5,]", (3, 5)),
        (bracket_list(), "3,5", (3, 5)),
        (bracket_list(), "[]", ()),
        (bracket_list(str), "['a.jpg', \"b c.jpg\", d]", ("a.jpg", "b c.jpg", "d")),
        (tuple_literal, "(0,0,1)", (0, 0, 1)),
        (tuple_literal, "[0, 1]", (0, 1)),
        (tuple_literal, "0,'a'", (0, "a")),
        (positive_int, "1", 1),
        (natural_int, "0", 0),
        (positive_float, "1e-8", 1e-8),
        (fraction, "0.95", 0.95),
        (number(int, low=-1), "-1", -1),
    ],
)
def test_texts_become_values(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (word_bool, "maybe", "'maybe' is neither True"),
        (csv(int), "1,x", "'1,x': the item 'x' is not a whole number"),
        (bracket_list(), "[3", r"'\[3' has one bracket only"),
        (bracket_list(), "[3,,5]", "the item '' is not a whole number"),
        (tuple_literal, "3", r"'3' is not a tuple such as \(0,0,1\)"),
        (tuple_literal, "(0", r"is not a tuple such as"),
        (tuple_literal, "__import__('os')", r"is not a tuple such as"),
        (positive_int, "0", "0 is not a whole number >= 1"),
        (positive_int, "2.5", "'2.5' is not a whole number >= 1"),
        (positive_float, "0", "0 is not a number > 0"),
        (fraction, "1.5", "1.5 is not a number >= 0 and <= 1"),
        (fraction, "nan", "nan is not a number"),
    ],
)
def test_texts_that_do_not_fit_are_named(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read(text)
