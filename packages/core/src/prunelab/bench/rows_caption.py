"""Rows of the caption metrics: the reward of self-critical training, an evaluation, the tokeniser.

Captions are COCO's where ``PRUNELAB_DATA`` has ``coco_text``, else made up with the same lengths and a word
frequency that falls with the rank. The reference is `prunelab.bench.reference_caption`; the tokeniser's is
the Java program, the evaluation's second column pycocoevalcap.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from prunelab.bench import reference_caption as reference
from prunelab.bench.compare import Figure, Result, Row, Skip, compare
from prunelab.caption.bleu import bleu
from prunelab.caption.cider import cider
from prunelab.caption.cider_d import CiderD
from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.java import Unavailable, find_folder, find_java
from prunelab.caption.references import cook
from prunelab.caption.rouge import rouge_l
from prunelab.caption.tokenizer import PUNCTUATION, tokenize
from prunelab.caption.words import encode_tokens
from prunelab.errors import UserError

IMAGES = 5000
REFERENCES = 5
REWARDED, SAMPLES = 600, 5  # pictures and samples of one call of the reward: the reference takes seconds


@cache
def _captions() -> tuple[list[list[str]], str]:
    """Six captions as written for each of 5,000 images, and where they come from."""
    folder = os.environ.get("PRUNELAB_DATA")
    path = Path(folder) / "coco_text" / "captions_val2017.json" if folder else None
    if path is not None and path.is_file():
        by_image: dict[int, list[str]] = {}
        for entry in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
            by_image.setdefault(entry["image_id"], []).append(entry["caption"])
        images = [captions[:REFERENCES] for captions in by_image.values()]
        # The sixth, which is scored, is another image's: models repeat captions of the training set.
        return [[*refs, images[i - 7][0]] for i, refs in enumerate(images)], "COCO val2017 captions"
    rng = np.random.default_rng(8888)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(8000)]
    chances = 1.0 / np.arange(5, 5 + len(words))
    lengths = rng.integers(8, 15, (IMAGES, REFERENCES + 1))
    drawn = iter(rng.choice(len(words), lengths.sum(), p=chances / chances.sum()).tolist())
    return [
        [" ".join(words[next(drawn)] for _ in range(length)) + "." for length in row]
        for row in lengths.tolist()
    ], "generated captions"


@cache
def _tokenized() -> tuple[list[list[str]], list[str]]:
    """Five references and one candidate for each image."""
    images, _ = _captions()
    flat = tokenize([caption for image in images for caption in image])
    step = REFERENCES + 1
    rows = [flat[i : i + step] for i in range(0, len(flat), step)]
    return [row[:REFERENCES] for row in rows], [row[REFERENCES] for row in rows]


def _close(ours: object, theirs: object) -> bool:
    return bool(np.allclose(np.asarray(ours), np.asarray(theirs), rtol=0.0, atol=1e-9))


def _note(work: str) -> str:
    return f"{work}, {REFERENCES} references an image, {_captions()[1]}, two threads"


def rewards() -> list[Result]:
    """CIDEr-D against cooked references, from strings and from a model's token ids."""
    references, candidates = _tokenized()
    frequency = DocumentFrequency.from_references(cook(references))
    scorer = CiderD(frequency)
    cooked = scorer.cook(references)
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(REWARDED), SAMPLES)
    # What a model samples is near the references: some of them, some captions of other images.
    pool = [[*references[image], candidates[image]] for image in range(REWARDED)]
    sampled = [pool[image][rng.integers(REFERENCES + 1)] for image in images]
    words = ["", *dict.fromkeys(word for caption in sampled for word in caption.split())]
    table = frequency.vocabulary.table(words)
    ids = {word: number for number, word in enumerate(words)}
    rows = [[ids[word] for word in caption.split()] for caption in sampled]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, caption in zip(tokens, rows, strict=True):
        row[: len(caption)] = caption
    plain = reference.document_frequency(references)

    def plain_scores(captions: list[str]) -> list[float]:
        return [
            reference.cider_d(caption, references[image], plain, len(references))
            for caption, image in zip(captions, images.tolist(), strict=True)
        ]

    def plain_from_ids() -> list[float]:
        return plain_scores([" ".join(words[i] for i in row if i) for row in tokens.tolist()])

    note = _note(f"{REWARDED} images x {SAMPLES} samples a call")
    return [
        compare(
            "CIDEr-D reward, strings",
            lambda: scorer.score(cooked, sampled, images),
            lambda: plain_scores(sampled),
            _close,
            least_seconds=0.0,
            warmup=3,
            work=len(sampled),
            unit="captions",
            goal_rate=150_000,
            note=note,
        ),
        compare(
            "CIDEr-D reward, token ids",
            lambda: scorer.score(cooked, encode_tokens(tokens, table), images),
            plain_from_ids,
            _close,
            least_seconds=0.0,
            warmup=3,
            work=len(sampled),
            unit="captions",
            goal_rate=250_000,
            note=note,
        ),
    ]


