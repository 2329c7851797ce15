"""Rows of training: a self-critical step and a cross-entropy step, beside the original's way."""

# B pictures, K samples, N = B * K, S visual tokens, L words

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from expansionnet.benches.step_reference import PlainRAdam, scst_loss_plain, xe_loss_plain
from expansionnet.config import Config, ModelConfig, OptimConfig, ScstConfig
from expansionnet.learning.reward import END, Reward
from expansionnet.learning.schedules import make_schedule
from expansionnet.model import ExpansionNet, build
from expansionnet.steps import Updates, make_optimizer, scst_step, xe_step
from expansionnet.words.text import reward_words
from expansionnet.words.vocabulary import EOS, PAD, SOS, UNK, Vocabulary
from prunelab.bench import Figure, Result, Row, compare
from prunelab.bench.memory import peak_above, peak_figure
from prunelab.bench.reference_caption import document_frequency

RATES = ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other")
CLOSE = 2e-3
"""Most difference of a gradient to the reference's, over its norm."""
LOSS_CLOSE = 1e-4
ALIKE = 0.05
"""Most difference of a loss to the reference's with other dropout, over it."""
MEMORY_GOAL = 0.6
"""Most of our peak memory over the reference's."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a step trains, and on what."""

    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(is_end_to_end=False, vocab_size=10_000, max_seq_len=74)
    )
    pictures: int = 16
    tokens: int = 144
    words: int = 15
    """Words L that are predicted of the longest caption."""
    samples: int = 5
    dropout: float = 0.0
    corpus: int = 1000
    """Training pictures that the document frequencies come from."""
    num_accum: int = 1
    """Steps whose gradients are summed for an update."""

    def config(self) -> Config:
        """A run's configuration."""
        return Config(
            model=replace(self.model, **dict.fromkeys(RATES, self.dropout)),
            optim=OptimConfig(optim_type="radam", num_accum=self.num_accum),
            scst=ScstConfig(reinforce=True, scst_max_len=self.words, num_samples=self.samples),
        )

    def describe(self) -> str:
        """The setting in words."""
        model, threads = self.model, torch.get_num_threads()
        return (
            f"{self.tokens} visual tokens, D {model.model_dim}, {model.N_enc} + {model.N_dec} layers, "
            f"V {model.vocab_size:,}, dropout {self.dropout:g}, optimiser too, float32, {threads} threads"
        )


SCST = Size(pictures=3, words=20)
"""Without dropout, where both ways have the same loss."""
XE = Size(dropout=0.3)
"""The second phase of the paper's recipe."""

Done: TypeAlias = tuple[float, list[Tensor]]
"""The loss and all parameters' first moments, which are a tenth of the gradients after one step."""
Step: TypeAlias = Callable[[], Done]


def network(size: Size) -> tuple[ExpansionNet, Tensor]:
    """A captioner and features (B, S, F), the same for every call."""
    torch.manual_seed(0)
    cfg = size.config().model
    return build(cfg).train(), torch.randn(size.pictures, size.tokens, cfg.img_feature_dim)


def words_of(size: Size) -> Vocabulary:
    """As many words as the model has."""
    names = [f"w{number:05d}" for number in range(size.model.vocab_size - 4)]
    return Vocabulary(words=tuple(sorted([*names, PAD, SOS, EOS, UNK])))


def captions(size: Size, vocabulary: Vocabulary) -> list[list[str]]:
    """Five captions of each training picture; few words are frequent, as in language."""
    generator = torch.Generator().manual_seed(1)
    plain = [word for word in vocabulary.words if word.startswith("w")]
    weights = 1 / torch.arange(1, len(plain) + 1)
    drawn = torch.multinomial(weights, size.corpus * 5 * 10, replacement=True, generator=generator)
    rows = [" ".join(plain[place] for place in row) for row in drawn.view(-1, 10).tolist()]
    return [rows[start : start + 5] for start in range(0, len(rows), 5)]


