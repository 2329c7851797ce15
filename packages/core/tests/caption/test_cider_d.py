"""CIDEr-D as a reward: recorded rewards, frequency tables from every source, token ids."""

import collections
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelab.bench import reference_caption as plain
from prunelab.caption.bleu import bleu
from prunelab.caption.cider import cider
from prunelab.caption.cider_d import CiderD
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.references import cook
from prunelab.caption.words import Vocabulary, encode_tokens
from prunelab.errors import UserError

FIXTURES = Path(__file__).parent.parent / "fixtures" / "caption"
WORDS = ["a", "b", "c", "d", "e", "f"]
full_captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=10).map(" ".join)


@pytest.fixture(scope="module")
def table():
    return DocumentFrequency.load(FIXTURES / "coco-train-words.p")


def test_rewards_of_the_original_scorer(table):
    recorded = json.loads((FIXTURES / "scorer.json").read_text())
    scorer = CiderD(table)
    references = scorer.cook(recorded["refs"])
    sampled = [caption for image in recorded["sample"] for caption in image]
    baseline = [caption for image in recorded["baseline"] for caption in image]
    checked = 0
    for case in recorded["cases"]:
        weights = np.array(case["bleu_weight"] or [0, 0, 0, 0])

        def reward(candidates, case=case, weights=weights):
            rare = case["cider_weight"] * scorer.score(references, candidates)
            return rare + bleu(references.cooked, candidates).each @ weights

        ours = reward(sampled)
        np.testing.assert_allclose(ours, case["sample_scores"], rtol=0, atol=1e-9)
        by_image = ours.reshape(len(recorded["refs"]), -1)
        others = (by_image.sum(1, keepdims=True) - by_image) / (by_image.shape[1] - 1)
        expected = np.repeat(reward(baseline), by_image.shape[1]) if case["baseline"] else others.ravel()
        np.testing.assert_allclose(expected, case["baseline_scores"], rtol=0, atol=1e-9)
        checked += 1
    assert checked == len(recorded["cases"]) > 0


def test_rewards_with_an_end_marker_in_captions_and_corpus():
    recorded = json.loads((FIXTURES / "reward_eos.json").read_text())
    corpus = json.loads((FIXTURES / "reward_eos_references.json").read_text())
    scorer = CiderD(DocumentFrequency.from_references(cook(corpus)))
    references = scorer.cook([corpus[image] for image in recorded["image_indices"]])
    candidates = [" ".join(words[1:]) for image in recorded["hypotheses"] for words in image]
    scores = scorer.score(references, candidates)
    np.testing.assert_allclose(scores, np.ravel(recorded["reward"]), rtol=1e-9, atol=1e-12)
    assert scorer.frequency.idf_absent == pytest.approx(recorded["log_num_images"], abs=1e-12)
    counts = scorer.frequency.counts()
    for gram, frequency in recorded["df_samples"].items():
        assert counts.get(tuple(gram.split()), 0.0) == frequency


def test_frequencies_from_training_captions_are_those_of_the_original_script(table):
    data = json.loads((FIXTURES / "dataset_coco_testing.json").read_text())
    known = json.loads((FIXTURES / "cocotalk.json").read_text())["ix_to_word"].values()
    train = [
        [sentence["tokens"] for sentence in image["sentences"]]
        for image in data["images"]
        if image["split"] in ("train", "restval")
    ]
    counted = DocumentFrequency.from_captions(train, known=set(known))
    expected = json.loads((FIXTURES / "expected_df_words.json").read_text())
    found = {" ".join(gram): count for gram, count in counted.counts().items()}
    assert found == expected["document_frequency"]
    assert counted.images == expected["ref_len"] == table.images
    assert counted.counts() == table.counts()


def test_frequencies_from_captions_without_vocabulary_or_end_marker():
    counted = DocumentFrequency.from_captions([[["a", "b"], ["a"]], [["a"]]], end=None)
    assert counted.counts() == {("a",): 2.0, ("b",): 1.0, ("a", "b"): 1.0}
    assert len(counted) == 3