Table = tuple[list[float], list[float], list[float]]


def evaluation() -> Row:
    """BLEU, ROUGE-L and CIDEr of 5,000 images, references cooked within the time."""
    references, candidates = _tokenized()

    def ours() -> Table:
        cooked = cook(references)
        encoded = cooked.encode(candidates)
        return (
            bleu(cooked, encoded).corpus.tolist(),
            rouge_l(cooked, candidates).tolist(),
            cider(cooked, encoded).tolist(),
        )

    def plain() -> Table:
        corpus, _ = reference.bleu(references, candidates)
        return corpus, reference.rouge_l(references, candidates), reference.cider(references, candidates)

    def package() -> Table:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        gts = dict(enumerate(references))
        res = {number: [caption] for number, caption in enumerate(candidates)}
        corpus, _ = Bleu(4).compute_score(gts, res, verbose=0)
        return (
            corpus,
            Rouge().compute_score(gts, res)[1].tolist(),
            Cider().compute_score(gts, res)[1].tolist(),
        )

    def check(ours: Table, theirs: Table) -> bool:
        return all(_close(a, b) for a, b in zip(ours, theirs, strict=True))

    return compare(
        "BLEU + ROUGE-L + CIDEr",
        ours,
        plain,
        check,
        extra={"pycocoevalcap": package},
        least_seconds=0.0,
        work=len(candidates),
        unit="images",
        goal_seconds=0.5,
        note=_note(f"{len(candidates):,} images, after tokenisation, compile time apart"),
    )


def tokeniser() -> Row:
    """Every caption cut into tokens, by us and by the Java program (its start included)."""
    images, source = _captions()
    captions = [caption.replace("\n", " ") for image in images for caption in image[:REFERENCES]]
    try:
        java, folder = find_java("the tokeniser's reference"), find_folder("the tokeniser", "tokenizer")
    except Unavailable as error:
        raise Skip(str(error)) from error
    command = [
        java,
        "-cp",
        str(folder / "stanford-corenlp-3.4.1.jar"),
        "edu.stanford.nlp.process.PTBTokenizer",
    ]

    def theirs() -> list[str]:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write("\n".join(captions))
            file.flush()
            done = subprocess.run(
                [*command, "-preserveLines", "-lowerCase", file.name],
                capture_output=True,
                check=True,
                timeout=300,
            )
        lines = done.stdout.decode().split("\n")[: len(captions)]
        return [" ".join(w for w in line.rstrip().split(" ") if w not in PUNCTUATION) for line in lines]

    return compare(
        "PTB tokeniser",
        lambda: tokenize(captions),
        theirs,
        lambda ours, others: ours == others,
        work=len(captions),
        unit="captions",
        note=f"{len(captions):,} {source}; reference: the Java program, its start included",
    )


def compiling() -> list[Result]:
    """Seconds from the first import to the first scores, with and without compiled loops on disk."""
    code = (
        "from prunelab.caption.evaluate import evaluate; "
        "evaluate({1: ['a b c d', 'b c'], 2: ['c']}, {1: 'a b', 2: 'c'}, tokenize=False)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=300)
            seconds.append(time.perf_counter() - start)
            if done.returncode:
                raise UserError("the caption metrics cannot be run in a process of their own")
    note = "a new process: imports, compilation, first scores of BLEU, ROUGE-L and CIDEr"
    return [
        Figure(name="caption metrics, first use ever", ours=seconds[0], unit="s", note=note),
        Figure(name="caption metrics, first use in a process", ours=seconds[1], unit="s", note=note),
    ]


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "caption-reward": rewards,
    "caption-evaluation": evaluation,
    "caption-tokeniser": tokeniser,
    "caption-compile": compiling,
}