class OurSide:
    """Our network and optimiser."""

    def __init__(self, size: Size) -> None:
        self.model, self.x = network(size)
        self.cfg, self.steps = size.config(), 0
        self.optimizer = make_optimizer(self.model, self.cfg.optim)
        schedule = make_schedule(self.optimizer, self.cfg.optim, 1000)
        self.updates = Updates(self.optimizer, schedule, self.cfg, total=0)

    def update(self, loss: Tensor) -> Done:
        """Backward pass and, where it is time, the optimiser."""
        self.updates.backward(loss, self.steps)
        self.steps += 1
        states = (self.optimizer.state[param] for param in self.model.parameters())
        return float(loss.detach()), [state["exp_avg"] for state in states if state]


class PlainSide:
    """The reference's."""

    def __init__(self, size: Size) -> None:
        self.model, self.x = network(size)
        self.num_accum, self.steps = size.num_accum, 0
        self.optimizer = PlainRAdam(self.model.parameters(), size.config().optim.lr)

    def update(self, loss: Tensor) -> Done:
        """Backward pass and, where it is time, the optimiser."""
        loss.backward()
        self.steps += 1
        if self.steps % self.num_accum == 0:
            self.optimizer.step()
        return float(loss.detach()), [first for first, _ in self.optimizer.moments]


def same(found: Done, expected: Done) -> bool:
    """Equal losses and gradients, but for the order of sums."""
    if abs(found[0] - expected[0]) > LOSS_CLOSE * max(1.0, abs(expected[0])):
        return False
    largest = max(float(gradient.norm()) for gradient in expected[1])
    pairs = zip(found[1], expected[1], strict=True)
    # Gradients that are zero but for rounding (of the attention's key biases) have no size of their own.
    return all(float((a - b).norm()) <= CLOSE * max(float(b.norm()), 1e-3 * largest) for a, b in pairs)


def alike(found: Done, expected: Done) -> bool:
    """Losses of different dropout: nearly the same, as so many words are summed."""
    return abs(found[0] - expected[0]) <= ALIKE * abs(expected[0])


# --- cross entropy ---


def sentences(size: Size, vocabulary: Vocabulary) -> Tensor:
    """Captions (B, L + 1) from start to end and padding, of several lengths."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(len(vocabulary), (size.pictures, size.words + 1), generator=generator)
    for row, caption in enumerate(tokens):
        length = size.words + 1 - row % min(6, size.words - 1)
        caption[length - 1], caption[length:] = vocabulary.eos, vocabulary.pad
    tokens[:, 0] = vocabulary.sos
    return tokens


def our_xe(side: OurSide, size: Size) -> Step:
    """Our step, on the first pictures."""
    vocabulary, x = words_of(size), side.x[: size.pictures]
    tokens = sentences(size, vocabulary)
    pads = (tokens == vocabulary.pad).sum(dim=1)
    batch = {"x": x, "pads": None, "tokens": tokens, "token_pads": pads}

    def run() -> Done:
        return side.update(xe_step(side.model, batch, side.cfg, vocabulary).value)

    return run


def plain_xe(side: PlainSide, size: Size) -> Step:
    """The original's step, on the first pictures."""
    vocabulary, x = words_of(size), side.x[: size.pictures]
    tokens, smoothing = sentences(size, vocabulary), size.config().optim.label_smoothing

    def run() -> Done:
        return side.update(xe_loss_plain(side.model, x, tokens, pad=vocabulary.pad, smoothing=smoothing))

    return run


