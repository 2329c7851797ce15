"""BLEU, ROUGE-L and CIDEr: hand-computed values, recorded values, pycocoevalcap as oracle, properties."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelab.bench import reference_caption as plain
from prunelab.caption.bleu import bleu
from prunelab.caption.cider import cider
from prunelab.caption.references import cook
from prunelab.caption.rouge import rouge_l
from prunelab.caption.tokenizer import tokenize
from prunelab.errors import UserError

FIXTURES = Path(__file__).parent.parent / "fixtures" / "caption"
WORDS = ["a", "b", "c", "d", "e", "f", "g", "the", "of", "zebra"]
captions = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
full_captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


def package_scores(references, candidates):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = dict(enumerate(references)), {i: [caption] for i, caption in enumerate(candidates)}
    corpus, each = Bleu(4).compute_score(gts, res, verbose=0)
    return corpus, np.array(each).T, Rouge().compute_score(gts, res)[1], Cider().compute_score(gts, res)[1]


def assert_equal_to_package(references, candidates, tolerance=1e-9):
    cooked = cook(references)
    corpus, each, rouge, rare = package_scores(references, candidates)
    ours = bleu(cooked, candidates)
    np.testing.assert_allclose(ours.corpus, corpus, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.each, each, rtol=0, atol=tolerance)
    np.testing.assert_allclose(rouge_l(cooked, candidates), rouge, rtol=0, atol=tolerance)
    np.testing.assert_allclose(cider(cooked, candidates), rare, rtol=0, atol=tolerance)


def random_case(rng, images, vocabulary=WORDS):
    def caption(low=1):
        return " ".join(rng.choices(vocabulary, k=rng.randint(low, 14)))

    references = [[caption() for _ in range(rng.randint(1, 6))] for _ in range(images)]
    return references, [caption(0) if rng.random() < 0.6 else rng.choice(refs) for refs in references]


def test_bleu_of_a_hand_computed_pair():
    # 4 words, 3 known ("the" twice, clipped at 2); bigrams: "the cat" of 3; no trigram; reference of 5 words
    score = bleu(cook([["the cat and the dog"]]), ["the cat runs the"]).each[0]
    penalty = math.exp(1 - 5 / 4)
    assert score[0] == pytest.approx(penalty * 3 / 4, abs=1e-8)
    assert score[1] == pytest.approx(penalty * math.sqrt(3 / 4 * 1 / 3), abs=1e-8)
    assert 0 < score[2] < 1e-4


def test_the_closest_reference_length_is_the_shorter_of_two_equally_close():
    score = bleu(cook([["a b c d e", "a b c"]]), ["a b c d"]).each[0]
    assert score[0] == pytest.approx(1.0, abs=1e-8)
    longer = bleu(cook([["a b c d e"]]), ["a b c d"]).each[0]
    assert longer[0] == pytest.approx(math.exp(1 - 5 / 4), abs=1e-8)


def test_rouge_takes_the_best_precision_and_the_best_recall():
    # lcs 2 of 3 words with the first (recall 2/4), lcs 1 with the second (recall 1/1)
    score = rouge_l(cook([["a x b y", "b"]]), ["a b c"])[0]
    precision, recall = 2 / 3, 1.0
    assert score == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))


def test_cider_of_a_single_image_is_zero_because_nothing_is_rare():
    assert cider(cook([["a b", "b c"]]), ["a b"]).tolist() == [0.0]


def test_recorded_scores_of_the_original_evaluation():
    recorded = json.loads((FIXTURES / "metrics.json").read_text())
    ids = [str(image) for image in recorded["order"]]
    cooked = cook([recorded["gts"][i] for i in ids])
    candidates = [recorded["res"][i][0] for i in ids]
    tolerance = recorded["setup"]["tolerance"]
    scores = bleu(cooked, candidates)
    np.testing.assert_allclose(scores.corpus, recorded["bleu"], rtol=0, atol=tolerance["bleu"])
    np.testing.assert_allclose(scores.each.T, recorded["bleu_per_image"], rtol=0, atol=tolerance["bleu"])
    rouge, rare = rouge_l(cooked, candidates), cider(cooked, candidates)
    np.testing.assert_allclose(rouge, recorded["rouge_per_image"], rtol=0, atol=tolerance["rouge"])
    np.testing.assert_allclose(rare, recorded["cider_per_image"], rtol=0, atol=tolerance["cider"])
    assert rouge.mean() == pytest.approx(recorded["rouge"], abs=tolerance["rouge"])
    assert rare.mean() == pytest.approx(recorded["cider"], abs=tolerance["cider"])


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(6))
def test_random_captions_score_as_in_pycocoevalcap(seed):
    rng = random.Random(seed)
    many = [f"w{i}" for i in range(300)]
    assert_equal_to_package(*random_case(rng, rng.randint(2, 60), WORDS if seed % 2 else many))


@pytest.mark.oracle
def test_odd_white_space_counts_as_in_pycocoevalcap():
    # ROUGE-L splits at single blanks, the others at any white space
    references = [["3\u00a01/2 cups  of", "a\tb"], ["", "a b"], [" a b ", "c"], ["x y z w v"]]
    assert_equal_to_package(references, ["3 1/2 cups of", "", " a b", "x  y z\u00a0w v"])


@pytest.mark.oracle
def test_long_captions_and_many_repeats_count_as_in_pycocoevalcap():
    rng = random.Random(5)
    references = [[" ".join(rng.choices("ab", k=rng.randint(1, 90))) for _ in range(3)] for _ in range(8)]
    candidates = [" ".join(rng.choices("abc", k=rng.randint(0, 120))) for _ in range(8)]
    assert_equal_to_package(references, candidates)


@given(st.lists(st.tuples(captions, st.lists(full_captions, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_the_compiled_scores_are_those_of_plain_python(pairs):
    candidates, references = [caption for caption, _ in pairs], [refs for _, refs in pairs]
    cooked = cook(references)
    corpus, each = plain.bleu(references, candidates)
    ours = bleu(cooked, candidates)
    np.testing.assert_allclose(ours.corpus, corpus, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.each, each, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rouge_l(cooked, candidates), plain.rouge_l(references, candidates), atol=1e-12)
    np.testing.assert_allclose(cider(cooked, candidates), plain.cider(references, candidates), atol=1e-9)


@given(full_captions, st.lists(full_captions, max_size=3))
def test_a_caption_that_is_one_of_its_references_scores_one(caption, others):
    cooked = cook([[*others, caption]])
    assert rouge_l(cooked, [caption])[0] == pytest.approx(1.0)
    scores = bleu(cooked, [caption]).each[0]
    orders = min(4, len(caption.split()))
    np.testing.assert_allclose(scores[:orders], 1.0, atol=1e-7)


@given(st.lists(captions, min_size=1, max_size=5), st.lists(full_captions, min_size=1, max_size=4))
def test_scores_are_in_their_ranges_and_ignore_the_order_of_references(candidates, refs):
    cooked = cook([refs, ["some other image"]])
    turned = cook([refs[::-1], ["some other image"]])
    images = np.zeros(len(candidates), np.int64)
    for scorer, top in ((lambda *a: bleu(*a).each, 1), (rouge_l, 1), (cider, 10)):
        scores = scorer(cooked, candidates, images)
        assert (scores >= 0).all()
        assert (scores <= top + 1e-9).all()
        np.testing.assert_allclose(scorer(turned, candidates, images), scores, atol=1e-12)


def test_two_threads_give_the_bits_of_one():
    rng = random.Random(3)
    references, candidates = random_case(rng, 5000, [f"w{i}" for i in range(500)])
    one, two = cook(references, threads=1), cook(references, threads=2)
    assert np.array_equal(one.rows, two.rows)
    assert np.array_equal(one.counts, two.counts)
    assert np.array_equal(bleu(one, candidates, threads=1).each, bleu(two, candidates, threads=2).each)
    for scorer in (rouge_l, cider):
        assert np.array_equal(scorer(one, candidates, threads=1), scorer(two, candidates, threads=2))


def test_several_captions_an_image_are_matched_in_order_or_by_index():
    cooked = cook([["a b"], ["c d"]])
    candidates = ["a b", "x", "c d", "a b"]
    in_order = rouge_l(cooked, candidates)
    assert in_order.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert rouge_l(cooked, candidates, [0, 1, 1, 0]).tolist() == [1.0, 0.0, 1.0, 1.0]


def test_no_captions_give_no_scores():
    cooked = cook([["a b"]])
    assert bleu(cooked, [], []).each.shape == (0, 4)
    assert rouge_l(cooked, [], []).shape == (0,)


@pytest.mark.parametrize(
    ("count", "images", "text"),
    [
        (3, None, "3 captions for 2 images"),
        (2, [0], r"shape \(1,\); expected \(2,\)"),
        (2, [0, 2], "from 0 to 2; expected 0 to 1"),
        (2, [-1, 0], "from -1 to 0"),
    ],
)
def test_numbers_that_do_not_fit_are_one_line(count, images, text):
    with pytest.raises(UserError, match=text):
        rouge_l(cook([["a"], ["b"]]), ["a"] * count, images)


def test_an_image_without_references_is_one_line():
    with pytest.raises(UserError, match="image 1 has no references"):
        cook([["a"], []])


def leave_one_out(real_data, position):
    annotations = json.loads((real_data / "coco_text" / "captions_val2017.json").read_text())["annotations"]
    assert len(annotations) == 25_014
    found = iter(tokenize([entry["caption"] for entry in annotations]))
    by_image = {}
    for entry in annotations:
        by_image.setdefault(entry["image_id"], []).append(next(found))
    images = [image for image in by_image.values() if len(image) > position]
    references = [image[:position] + image[position + 1 :] for image in images]
    return references, [image[position] for image in images]


@pytest.mark.oracle
@pytest.mark.data
def test_first_captions_of_coco_score_as_in_pycocoevalcap(real_data):
    references, candidates = leave_one_out(real_data, 0)
    assert_equal_to_package(references, candidates)


@pytest.mark.oracle
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("position", range(1, 7))  # no image has more than seven captions
def test_every_caption_of_coco_scores_as_in_pycocoevalcap(real_data, position):
    references, candidates = leave_one_out(real_data, position)
    assert candidates
    assert_equal_to_package(references, candidates)
