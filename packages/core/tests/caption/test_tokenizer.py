"""The tokeniser against recorded and live output of the Java program."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelab.caption.java import find_folder
from prunelab.caption.tokenizer import PUNCTUATION, tokenize

FIXTURES = Path(__file__).parent.parent / "fixtures" / "caption"
PIECES = [
    *"abcAB059.,'-:;!?\"()/&$#@*%+=_<>[]{}|~^\\`’“”–é£½…         ",
    *["'s", "n't", "--", "...", "Mr.", "U.S.", "no", "the", "The", "10", "1/2", "co", "vs", "st", "e.g"],
    *["3.5", "http://", "www.", ".com", "pm", "o'", "d'", "l'", "&amp;", "'re", "'ve", "dogs", "sits"],
    *["t-shirt", "C.", "B.A.", "No.", "p.m.", "don't", "it's", "12:30pm", "555-1234", "(12)", ":)", "<b>"],
    *["x@y.z", "21st", "A&W", "&lt;"],
]


def java_tokens(captions: list[str], folder: Path) -> list[str]:
    path = folder / "captions.txt"
    path.write_text("\n".join(captions), encoding="utf-8")
    jar = find_folder("the test", "tokenizer") / "stanford-corenlp-3.4.1.jar"
    options = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(path)]
    done = subprocess.run(["java", "-cp", str(jar), *options], capture_output=True, check=True, timeout=120)
    lines = done.stdout.decode().split("\n")[: len(captions)]
    return [" ".join(w for w in line.rstrip().split(" ") if w not in PUNCTUATION) for line in lines]


@pytest.fixture
def java() -> None:
    if shutil.which("java") is None:
        pytest.skip("needs Java: no 'java' in PATH")


def test_captions_are_lower_case_words_without_punctuation():
    assert tokenize(["A man's dog, (wet) isn't here!", "Two  red-brown cats...", ""]) == [
        "a man 's dog -lrb- wet -rrb- is n't here",
        "two red-brown cats",
        "",
    ]


def test_recorded_strings_are_cut_as_the_java_program_cuts_them():
    pairs = json.loads((FIXTURES / "ptb.json").read_text())
    assert len(pairs) > 500
    found = tokenize([caption for caption, _ in pairs])
    assert [(c, f) for (c, _), f in zip(pairs, found, strict=True)] == [(c, t) for c, t in pairs]


def test_a_final_initial_is_read_with_the_next_caption_in_sight():
    assert tokenize(["the letter C.", "The dog", "the letter C.", "a dog", "the letter C."]) == [
        "the letter c", "the dog", "the letter c.", "a dog", "the letter c.",
    ]  # fmt: skip


def test_line_breaks_inside_a_caption_are_blanks():
    assert tokenize(["a\nb", "c\rd", "e\u2028f"]) == ["a b", "c d", "e f"]


def test_the_table_of_chunks_is_bounded(monkeypatch):
    from prunelab.caption import tokenizer

    monkeypatch.setattr(tokenizer, "_MAX_CHUNKS", 10)
    captions = [f"word{'x' * i} and" for i in range(40)]
    assert tokenize(captions) == captions
    assert len(tokenizer._chunks) <= 11


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40), max_size=4))
def test_any_text_gives_clean_tokens(captions):
    found = tokenize(captions)
    assert len(found) == len(captions)
    for text in found:
        tokens = text.split(" ") if text else []
        assert all(token and token not in PUNCTUATION for token in tokens)


@given(st.lists(st.sampled_from(["a", "dog", "the", "running", "t-shirt", "'s", "n't", "u.s."]), max_size=8))
def test_tokenised_plain_words_stay_as_they_are(words):
    once = tokenize([" ".join(words), "x"])[0]
    assert tokenize([once, "x"])[0] == once


@pytest.mark.java
@pytest.mark.usefixtures("java")
def test_random_strings_are_cut_as_the_java_program_cuts_them(tmp_path):
    rng = random.Random(7)
    captions = ["".join(rng.choices(PIECES, k=rng.randint(2, 9))) for _ in range(4000)]
    expected = java_tokens(captions, tmp_path)
    found = tokenize(captions)
    different = [t for t in zip(captions, found, expected, strict=True) if t[1] != t[2]]
    assert not different


@pytest.mark.java
@pytest.mark.data
@pytest.mark.usefixtures("java")
def test_all_captions_of_coco_and_flickr_are_cut_as_the_java_program_cuts_them(real_data, tmp_path):
    coco = json.loads((real_data / "coco_text" / "captions_val2017.json").read_text())
    flickr = json.loads((real_data / "flickr1k" / "dataset_flickr1k.json").read_text())
    captions = [entry["caption"].replace("\n", " ") for entry in coco["annotations"]]
    assert len(captions) == 25_014
    captions += [sentence["raw"].replace("\n", " ") for i in flickr["images"] for sentence in i["sentences"]]
    assert tokenize(captions) == java_tokens(captions, tmp_path)