def test_our_own_file_brings_the_table_back(table, tmp_path):
    path = tmp_path / "frequency.npz"
    table.save(path)
    again = DocumentFrequency.load(path)
    assert again.counts() == table.counts()
    assert again.images == table.images
    references, candidates = [["a red bus is here", "the bus"]], ["a red bus", "zebra bus", ""]
    images = [0, 0, 0]
    first, second = CiderD(table), CiderD(again)
    assert np.array_equal(
        first.score(first.cook(references), candidates, images),
        second.score(second.cook(references), candidates, images),
    )


def test_a_large_table_is_complete_although_it_grew():
    rng = random.Random(1)
    grams = {tuple(rng.choices(range(400), k=rng.randint(1, 4))) for _ in range(20_000)}
    counts = {tuple(f"w{i}" for i in gram): float(rng.randint(1, 50)) for gram in grams}
    table = DocumentFrequency.from_mapping(counts, 100)
    assert table.counts() == counts
    references = [
        [" ".join(f"w{rng.randrange(400)}" for _ in range(9)) for _ in range(3)] for _ in range(900)
    ]
    assert DocumentFrequency.from_references(cook(references)).counts() == plain.document_frequency(
        references
    )


def test_scoring_does_not_grow_the_vocabulary(table):
    scorer = CiderD(table)
    references = scorer.cook([["a red bus"]])
    before = len(table.vocabulary)
    scorer.score(references, ["never seen words", "never again"], [0, 0])
    assert len(table.vocabulary) == before


@given(
    st.lists(st.lists(full_captions, min_size=1, max_size=3), min_size=2, max_size=5),
    st.lists(
        st.lists(st.sampled_from([*WORDS, "x", "y"]), max_size=10).map(" ".join), min_size=1, max_size=6
    ),
    st.randoms(use_true_random=False),
)
def test_scores_are_those_of_plain_python_under_any_table(corpus, candidates, rng):
    table = DocumentFrequency.from_references(cook(corpus))
    scorer = CiderD(table)
    references = [[*rng.sample(WORDS, 3), "x y"], [" ".join(WORDS)]]
    images = [rng.randrange(2) for _ in candidates]
    frequency = plain.document_frequency(corpus)
    expected = [
        plain.cider_d(caption, references[image], frequency, len(corpus))
        for caption, image in zip(candidates, images, strict=True)
    ]
    np.testing.assert_allclose(
        scorer.score(scorer.cook(references), candidates, images), expected, rtol=0, atol=1e-9
    )


@given(full_captions, full_captions)
def test_candidate_and_only_reference_may_change_places_where_no_count_is_clipped(first, second):
    table = DocumentFrequency.from_mapping({("a",): 2.0}, 9)
    scorer = CiderD(table)
    once = [" ".join(dict.fromkeys(caption.split())) for caption in (first, second)]
    forward = scorer.score(scorer.cook([[once[0]]]), [once[1]])
    backward = scorer.score(scorer.cook([[once[1]]]), [once[0]])
    np.testing.assert_allclose(forward, backward, atol=1e-12)
    assert scorer.score(scorer.cook([[first]]), [first])[0] <= 10 + 1e-9


def test_a_caption_equal_to_its_only_reference_scores_ten():
    scorer = CiderD(DocumentFrequency.from_mapping({("a",): 2.0}, 9))
    assert scorer.score(scorer.cook([["b c d e f"]]), ["b c d e f"])[0] == pytest.approx(10.0)


def test_the_batch_as_its_own_corpus_is_plain_cider():
    references = [["a b c", "b c"], ["c d e", "f"], ["a f"]]
    candidates = ["a b", "c d", "f a"]
    cooked = cook(references)
    scorer = CiderD(DocumentFrequency.from_references(cooked))
    assert np.array_equal(scorer.score(scorer.weigh(cooked), candidates), cider(cooked, candidates))


def test_token_ids_score_as_the_strings_that_they_stand_for(table):
    words = ["<pad>", "<unk>", "<bos>", "<eos>", "a", "red", "bus", "zebra", "is"]
    scorer = CiderD(table)
    references = scorer.cook([["a red bus is here", "a bus"], ["zebra is red"]])
    ids = table.vocabulary.table(words)
    tokens = [
        [4, 5, 6, 3, 0, 0],
        [4, 1, 4, 5, 6, 8],
        [2, 7, 8, 5, 3, 7],
        [3, 4, 4, 4, 4, 4],
        [6, 0, 6, 6, 6, 6],
    ]
    strings = ["a red bus", "a <unk> a red bus is", "zebra is red", "", "bus"]
    images = [0, 0, 1, 1, 0]
    encoded = encode_tokens(tokens, ids, eos=3, pad=0, bos=2)
    assert encoded.lengths.tolist() == [3, 6, 3, 0, 1]
    assert np.array_equal(
        scorer.score(references, encoded, images), scorer.score(references, strings, images)
    )
    assert np.array_equal(bleu(references.cooked, encoded, images).each,
                          bleu(references.cooked, strings, images).each)  # fmt: skip


