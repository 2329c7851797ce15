"""Document frequencies of self-critical training: read or counted, and checked before anything is trained.

Where the table comes from is the most common trouble with self-critical training, so that by default it is
counted from the training captions themselves, once a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from prunelab.caption.frequency import END, DocumentFrequency
from prunelab.caption.reward import CaptionReward
from prunelab.errors import UserError
from smp_caption.config import Config
from smp_caption.data import CaptionData
from smp_caption.tokenizer import Tokenizer

Once: TypeAlias = Callable[[str, Callable[[], Any]], Any]
"""``(key, work) -> result``: does one-off work and keeps its result, as `prunelab.run.Run.once`."""

CORPUS = "corpus"
"""Value of ``cached_tokens`` that always counts."""
ORIGINAL = Path("bu", "coco-train-words")
"""Where a data set that the preparation programs have worked on has its table."""
ENDINGS = (".p", ".npz")
"""Of the original's tables, and of ours."""
RARE = 5
"""Words that occur no more often than this in all captions are unknown ones to the original's table."""
CHECKED = 1000
"""Training pictures whose captions are looked at before training."""
ADVICE = (
    "scst_start_epoch 0 without start_from: this network has never learnt from captions by cross entropy, "
    "and what it writes at random earns nothing to learn from; better start from a trained one"
)


def open_frequencies(cfg: Config, data: CaptionData, once: Once) -> tuple[DocumentFrequency, Path | None]:
    """The table of ``cached_tokens``, or one counted from the training captions.

    Without a name, the table that the original's preparation left with the data set is read where
    ``frequencies_with_end`` asks for its numbers.

    Args:
        cfg: the run's configuration.
        data: whose training captions are counted.
        once: keeps the counts.

    Returns:
        The table, and its file if it was read.

    Raises:
        UserError: there is no such file, or it is no table.
    """
    path = find_table(cfg, data)
    if path is not None:
        return DocumentFrequency.load(path), path
    made = once("document frequencies", lambda: count_frequencies(cfg, data).to_plain())
    return DocumentFrequency.from_plain(made), None


def find_table(cfg: Config, data: CaptionData) -> Path | None:
    """The file of the table; None where it is to be counted.

    A name is a file with or without its ending; relative to the working directory, to the folder ``data`` in
    it (where the original looks), or to the data set's folder, where the last part of an absolute name is
    looked for as well.

    Raises:
        UserError: there is no such file.
    """
    name, folder = cfg.data.cached_tokens, Path(data.sources.places["dataset_dir"])
    if name == CORPUS or (name is None and not cfg.quirks.frequencies_with_end):
        return None
    if name is None:
        tried = [folder / ORIGINAL]
    else:
        given = Path(name).expanduser()
        tried = [given, "data" / given, folder / given, (folder / ORIGINAL).with_name(given.name)]
    found = (Path(f"{path}{ending}") for path in tried for ending in ("", *ENDINGS))
    path = next((path for path in found if path.is_file()), None)
    if path is not None or name is None:
        return path
    raise UserError(
        f"cached_tokens {name}: no such file, here, in the folder data or in {folder}; expected a table of "
        f"document frequencies (.p or .npz), or {CORPUS!r} to count the training captions"
    )


def count_frequencies(cfg: Config, data: CaptionData) -> DocumentFrequency:
    """Count over the training captions.

    With ``frequencies_with_end`` as the original's preparation does: each caption ends with a word
    ``<eos>``, and rare words are one word ``UNK``. Else words are counted as references and samples have
    them, with the end where it counts in the reward.
    """
    captions = [[text.split() for text in record.references] for record in data.records["train"]]
    if not cfg.quirks.frequencies_with_end:
        return DocumentFrequency.from_captions(captions, end=END if cfg.scst.scst_end_in_reward else None)
    every = [text for records in data.records.values() for record in records for text in record.references]
    counts = Counter(word for text in every for word in text.split())
    return DocumentFrequency.from_captions(captions, known={w for w, n in counts.items() if n > RARE})


def check_table(
    reward: CaptionReward,
    references: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    *,
    path: Path | None,
    end: str | None,
) -> str:
    """Before training: captions that are known to be right must earn something.

    Args:
        reward: with the table.
        references: captions of training pictures, with the end where it counts.
        tokenizer: makes words of what a network writes.
        path: where the table was read; None if it was counted from these captions.
        end: the word for the end, if it counts.

    Returns:
        A line that says what they earn.

    Raises:
        UserError: the table knows other words than these captions hold, or none of them, or none as the
            tokenizer writes them, earns anything.
    """
    some = references[:CHECKED]
    source = "the counted document frequencies" if path is None else str(path)
    if path is not None:
        _check_words(set(reward.frequency.vocabulary.words()), some, path, end)
    weighed = reward.cook(some)
    earned = reward.of_references(weighed)
    if not (earned > 0).any():
        raise UserError(
            f"{source}: the reward of every reference of {len(some)} training pictures is 0, expected "
            "captions that differ from picture to picture and a table that knows their words"
        )
    ending = "" if end is None else f" {end}"
    first = [captions[0].removesuffix(ending) for captions in some]
    written = [[tokenizer.decode(tokenizer.encode(text, max_seq_length=0)) + ending] for text in first]
    if not (reward.score(written, weighed) > 0).any():
        raise UserError(
            f"{tokenizer.model_file}: the captions of {len(some)} training pictures, put into its tokens and "
            "back, earn no reward, expected a tokenizer of these captions' language"
        )
    return f"rewards: a training caption earns {earned.mean():.3f} beside its picture's others"


def _check_words(known: set[str], references: Sequence[Sequence[str]], path: Path, end: str | None) -> None:
    if end is not None and end not in known:
        raise UserError(f"{path}: has no {end!r}, expected one where scst_end_in_reward counts ends")
    words = [word for captions in references for text in captions for word in text.split()]
    found = sum(word in known for word in words)
    if 2 * found < len(words):
        raise UserError(
            f"{path}: knows {found} of {len(words)} words in the captions of {len(references)} training "
            "pictures, expected most of them: table and vocabulary do not match (cached_tokens "
            f"{CORPUS} counts these captions instead)"
        )
