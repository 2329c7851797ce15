"""Caption metrics written in the plainest Python: dictionaries of word tuples, one caption at a time.

This is the way in which the captioning code bases of the papers score: every call counts the n-grams of
every reference again. It is the reference side of the benchmark rows and an oracle in tests, and it is meant
to be read, not to be fast. Formulas: BLEU (Papineni et al., 2002) with the closest reference length, ROUGE-L
(Lin and Hovy, 2004) with beta 1.2, CIDEr-D (Vedantam et al., 2015) with sigma 6 and the length taken as the
number of bigrams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

NGram = tuple[str, ...]
ORDERS = 4
SIGMA = 6.0
BETA = 1.2


def ngrams(caption: str) -> list[Counter[NGram]]:
    """Count the n-grams of a caption: one counter for each n = 1..4."""
    words = caption.split()
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, ORDERS + 1)]


def document_frequency(references: Sequence[Sequence[str]]) -> Counter[NGram]:
    """Count in how many images each n-gram occurs, in any of the image's references."""
    frequency: Counter[NGram] = Counter()
    for image in references:
        frequency.update({gram for caption in image for counts in ngrams(caption) for gram in counts})
    return frequency


def _weigh(
    caption: str, frequency: Mapping[NGram, float], log_images: float
) -> tuple[list[dict[NGram, float]], list[float], int]:
    """Return the tf-idf vector, its norm for each n, and the number of bigrams."""
    counted = ngrams(caption)
    vectors = [
        {
            gram: tf * (log_images - math.log(max(1.0, frequency.get(gram, 0.0))))
            for gram, tf in counts.items()
        }
        for counts in counted
    ]
    norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in vectors]
    return vectors, norms, sum(counted[1].values())


def cider_d(
    candidate: str, references: Sequence[str], frequency: Mapping[NGram, float], images: float
) -> float:
    """Score one caption against its image's references, which are weighed again in each call."""
    log_images = math.log(images)
    vectors, norms, length = _weigh(candidate, frequency, log_images)
    total = 0.0
    for reference in references:
        ref_vectors, ref_norms, ref_length = _weigh(reference, frequency, log_images)
        penalty = math.exp(-((length - ref_length) ** 2) / (2 * SIGMA**2))
        for n in range(ORDERS):
            shared = sum(
                min(weight, ref_vectors[n][gram]) * ref_vectors[n][gram]
                for gram, weight in vectors[n].items()
                if gram in ref_vectors[n]
            )
            if norms[n] != 0 and ref_norms[n] != 0:
                shared /= norms[n] * ref_norms[n]
            total += shared * penalty
    return 10.0 * total / ORDERS / len(references)


def cider(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """Score one caption an image, with the document frequencies of these very references."""
    frequency = document_frequency(references)
    return [
        cider_d(caption, refs, frequency, len(references))
        for caption, refs in zip(candidates, references, strict=True)
    ]


def _bleu_from_counts(
    matches: Sequence[int], guesses: Sequence[int], length: int, reference_length: int
) -> list[float]:
    """Turn counts into BLEU-1..4; the tiny terms keep every quotient finite."""
    product, scores = 1.0, []
    for n in range(ORDERS):
        product *= (matches[n] + 1e-15) / (guesses[n] + 1e-9)
        scores.append(product ** (1.0 / (n + 1)))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    return [score * math.exp(1 - 1 / ratio) for score in scores] if ratio < 1 else scores


def bleu(
    references: Sequence[Sequence[str]], candidates: Sequence[str]
) -> tuple[list[float], list[list[float]]]:
    """Return BLEU-1..4 of the corpus, and BLEU-1..4 of each caption."""
    totals = ([0] * ORDERS, [0] * ORDERS)
    lengths = [0, 0]
    each = []
    for caption, refs in zip(candidates, references, strict=True):
        ceilings: Counter[NGram] = Counter()
        for reference in refs:
            for counts in ngrams(reference):
                ceilings |= counts
        length = len(caption.split())
        closest = min((abs(len(ref.split()) - length), len(ref.split())) for ref in refs)[1]
        matches = [sum(min(tf, ceilings[gram]) for gram, tf in counts.items()) for counts in ngrams(caption)]
        guesses = [max(0, length - n) for n in range(ORDERS)]
        each.append(_bleu_from_counts(matches, guesses, length, closest))
        for n in range(ORDERS):
            totals[0][n] += matches[n]
            totals[1][n] += guesses[n]
        lengths[0] += length
        lengths[1] += closest
    return _bleu_from_counts(*totals, *lengths), each


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        previous = 0
        for j, other in enumerate(second, start=1):
            previous, row[j] = row[j], previous + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """Score one caption an image: F-measure of the best precision and the best recall over the references."""
    scores = []
    for caption, refs in zip(candidates, references, strict=True):
        words = caption.split(" ")
        common = [(_common_subsequence(words, ref.split(" ")), len(ref.split(" "))) for ref in refs]
        precision = max(lcs / len(words) for lcs, _ in common)
        recall = max(lcs / length for lcs, length in common)
        scores.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if recall else 0.0)
    return scores