def test_the_end_marker_can_count_as_a_word():
    vocabulary = Vocabulary()
    ids = vocabulary.table(["<pad>", "EOS", "a", "b"])
    kept = encode_tokens(np.array([[2, 3, 1, 0], [2, 2, 3, 3], [1, 2, 0, 0]]), ids, eos=1, keep_eos=True)
    assert kept.lengths.tolist() == [3, 4, 1]
    words = vocabulary.words()
    first = [words[i - 1] for i in kept.tokens[kept.starts[0] : kept.ends[0]]]
    assert first == ["a", "b", "EOS"]
    plain_rows = encode_tokens(np.array([[2, 3, 1, 0]]), ids, eos=1)
    assert plain_rows.lengths.tolist() == [2]


def test_token_ids_without_end_or_padding_run_to_the_end_of_the_row():
    ids = Vocabulary().table(["a", "b"])
    assert encode_tokens([[0, 1, 0]], ids, pad=None).lengths.tolist() == [3]
    assert len(encode_tokens(np.zeros((0, 4), np.int64), ids)) == 0
    assert encode_tokens(np.zeros((2, 0), np.int64), ids).lengths.tolist() == [0, 0]


def test_torch_tensors_are_taken_as_token_ids():
    import torch

    ids = Vocabulary().table(["<pad>", "a", "b"])
    assert encode_tokens(torch.tensor([[1, 2, 0]]), ids).lengths.tolist() == [2]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([[0, 5]], "token ids from 0 to 5; expected 0 to 1"),
        ([[-1, 0]], "token ids from -1 to 0"),
        ([0, 1], r"shape \(2,\)"),
        ([[0.5]], "type float64"),
    ],
)
def test_wrong_token_ids_are_one_line(tokens, text):
    with pytest.raises(UserError, match=text):
        encode_tokens(tokens, Vocabulary().table(["a", "b"]))


def test_a_caption_with_a_null_character_does_not_shift_the_others():
    vocabulary = Vocabulary()
    encoded = vocabulary.encode(["a \x00 b", "c"], grow=True)
    assert encoded.lengths.tolist() == [3, 1]


def test_references_of_another_vocabulary_are_refused(table):
    with pytest.raises(UserError, match="another vocabulary"):
        CiderD(table).weigh(cook([["a"]]))


def write_pickle(path, data):
    path.write_bytes(pickle.dumps(data))  # noqa: TID251 - the original's file format, for the reader
    return path


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([1, 2], "keys 'document_frequency' and 'ref_len'"),
        ({"document_frequency": {}, "ref_len": "x"}, "keys 'document_frequency' and 'ref_len'"),
        ({"document_frequency": {"a b": 1.0}, "ref_len": 3}, "not tuples of words"),
        ({"document_frequency": {("a",) * 5: 1.0}, "ref_len": 3}, "n-grams of 5 to 5 words"),
        ({"document_frequency": {("a",): 1.0}, "ref_len": 0}, "over 0 images"),
        (collections.Counter("ab"), "Counter"),
    ],
)
def test_pickles_of_another_content_are_one_line(tmp_path, data, text):
    with pytest.raises(UserError, match=text):
        DocumentFrequency.load(write_pickle(tmp_path / "df.p", data))


def test_missing_and_damaged_tables_are_one_line(table, tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: cannot be read"):
        DocumentFrequency.load(tmp_path / "none.npz")
    path = tmp_path / "df.npz"
    table.save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"df\.npz: not a readable document frequency table"):
        DocumentFrequency.load(path)
    np.savez(tmp_path / "other.npz", format=np.array("something"))
    with pytest.raises(UserError, match="format is something"):
        DocumentFrequency.load(tmp_path / "other.npz")