def cross_entropy(size: Size = XE) -> Row:
    """A step: forward pass, loss, backward pass, optimiser; without dropout both sides agree."""
    plain = replace(size, dropout=0.0)
    if not same(our_xe(OurSide(plain), plain)(), plain_xe(PlainSide(plain), plain)()):
        raise AssertionError("cross-entropy step: the results differ from the reference's")
    return compare(
        f"cross-entropy step, batch {size.pictures}, {size.words} words",
        our_xe(OurSide(size), size),
        plain_xe(PlainSide(size), size),
        alike,
        work=size.pictures,
        unit="captions",
        goal=1.0,
        note=f"{size.describe()}; equal losses and gradients without dropout",
    )


# --- self-critical ---


def forced(size: Size, vocabulary: Vocabulary) -> Iterator[Tensor]:
    """The samples of a step, word by word, (N,) each; none ends before the limit."""
    generator = torch.Generator().manual_seed(4)
    names = torch.tensor([vocabulary.id(f"w{number:05d}") for number in range(len(vocabulary) - 4)])
    count = size.pictures * size.samples
    weights = 1 / torch.arange(1, len(names) + 1)
    for _ in range(size.words):
        yield names[torch.multinomial(weights, count, replacement=True, generator=generator)]


def our_scst(side: OurSide, size: Size) -> Step:
    """Our step."""
    vocabulary = words_of(size)
    reward = Reward.from_references(captions(size, vocabulary), end=True)
    batch = {"x": side.x, "pads": None, "indices": list(range(size.pictures))}

    def run() -> Done:
        columns = forced(size, vocabulary)

        loss = scst_step(
            side.model, batch, side.cfg, vocabulary, reward, draw=lambda _, rows: next(columns)[rows]
        ).value
        return side.update(loss)

    return run


def plain_scst(side: PlainSide, size: Size) -> Step:
    """The original's step."""
    vocabulary = words_of(size)
    references = [
        [" ".join([*reward_words(raw), END]) for raw in image] for image in captions(size, vocabulary)
    ]
    frequency = document_frequency(references)

    def run() -> Done:
        columns = forced(size, vocabulary)
        loss = scst_loss_plain(
            side.model,
            side.x,
            samples=size.samples,
            max_len=size.words,
            sos=vocabulary.sos,
            eos=vocabulary.eos,
            words=vocabulary.words,
            references=references[: size.pictures],
            frequency=frequency,
            images=len(references),
            draw=lambda _: next(columns),
        )
        return side.update(loss)

    return run


def self_critical(size: Size = SCST) -> Row:
    """A step: samples, reward, loss, backward pass, optimiser."""
    return compare(
        f"self-critical step, {size.pictures} pictures x {size.samples} samples, {size.words} words",
        our_scst(OurSide(size), size),
        plain_scst(PlainSide(size), size),
        same,
        work=size.pictures,
        unit="pictures",
        goal=5.0,
        note=f"{size.describe()}; reward included, equal samples on both sides, none ends early",
    )


# --- memory ---


def peak_of(side: str, size: Size, threads: int) -> int:
    """Bytes that a cross-entropy step needs at its peak, above libraries, weights, gradients and moments.

    Args:
        side: ``ours`` or ``reference``.
        size: of the step.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    summed, small = replace(size, num_accum=2), replace(size, pictures=1, words=2)
    if side == "ours":
        ours = OurSide(summed)
        first, step = our_xe(ours, small), our_xe(ours, size)
    else:
        plain = PlainSide(summed)
        first, step = plain_xe(plain, small), plain_xe(plain, size)
    for _ in range(3):  # moments after two, and gradients again after the third
        first()
    return peak_above(step)


def memory(size: Size = XE) -> Figure:
    """Peak memory of a cross-entropy step, a fresh process a side."""
    return peak_figure(
        f"peak memory of a cross-entropy step, batch {size.pictures}, {size.words} words",
        peak_of,
        size,
        most=MEMORY_GOAL,
        note=f"{size.describe()}; resident memory of a fresh process at its peak, less what it had with "
        "libraries, weights, gradients and moments",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "train-scst": self_critical,
    "train-xe": cross_entropy,
    "train-memory": memory,
}
"""What ``bench`` measures."""
